import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from conftest import RedSquare, draw_video, drawn_frame
from talkinghead import Person, Track, animate, animate_video
from talkinghead.animate import BATCH, driving_points, landmark_frame, map_track, shows
from talkinghead.checkpoint import random_model
from talkinghead.clip import Clip
from talkinghead.data.crop import Crop, crop_around
from talkinghead.data.read import read_clip, read_track
from talkinghead.engines.eager import EagerEngine
from talkinghead.errors import TalkingheadError
from talkinghead.identity import SAME_PERSON
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.face import Face
from talkinghead.landmarks.smooth import smooth
from talkinghead.media.pictures import write_picture
from talkinghead.media.video import VideoReader

FACES = [(40 + 2 * i, 30, 40) for i in range(19)]


def face(seed: int = 0, frames: int = 9) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = random.uniform(0.2, 0.8, (68, 2))
    return (shape + random.normal(0, 0.02, (frames, 68, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def person() -> Person:
    model = random_model("tiny", seed=1)
    with torch.no_grad():
        styles = model.generator.project(torch.zeros(1, model.config.networks.embedding))
    reference = RedSquare()(drawn_frame((64, 64), (20, 20, 24)))
    assert reference is not None
    return Person(model.config, model.generator, styles, reference / 64, "", feed_forward=True)


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


# map_track


def test_driver_lands_on_the_reference() -> None:
    track, reference = Track(face(1) * 500 + 70, (720, 1280)), face(2)[0]
    mapped = np.median(map_track(track, reference).astype(np.float64), axis=0)
    np.testing.assert_allclose(mapped.mean(axis=0), reference.mean(axis=0), atol=1e-5)
    size, wanted = (np.sqrt(((p - p.mean(axis=0)) ** 2).sum(axis=1).mean()) for p in (mapped, reference))
    assert size == pytest.approx(wanted, rel=1e-5)


def test_where_the_driver_sits_in_his_frame_does_not_matter() -> None:
    points, reference = face(1), face(2)[0]
    near = map_track(Track(points * 400 + [10, 20], (480, 640)), reference)
    far = map_track(Track(points * 90 + [300, 250], (480, 640)), reference)
    np.testing.assert_allclose(near, far, atol=1e-4)


def test_movement_stays() -> None:
    points, reference = face(1), face(2)[0]
    moved = points.copy()
    moved[3] += [0.1, -0.05]  # one frame of nine: the median hardly notices
    turned = points.copy()
    turned[4] = (turned[4] - 0.5) @ np.array([[0, 1], [-1, 0]]) + 0.5
    scale = np.ptp(map_track(Track(points * 100, (100, 100)), reference)[0, :, 0]) / np.ptp(points[0, :, 0])
    before, after = (map_track(Track(p * 100, (100, 100)), reference) for p in (points, moved))
    np.testing.assert_allclose((after - before)[3].mean(axis=0), np.array([0.1, -0.05]) * scale, atol=0.02)
    upright, lying = (map_track(Track(p * 100, (100, 100)), reference)[4] for p in (points, turned))
    assert np.abs(upright - lying).max() > 0.1  # a turn of the head is not taken away


def test_own_crop_is_plain_coordinates() -> None:
    track = Track(face(1) * 100, (100, 100))
    np.testing.assert_allclose(map_track(track, face(2)[0], Crop(10, 20, 50)), (track.landmarks - [10, 20]) / 50, rtol=1e-5)


def test_driving_points_keep_the_persons_proportions_unless_told_otherwise(person: Person) -> None:
    track = Track(face(3) * 300, (300, 300))
    plain, own = map_track(track, person.reference), map_track(track, person.reference, Crop(10, 20, 50))
    assert np.array_equal(driving_points(person, track, retarget=False), plain)
    assert np.array_equal(driving_points(person, track, Crop(10, 20, 50)), own)
    assert np.abs(driving_points(person, track) - plain).max() > 0.05


def test_nothing_to_drive_with() -> None:
    with pytest.raises(TalkingheadError, match="no frames"):
        map_track(Track(np.zeros((0, 68, 2)), (10, 10)), face()[0])
    with pytest.raises(TalkingheadError, match="one point"):
        map_track(Track(np.ones((3, 68, 2)), (10, 10)), face()[0])


def test_frames_without_a_face_are_driven_by_what_lies_between() -> None:
    points = face(1, frames=6) * 100
    points[2] = (points[1] + points[3]) / 2
    mapped = map_track(Track(points, (100, 100), 25, np.array([1, 1, 0, 1, 0.2, 1])), face(2)[0])
    assert mapped.shape == (6, 68, 2)
    np.testing.assert_allclose(mapped[2], (mapped[1] + mapped[3]) / 2, atol=1e-5)


# animate


def test_one_frame_for_each_of_the_track_in_batches(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    run = EagerEngine.run

    def counting(self: EagerEngine, points: np.ndarray) -> np.ndarray:
        batches.append(len(points))
        return run(self, points)

    monkeypatch.setattr(EagerEngine, "run", counting)
    track = Track(face(3, frames=2 * BATCH + 3) * 300, (300, 300))
    frames = list(animate(person, track, precision="fp32"))
    assert batches == [BATCH, BATCH, 3]
    assert len(frames) == len(track)
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    alone = run(EagerEngine(person), driving_points(person, track)[BATCH : BATCH + 1])[0]
    assert np.abs(frames[BATCH].astype(int) - alone).max() <= 1  # in its place, whatever its batch


def test_landmark_frame_is_what_the_generator_is_shown() -> None:
    points = np.full((68, 2), 0.5, np.float32)
    points[:17] = np.linspace([0.1, 0.5], [0.9, 0.5], 17)  # a jaw straight across
    picture = landmark_frame(points, 64)
    assert picture[32, 10].tolist() == [255, 255, 255]
    assert picture[5, 10].tolist() == [0, 0, 0]


# animate_video


def test_result_keeps_frame_rate_and_says_what_it_is(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES, fps=Fraction(30000, 1001))
    made = animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with av.open(str(made.out)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert "synthesised by talkinghead" in container.metadata["comment"]
    assert frames_of(made.out).shape == (len(FACES), 64, 64, 3)
    assert (made.frames, made.without_face, made.size) == (len(FACES), 0, (64, 64))


def test_side_by_side_shows_driver_landmarks_result(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    made = animate_video(person, drive, tmp_path / "out.mp4", "side-by-side", red_square)
    frames = frames_of(made.out)
    assert frames.shape == (len(FACES), 64, 192, 3)
    track = smooth(read_track(drive, red_square))
    crop = crop_around(track.landmarks)
    points = driving_points(person, track, retarget=made.retargeted)
    results = list(animate(person, track, retarget=made.retargeted))
    for index, frame in enumerate(VideoReader(drive)):
        panels = (crop.pixels(frame, 64), landmark_frame(points[index], 64), results[index])
        for panel, wanted in zip(np.split(frames[index], 3, axis=1), panels, strict=True):
            # h264 halves the resolution of colour, hence brightness; each panel is much nearer to what it should be than to any other
            errors = [np.abs(panel.mean(axis=2) - other.mean(axis=2)).mean() for other in panels]
            assert np.abs(panel.mean(axis=2) - wanted.mean(axis=2)).mean() == min(errors) < 12


def test_driver_frames_are_read_again_only_to_be_shown(
    person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    passes: list[Path] = []
    read = VideoReader.__iter__

    def counting(self: VideoReader) -> Iterator[np.ndarray]:
        passes.append(self.path)
        return read(self)

    monkeypatch.setattr(VideoReader, "__iter__", counting)
    animate_video(person, drive, tmp_path / "out.mp4", "result", red_square, retarget="off")
    assert len(passes) == 1
    animate_video(person, drive, tmp_path / "out.mp4", "side-by-side", red_square, retarget="off")
    assert len(passes) == 3
    animate_video(person, drive, tmp_path / "out.mp4", "result", red_square)  # its beginning, for whom it shows
    assert len(passes) == 5


def test_sound_is_kept(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    silent, drive = draw_video(tmp_path / "silent.mp4", FACES), tmp_path / "drive.mp4"
    with av.open(str(silent)) as source, av.open(str(drive), "w") as target:
        picture = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                target.mux(packet)
        tone = (np.sin(np.arange(12000) * 0.2) * 9000).astype(np.int16)
        for start in range(0, len(tone), 1000):
            piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1000], format="s16", layout="mono")
            piece.sample_rate, piece.pts = 16000, start
            target.mux(sound.encode(piece))
        target.mux(sound.encode(None))
    made = animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with av.open(str(drive)) as source, av.open(str(made.out)) as target:
        given, kept = ([bytes(packet) for packet in c.demux(audio=0) if packet.size] for c in (source, target))
    first = given.index(kept[0])  # the encoder's lead-in lies before the first frame
    assert kept == given[first : first + len(kept)]
    assert len(given) > 8 and len(kept) >= len(given) - 3


def test_gaps_are_counted_and_keep_time(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    faces: list[tuple[int, int, int] | None] = [*FACES]
    faces[9] = faces[12] = faces[13] = None
    drive = draw_video(tmp_path / "drive.mp4", faces)
    for layout in ("result", "side-by-side"):
        made = animate_video(person, drive, tmp_path / "out.mp4", layout, red_square)
        assert (made.frames, made.without_face) == (len(FACES), 3)
        assert len(frames_of(made.out)) == len(FACES)


def test_long_gaps_are_told_by_time(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    faces: list[tuple[int, int, int] | None] = [*FACES, *FACES[:5]]
    faces[2:4] = [None] * 2  # short: interpolated and not worth a word
    faces[6:20] = [None] * 14
    made = animate_video(person, draw_video(tmp_path / "drive.mp4", faces), tmp_path / "out.mp4", detector=red_square)
    assert (made.without_face, made.gaps) == (16, ((6 / 25, 20 / 25),))


@pytest.mark.parametrize(
    ("distance", "retargeted"), [(0.2, False), (SAME_PERSON - 0.01, False), (SAME_PERSON, True), (float("nan"), True), (None, True)]
)
def test_who_drives_himself_is_not_retargeted(
    distance: float | None, retargeted: bool, person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(frames: np.ndarray, truth: np.ndarray) -> float:
        assert frames.shape == truth.shape == (5, 64, 64, 3)
        if distance is None:
            raise TalkingheadError("dlib is needed here")
        return distance

    monkeypatch.setattr(sys.modules[animate_video.__module__], "identity_distance", measured)
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    assert animate_video(person, drive, tmp_path / "out.mp4", detector=red_square).retargeted is retargeted
    assert animate_video(person, drive, tmp_path / "out.mp4", detector=red_square, retarget="off").retargeted is False
    with pytest.raises(TalkingheadError, match="retarget 'on': unknown, one of auto, off was expected"):
        animate_video(person, drive, tmp_path / "out.mp4", detector=red_square, retarget="on")


@pytest.mark.parametrize("same", [True, False])
def test_faces_tell_who_drives_himself(
    same: bool, person: Person, carphone: Path, carphone_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dlib's descriptors: a person whose pictures are the driver's own, and one who is somebody else."""
    data = pytest.importorskip("skimage.data")
    write_picture(tmp_path / "astronaut.png", data.astronaut())
    other = read_clip(tmp_path / "astronaut.png", 64).frames
    shown = iter(carphone_clip.frames if same else np.repeat(other, 200, axis=0))
    monkeypatch.setattr(EagerEngine, "run", lambda self, points: np.stack([next(shown) for _ in points]))
    track = read_track(carphone, open_detector("dlib"))
    assert shows(person, VideoReader(carphone), track) is same


def test_the_crop_that_is_shown_is_around_the_frames_with_a_face(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces: list[tuple[int, int, int] | None] = [(40, 30, 40)] * 20
    faces[5] = None
    given: list[np.ndarray] = []

    def watched(landmarks: np.ndarray, *rest: Any) -> Crop:
        given.append(landmarks)
        return crop_around(landmarks, *rest)

    monkeypatch.setattr(sys.modules[animate_video.__module__], "crop_around", watched)
    animate_video(person, draw_video(tmp_path / "drive.mp4", faces), tmp_path / "out.mp4", "side-by-side", RedSquare(), retarget="off")
    assert [len(landmarks) for landmarks in given] == [19]


def test_a_failure_leaves_no_output(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "drive.mp4", [None] * 12)
    with pytest.raises(TalkingheadError, match=r"drive\.mp4: no face"):
        animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with pytest.raises(TalkingheadError, match="layout 'wide': unknown"):
        animate_video(person, drive, tmp_path / "out.mp4", "wide", red_square)
    assert [path.name for path in tmp_path.iterdir()] == ["drive.mp4"]


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(person: Person, tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    looked: list[int] = []

    class Looking(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            looked.append(1)
            return super().find(frames)

    with pytest.raises(TalkingheadError, match="cannot write"):
        animate_video(person, drive, drive / "out.mp4", detector=Looking())
    assert not looked


@pytest.mark.parametrize("layout", ["result", "side-by-side"])
def test_memory_does_not_grow_with_length(
    layout: str, person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EagerEngine, "run", lambda self, points: np.zeros((len(points), 64, 64, 3), np.uint8))
    peaks = []
    for length in (20, 20, 120):  # the first time, modules are imported
        drive = draw_video(tmp_path / "drive.mp4", [(40 + i % 20, 30, 40) for i in range(length)])
        tracemalloc.start()
        animate_video(person, drive, tmp_path / "out.mp4", layout, red_square)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # landmarks and what is made of them grow, pictures (12 KB each at this size, those of the video 58) do not
    assert peaks[2] - peaks[1] < 100 * 11_000
