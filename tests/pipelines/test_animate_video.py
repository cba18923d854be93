import dataclasses
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from conftest import RedSquare, draw_video
from support.red_square_person import red_square_person
from talkinghead import Person, animate, animate_video
from talkinghead.clip import Clip, Track
from talkinghead.data.crop import Crop
from talkinghead.data.load import read_clip, read_track
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.retarget import neutral_face
from talkinghead.landmarks.smoothing import smooth
from talkinghead.media.images import enlarge, write_image
from talkinghead.media.video import VideoReader
from talkinghead.pipelines import driver
from talkinghead.pipelines.animate import (
    MAX_SAME_PERSON_DISTANCE,
    MAX_SHAPE_DIFFERENCE,
    crop_framed_like,
    driver_is_same_person,
    driving_points,
    render_landmarks_uint8,
    shape_difference,
)
from talkinghead.pipelines.driver import DriverFrames
from talkinghead.system.progress import no_progress

FACES = [(40 + 2 * i, 30, 40) for i in range(19)]


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person()


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


# animate_video


def test_animate_video_keeps_frame_rate_and_metadata(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES, fps=Fraction(30000, 1001))
    animation = animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with av.open(str(animation.out)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(30000, 1001)
        assert "synthesised by talkinghead" in container.metadata["comment"]
    assert frames_of(animation.out).shape == (len(FACES), 64, 64, 3)
    assert (animation.frames, animation.without_face, animation.size) == (len(FACES), 0, (64, 64))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the frames that each pass over a video decodes, in order of the passes."""
    counts: list[int] = []
    read = VideoReader.__iter__

    def counting(self: VideoReader) -> Iterator[np.ndarray]:
        index = len(counts)
        counts.append(0)
        for frame in read(self):
            counts[index] += 1
            yield frame

    monkeypatch.setattr(VideoReader, "__iter__", counting)
    return counts


def test_animate_video_side_by_side_shows_three_panels(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    animation = animate_video(person, drive, tmp_path / "out.mp4", "side-by-side", red_square)
    frames = frames_of(animation.out)
    assert frames.shape == (len(FACES), 64, 192, 3)
    track = smooth(read_track(drive, red_square))
    crop = crop_framed_like(track, person.neutral_landmarks)
    points = driving_points(person, track, retargeted=animation.retargeted)
    results = list(animate(person, track, retarget="on" if animation.retargeted else "off"))
    for index, frame in enumerate(VideoReader(drive)):
        panels = (crop.pixels(frame, 64), render_landmarks_uint8(points[index], 64), results[index])
        for panel, expected in zip(np.split(frames[index], 3, axis=1), panels, strict=True):
            # h264 halves the resolution of colour, so compare brightness; each panel is nearest to what it
            # should show.
            errors = [np.abs(panel.mean(axis=2) - other.mean(axis=2)).mean() for other in panels]
            assert np.abs(panel.mean(axis=2) - expected.mean(axis=2)).mean() == min(errors) < 12


def test_animate_video_scale_enlarges_all_panels_alike(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    plain = animate_video(person, drive, tmp_path / "plain.mp4", "side-by-side", red_square)
    animation = animate_video(person, drive, tmp_path / "out.mp4", "side-by-side", red_square, scale=3)
    frames = frames_of(animation.out)
    assert animation.size == (192, 576) and frames.shape == (len(FACES), 192, 576, 3)
    track = smooth(read_track(drive, red_square))
    crop = crop_framed_like(track, person.neutral_landmarks)
    points = driving_points(person, track, retargeted=animation.retargeted)
    results = list(animate(person, track, retarget="on" if animation.retargeted else "off"))
    for index, frame in enumerate(VideoReader(drive)):
        panels = (
            crop.pixels(frame, 192),
            render_landmarks_uint8(points[index], 192),
            enlarge(results[index], 3),
        )
        for panel, expected in zip(np.split(frames[index], 3, axis=1), panels, strict=True):
            assert np.abs(panel.mean(axis=2) - expected.mean(axis=2)).mean() < 6
    smaller = frames.reshape(len(FACES), 64, 3, 192, 3, 3).mean(axis=(2, 4))
    framed_alike = np.abs(smaller - frames_of(plain.out)).mean(axis=(0, 1, 3)).reshape(3, 64).mean(axis=1)
    assert (framed_alike < 12).all(), framed_alike
    alone = animate_video(person, drive, tmp_path / "alone.mp4", detector=red_square, scale=2)
    assert alone.size == (128, 128) and frames_of(alone.out).shape[1:] == (128, 128, 3)


def test_driver_panel_is_framed_like_the_result(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    wide = [(10 + 4 * number, 30, 40) for number in range(20)]  # crosses the frame
    drive = draw_video(tmp_path / "drive.mp4", wide)
    animation = animate_video(person, drive, tmp_path / "out.mp4", "side-by-side", red_square, retarget="off")
    expected = driving_points(person, smooth(read_track(drive, red_square)), retargeted=False)
    for frame, points in zip(frames_of(animation.out), expected, strict=True):
        face = np.nonzero((frame[:, :64, 0] > 150) & (frame[:, :64, 1] < 110))
        for positions, coordinates in zip(face[::-1], 64 * points.T, strict=True):
            visible = np.clip((coordinates.min(), coordinates.max()), 0, 64)
            assert np.abs(np.array([positions.min(), positions.max() + 1]) - visible).max() <= 4


@pytest.mark.parametrize("scale", [0, 9, 2.0, True, "2"])
def test_animate_video_rejects_unknown_scale(person: Person, tmp_path: Path, scale: Any) -> None:
    with pytest.raises(TalkingheadError, match=r"^scale .*: is no factor; give a whole number from 1 to 8$"):
        animate_video(person, tmp_path / "drive.mp4", tmp_path / "out.mp4", scale=scale)


def test_animate_video_rejects_scale_of_paste_back(person: Person, tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"picture.jpg: the result has this picture's size; leave out"):
        animate_video(person, tmp_path / "drive.mp4", tmp_path / "out.mp4", paste_back="picture.jpg", scale=2)


@pytest.mark.parametrize("gap", [False, True], ids=["clear", "unclear frame"])
@pytest.mark.parametrize(("layout", "passes"), [("result", 1), ("side-by-side", 2)])
@pytest.mark.parametrize("retarget", ["auto", "off"])
def test_animate_video_decodes_driver_few_times(
    layout: str,
    passes: int,
    retarget: str,
    gap: bool,
    person: Person,
    tmp_path: Path,
    red_square: RedSquare,
    decodes: list[int],
) -> None:
    faces: list[tuple[int, int, int] | None] = [*FACES]
    if gap:  # the last frame, which is compared where all are clear
        faces[-1] = None
    drive = draw_video(tmp_path / "drive.mp4", faces)
    animate_video(person, drive, tmp_path / "out.mp4", layout, red_square, retarget=retarget)
    reread = [len(FACES) - 1] if gap and (layout, retarget) == ("result", "auto") else []
    assert decodes == [len(FACES)] * passes + reread


def test_animate_video_side_by_side_shows_every_frame(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", [*FACES[:-1], None])
    outputs = [tmp_path / "auto.mp4", tmp_path / "off.mp4"]
    for out, retarget in zip(outputs, ("auto", "off"), strict=True):
        animate_video(person, drive, out, "side-by-side", red_square, retarget=retarget)
    reread, unread = (frames_of(out)[:, :, :32].astype(int) for out in outputs)
    assert len(reread) == len(FACES)
    assert np.abs(reread - unread).max() < 40  # the encoder sees other panels beside them


def test_driver_frames_kept_equal_reread(tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    crop, video = Crop(10, 20, 50), list(VideoReader(drive))
    for numbers in (np.array([0, 4, 9, 14, 18]), np.array([1, 5, 17])):
        frames = DriverFrames(VideoReader(drive))
        for _ in frames.keeping(no_progress)(frames.reader, desc="", total=None):
            pass
        frames.show(crop, 32)
        compared = list(frames.at(numbers))
        assert len(compared) == len(numbers)
        assert all((video[i] == frame).all() for i, frame in zip(numbers, compared, strict=True))
        panels = list(frames.panels())
        assert len(panels) == len(video)
        assert all((crop.pixels(a, 32) == b).all() for a, b in zip(video, panels, strict=True))


def test_driver_frames_do_not_keep_large_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodes: list[int]
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    crop, video, numbers = Crop(10, 20, 50), list(VideoReader(drive)), np.array([1, 5, 17])
    monkeypatch.setattr(driver, "_MAX_EARLY_BYTES", 18 * 3 * 32 * 32 - 1)
    frames = DriverFrames(VideoReader(drive))
    frames.show(crop, 32)
    compared = list(frames.at(numbers))
    assert all((video[i] == frame).all() for i, frame in zip(numbers, compared, strict=True))
    panels = list(frames.panels())
    assert all((crop.pixels(a, 32) == b).all() for a, b in zip(video, panels, strict=True))
    assert decodes == [19, 18, 19]


def test_animate_video_keeps_sound(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
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
    animation = animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with av.open(str(drive)) as source, av.open(str(animation.out)) as target:
        original, kept = (
            [bytes(packet) for packet in container.demux(audio=0) if packet.size]
            for container in (source, target)
        )
    first = original.index(kept[0])  # the encoder's lead-in lies before the first frame
    assert kept == original[first : first + len(kept)]
    assert len(original) > 8 and len(kept) >= len(original) - 3


def test_animate_video_counts_frames_without_face(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    faces: list[tuple[int, int, int] | None] = [*FACES]
    faces[9] = faces[12] = faces[13] = None
    drive = draw_video(tmp_path / "drive.mp4", faces)
    for layout in ("result", "side-by-side"):
        animation = animate_video(person, drive, tmp_path / "out.mp4", layout, red_square)
        assert (animation.frames, animation.without_face) == (len(FACES), 3)
        assert len(frames_of(animation.out)) == len(FACES)


def test_animate_video_reports_times_of_gaps(person: Person, tmp_path: Path, red_square: RedSquare) -> None:
    faces: list[tuple[int, int, int] | None] = [*FACES, *FACES[:5]]
    faces[2:4] = [None] * 2  # short: interpolated and not reported
    faces[6:20] = [None] * 14
    animation = animate_video(
        person, draw_video(tmp_path / "drive.mp4", faces), tmp_path / "out.mp4", detector=red_square
    )
    assert (animation.without_face, animation.gaps) == (16, ((6 / 25, 20 / 25),))


@pytest.mark.parametrize(
    ("distance", "retargeted"),
    [
        (0.1, False),
        (MAX_SAME_PERSON_DISTANCE - 0.01, False),
        (MAX_SAME_PERSON_DISTANCE, True),
    ],
)
def test_animate_video_same_person_is_not_retargeted(
    distance: float,
    retargeted: bool,
    person: Person,
    tmp_path: Path,
    red_square: RedSquare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(rendered: np.ndarray, real: np.ndarray) -> float:
        assert rendered.shape == real.shape == (5, 64)
        return distance

    monkeypatch.setattr(sys.modules[animate.__module__], "person_distance", measured)
    monkeypatch.setattr(sys.modules[animate.__module__], "shape_difference", lambda *_: 0.05)
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    assert animate_video(person, drive, tmp_path / "out.mp4", detector=red_square).retargeted is retargeted
    assert (
        animate_video(person, drive, tmp_path / "out.mp4", detector=red_square, retarget="off").retargeted
        is False
    )
    with pytest.raises(TalkingheadError, match="retarget 'yes': is unknown; choose one of auto, on, off"):
        animate_video(person, drive, tmp_path / "out.mp4", detector=red_square, retarget="yes")


def test_driver_of_another_shape_is_retargeted_without_rendering(
    person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the harm of landmarks that are taken as they are grows with the difference of the shapes
    module = sys.modules[animate.__module__]
    monkeypatch.setattr(module, "shape_difference", lambda *_: MAX_SHAPE_DIFFERENCE)
    monkeypatch.setattr(module, "distance_to_driver", lambda *_, **__: pytest.fail("rendered"))
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    assert animate_video(person, drive, tmp_path / "out.mp4", detector=red_square).retargeted


def test_shape_difference_ignores_place_and_size_and_sees_proportions(person: Person) -> None:
    face = person.neutral_landmarks
    moved = Track(np.repeat(face[None] * 300 + [20, -7], 9, axis=0), (400, 400))
    assert shape_difference(person, moved) < 0.01
    wide = Track(moved.landmarks * [1.2, 1], (400, 400))
    assert 0.05 < shape_difference(person, wide) < 0.3


@pytest.mark.parametrize("same", [True, False])
def test_driver_is_same_person_compares_faces(
    same: bool,
    person: Person,
    carphone: Path,
    carphone_clip: Clip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a person whose pictures are the driver's own, and another person
    data = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    write_image(tmp_path / "astronaut.png", data.astronaut())
    clip = carphone_clip if same else read_clip(tmp_path / "astronaut.png", 64, "network")
    results = iter(clip.frames if same else np.repeat(clip.frames, 200, axis=0))
    monkeypatch.setattr(TorchEngine, "run", lambda self, points: np.stack([next(results) for _ in points]))
    track = read_track(carphone, open_detector("network"))
    neutral = neutral_face(clip.track.landmarks / 64).points.astype(np.float32)
    person = dataclasses.replace(person, neutral_landmarks=neutral)
    assert driver_is_same_person(person, DriverFrames(VideoReader(carphone)), track) is same


def test_animate_video_failure_leaves_no_output(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    drive = draw_video(tmp_path / "drive.mp4", [None] * 12)
    with pytest.raises(TalkingheadError, match=r"drive\.mp4: no face"):
        animate_video(person, drive, tmp_path / "out.mp4", detector=red_square)
    with pytest.raises(TalkingheadError, match="layout 'wide': is unknown"):
        animate_video(person, drive, tmp_path / "out.mp4", "wide", red_square)
    assert [path.name for path in tmp_path.iterdir()] == ["drive.mp4"]


def test_animate_video_unwritable_output_fails_before_work(person: Person, tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    searches: list[int] = []

    class CountingDetector(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            searches.append(1)
            return super().find(frames)

    with pytest.raises(TalkingheadError, match="cannot write"):
        animate_video(person, drive, drive / "out.mp4", detector=CountingDetector())
    assert not searches


@pytest.mark.parametrize("layout", ["result", "side-by-side"])
def test_animate_video_memory_does_not_grow(
    layout: str, person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchEngine, "run", lambda self, points: np.zeros((len(points), 64, 64, 3), np.uint8))
    peaks = []
    for length in (20, 20, 120):  # the first time, modules are imported
        drive = draw_video(tmp_path / "drive.mp4", [(40 + i % 20, 30, 40) for i in range(length)])
        tracemalloc.start()
        animate_video(person, drive, tmp_path / "out.mp4", layout, red_square)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The landmarks grow with the length; frames (12 KB each at this size, those of the video 58) do not.
    assert peaks[2] - peaks[1] < 100 * 11_000
