import numpy as np
import pytest

from support.red_square_person import red_square_person
from talkinghead import Clip, Person, Track, animate
from talkinghead.data.crop import Crop
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.pipelines.animate import (
    BATCH,
    align_track,
    driving_points,
    render_landmarks_uint8,
)
from talkinghead.pipelines.driver import DriverFrames


def face(seed: int = 0, frames: int = 9) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = random.uniform(0.2, 0.8, (68, 2))
    return (shape + random.normal(0, 0.02, (frames, 68, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person()


# align_track


def test_align_track_matches_reference() -> None:
    track, reference = Track(face(1) * 500 + 70, (720, 1280)), face(2)[0]
    mapped = np.median(align_track(track, reference).astype(np.float64), axis=0)
    np.testing.assert_allclose(mapped.mean(axis=0), reference.mean(axis=0), atol=1e-5)
    size, expected = (np.sqrt(((p - p.mean(axis=0)) ** 2).sum(axis=1).mean()) for p in (mapped, reference))
    assert size == pytest.approx(expected, rel=1e-5)


def test_align_track_ignores_place_in_frame() -> None:
    points, reference = face(1), face(2)[0]
    near = align_track(Track(points * 400 + [10, 20], (480, 640)), reference)
    far = align_track(Track(points * 90 + [300, 250], (480, 640)), reference)
    np.testing.assert_allclose(near, far, atol=1e-4)


def test_align_track_keeps_movement() -> None:
    points, reference = face(1), face(2)[0]
    moved = points.copy()
    moved[3] += [0.1, -0.05]  # one frame of nine: the median hardly notices
    turned = points.copy()
    turned[4] = (turned[4] - 0.5) @ np.array([[0, 1], [-1, 0]]) + 0.5
    scale = np.ptp(align_track(Track(points * 100, (100, 100)), reference)[0, :, 0]) / np.ptp(points[0, :, 0])
    before, after = (align_track(Track(p * 100, (100, 100)), reference) for p in (points, moved))
    np.testing.assert_allclose((after - before)[3].mean(axis=0), np.array([0.1, -0.05]) * scale, atol=0.02)
    upright, lying = (align_track(Track(p * 100, (100, 100)), reference)[4] for p in (points, turned))
    assert np.abs(upright - lying).max() > 0.1  # a turn of the head is not taken away


def test_align_track_with_crop_is_plain_coordinates() -> None:
    track = Track(face(1) * 100, (100, 100))
    np.testing.assert_allclose(
        align_track(track, face(2)[0], Crop(10, 20, 50)), (track.landmarks - [10, 20]) / 50, rtol=1e-5
    )


def test_driving_points_retarget_unless_off_or_crop(person: Person) -> None:
    track = Track(face(3) * 300, (300, 300))
    plain, own = (
        align_track(track, person.neutral_landmarks),
        align_track(track, person.neutral_landmarks, Crop(10, 20, 50)),
    )
    assert np.array_equal(driving_points(person, track, retargeted=False), plain)
    assert np.array_equal(driving_points(person, track, Crop(10, 20, 50)), own)
    assert np.abs(driving_points(person, track) - plain).max() > 0.05


def test_align_track_without_face_reports_user_error() -> None:
    with pytest.raises(TalkingheadError, match="no frames"):
        align_track(Track(np.zeros((0, 68, 2)), (10, 10)), face()[0])
    with pytest.raises(TalkingheadError, match="one point"):
        align_track(Track(np.ones((3, 68, 2)), (10, 10)), face()[0])


def test_align_track_keeps_interpolated_frames() -> None:
    points = face(1, frames=6) * 100
    points[2] = (points[1] + points[3]) / 2
    mapped = align_track(Track(points, (100, 100), 25, np.array([1, 1, 0, 1, 0.2, 1])), face(2)[0])
    assert mapped.shape == (6, 68, 2)
    np.testing.assert_allclose(mapped[2], (mapped[1] + mapped[3]) / 2, atol=1e-5)


# animate


def test_animate_yields_frames_in_batches(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    run = TorchEngine.run

    def counting(self: TorchEngine, points: np.ndarray) -> np.ndarray:
        batches.append(len(points))
        return run(self, points)

    monkeypatch.setattr(TorchEngine, "run", counting)
    track = Track(face(3, frames=2 * BATCH + 3) * 300, (300, 300))
    frames = list(animate(person, track, precision="fp32"))
    assert batches == [BATCH, BATCH, 3]
    assert len(frames) == len(track)
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    alone = run(TorchEngine(person), driving_points(person, track)[BATCH : BATCH + 1])[0]
    assert np.abs(frames[BATCH].astype(int) - alone).max() <= 1  # in its place, whatever its batch


def test_render_landmarks_uint8_draws_white_jaw() -> None:
    points = np.full((68, 2), 0.5, np.float32)
    points[:17] = np.linspace([0.1, 0.5], [0.9, 0.5], 17)  # a jaw straight across
    picture = render_landmarks_uint8(points, 64)
    assert picture[32, 10].tolist() == [255, 255, 255]
    assert picture[5, 10].tolist() == [0, 0, 0]


@pytest.mark.parametrize("same", [True, False])
def test_auto_takes_landmarks_as_they_are_where_frames_show_the_person(
    people: dict[str, Person], carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    person, clip = people["feed-forward"], carphone_clip[:3]
    compared: list[int] = []

    def decide(person: Person, frames: DriverFrames, track: Track, **_: object) -> bool:
        compared.append(len(list(frames.at(frames.choose(track)))))
        return same

    monkeypatch.setattr("talkinghead.pipelines.animate.driver_is_same_person", decide)
    expected = list(animate(person, clip, retarget="off" if same else "on"))
    assert np.array_equal(np.stack(list(animate(person, clip))), np.stack(expected))
    assert len(compared) == 1 and compared[0] >= 1
    list(animate(person, clip.track))  # without frames there is nothing to compare
    assert len(compared) == 1


@pytest.mark.parametrize("retarget", ["on", "off", "auto"])
def test_points_of_person_are_those_that_animate_renders(person: Person, retarget: str) -> None:
    track = Track(face(3) * 300, (300, 300))
    points = person.points(track, retarget=retarget)
    assert points.shape == (9, 68, 2) and points.dtype == np.float32
    engine = TorchEngine(person, "cpu", "fp32", BATCH)
    frames = [frame for start in (0, BATCH) for frame in engine.run(points[start : start + BATCH])]
    assert np.array_equal(frames, list(animate(person, track, retarget=retarget, precision="fp32")))
    assert np.array_equal(points, driving_points(person, track, retargeted=retarget != "off"))


def test_points_of_person_with_unknown_retarget_reports_user_error(person: Person) -> None:
    with pytest.raises(TalkingheadError, match="retarget 'of': is unknown; choose one of"):
        person.points(Track(face(3) * 300, (300, 300)), retarget="of")
