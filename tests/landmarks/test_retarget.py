"""Tests of retargeting with 3D faces of known proportions and motion."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from talkinghead.clip import Track
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.landmarks.retarget import LIPS, NeutralFace, neutral_face, retarget
from talkinghead.pipelines.animate import align_track

FPS, FRAMES = 25, 100
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))


@dataclass(frozen=True)
class Head:
    """Proportions of a head relative to the mean face."""

    wide: float = 1.0
    eyes: float = 1.0
    nose: float = 1.0
    mouth: float = 1.0
    deep: float = 1.0

    def shape(self) -> np.ndarray:
        shape = MEAN_FACE * [1, 1, self.deep]
        shape[:17, 0] *= self.wide
        shape[36:48, 0] *= self.eyes
        shape[27:36, 1] = shape[27, 1] + (shape[27:36, 1] - shape[27, 1]) * self.nose
        shape[48:, 0] *= self.mouth
        # lips that touch
        for upper, lower in LIPS:
            shape[[upper, lower], 1] = shape[[upper, lower], 1].mean()
        return shape


ANNA = Head(wide=0.9, eyes=1.1, nose=0.85, mouth=0.85, deep=0.85)
BOB = Head(wide=1.12, eyes=0.93, nose=1.15, mouth=1.2, deep=1.15)


def motion(frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Return the motion of a head: mouth 0..0.3, lids from 0 (shut) to 1 (open), rotations in radians."""
    time = np.arange(frames) / FPS
    lids = np.ones(frames)
    for blink in range(20, frames - 4, 40):
        lids[blink : blink + 4] = [0.4, 0, 0, 0.5]
    return {
        "mouth": 0.3 * np.clip(np.sin(2 * np.pi * 1.1 * time), 0, 1),
        "lids": lids,
        "yaw": 0.3 * np.sin(2 * np.pi * 0.3 * time),
        "pitch": 0.12 * np.sin(2 * np.pi * 0.23 * time + 1),
        "roll": 0.1 * np.sin(2 * np.pi * 0.17 * time),
    }


def make_track(head: Head, movement: dict[str, np.ndarray], size: float = 60.0, noise: float = 0.0) -> Track:
    """Return the landmarks of a head with this motion."""
    shape = head.shape()
    frames = len(movement["mouth"])
    faces = np.repeat(shape[None], frames, axis=0)
    gap = movement["mouth"][:, None] * (shape[54, 0] - shape[48, 0]) / 1.2
    faces[:, [lower for _, lower in LIPS], 1] += 0.8 * gap
    faces[:, [upper for upper, _ in LIPS], 1] -= 0.2 * gap
    faces[:, 55:60, 1] += 0.8 * gap
    faces[:, 6:11, 1] += 0.7 * gap
    for upper, lower in LIDS:
        meet = faces[:, lower, 1] - 0.3 * (faces[:, lower, 1] - faces[:, upper, 1])
        for lid in (upper, lower):
            faces[:, lid, 1] = meet + movement["lids"] * (faces[:, lid, 1] - meet)
    rotated = np.stack(
        [
            turn(*angles) @ face.T
            for *angles, face in zip(movement["yaw"], movement["pitch"], movement["roll"], faces, strict=True)
        ]
    )
    points = rotated[:, :2].transpose(0, 2, 1) * size + [300, 200]
    points += np.random.default_rng(0).normal(0, noise, points.shape)
    return Track(points, (400, 640), FPS)


def turn(yaw: float, pitch: float, roll: float) -> np.ndarray:
    def axis_rotation(first: int, second: int, angle: float) -> np.ndarray:
        rotation = np.eye(3)
        rotation[[first, second], [first, second]] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        return rotation

    return axis_rotation(0, 1, roll) @ axis_rotation(2, 0, yaw) @ axis_rotation(1, 2, pitch)


def rest_face(head: Head, side: float = 0.17) -> NeutralFace:
    """Return a person's neutral face in the person's crop."""
    return neutral_face((head.shape()[:, :2] * side + [0.5, 0.55])[None])


def distance(points: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.norm(points[:, first] - points[:, second], axis=1)


def proportions(points: np.ndarray) -> np.ndarray:
    """Return the ratios of eyes to jaw, nose to eyes, and mouth at rest to eyes: medians over the frames."""
    eyes = distance(points, 36, 45)
    calm = mouth_opening(points) <= np.percentile(mouth_opening(points), 30)
    mouth = distance(points, 48, 54) / eyes
    return np.array(
        [
            np.median(eyes / distance(points, 2, 14)),
            np.median(distance(points, 27, 33) / eyes),
            np.median(mouth[calm]),
        ]
    )


def mouth_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([distance(points, upper, lower) for upper, lower in LIPS], axis=0) / distance(
        points, 36, 45
    )


def eye_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([distance(points, upper, lower) for upper, lower in LIDS], axis=0) / distance(
        points, 36, 45
    )


def pixels(drive: Track, person: NeutralFace, driver: NeutralFace | None = None) -> np.ndarray:
    return retarget(drive, person, driver).astype(np.float64) * 256


@pytest.fixture(scope="module")
def drive() -> Track:
    return make_track(BOB, motion(), noise=0.3)


def test_retarget_keeps_proportions_of_person(drive: Track) -> None:
    # the same motion of the person gives the person's own figures under turns of the head
    own = proportions(make_track(ANNA, motion()).landmarks)
    assert np.abs(proportions(retarget(drive, rest_face(ANNA))) / own - 1).max() < 0.05
    # without retargeting they are the driver's
    assert np.abs(proportions(align_track(drive, rest_face(ANNA).points)) / own - 1).min() > 0.1


def test_mouth_and_eyes_follow_driver(drive: Track) -> None:
    result = retarget(drive, rest_face(ANNA))
    for opening in (mouth_opening, eye_opening):
        assert np.corrcoef(opening(result), opening(drive.landmarks))[0, 1] > 0.95
    # and as far: what is a third of the mouth's width with him is so with her
    widest = mouth_opening(result).max() / mouth_opening(drive.landmarks).max()
    assert widest == pytest.approx(ANNA.mouth / ANNA.eyes * BOB.eyes / BOB.mouth, rel=0.08)


def test_blink_closes_eyes_fully(drive: Track) -> None:
    shut = motion()["lids"] == 0
    own = eye_opening(rest_face(ANNA).points[None])[0]
    result = eye_opening(retarget(drive, rest_face(ANNA)))
    assert result[shut].max() < 0.05 * own
    assert np.median(result[motion()["lids"] == 1]) == pytest.approx(own, rel=0.1)


def test_never_quite_closed_eyes_close_fully() -> None:
    movement = motion()
    movement["lids"] = np.maximum(movement["lids"], 0.35)  # what dlib leaves of a closed eye
    result = eye_opening(retarget(make_track(BOB, movement), rest_face(ANNA)))
    assert result.min() < 0.05 * np.median(result)
    movement["lids"] = np.maximum(movement["lids"], 0.8)  # who only narrows the eyes does not shut them
    result = eye_opening(retarget(make_track(BOB, movement), rest_face(ANNA)))
    assert result.min() > 0.5 * np.median(result)


@pytest.mark.parametrize(
    ("scale", "degrees", "shift"),
    [
        (1.3, 0, (0, 0)),
        (0.7, 0, (0, 0)),
        (1, 20, (0, 0)),
        (1, -20, (0, 0)),
        (1, 0, (9, -6)),
        (0.85, -15, (5, 9)),
    ],
)
def test_similarity_of_driver_transforms_result(
    drive: Track, scale: float, degrees: float, shift: tuple[int, int]
) -> None:
    person, driver = rest_face(ANNA), neutral_face(drive.landmarks)
    cosine, sine = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    turned = np.array([[cosine, -sine], [sine, cosine]])
    moved = Track((drive.landmarks - driver.place) @ turned.T + driver.place + shift, drive.size, FPS)
    before, after = pixels(drive, person, driver), pixels(moved, person, driver)
    expected = (before - person.place * 256) @ turned.T + person.place * 256
    travelled = np.median(after - expected, axis=(0, 1))
    # a shift is one in the person's measure, in the same direction
    assert np.hypot(*travelled) == pytest.approx(np.hypot(*shift) * 256 * 0.17 / 60, rel=0.15, abs=0.01)
    assert travelled[0] * shift[1] - travelled[1] * shift[0] == pytest.approx(0, abs=0.1)
    inside = ((expected + travelled > 6) & (expected + travelled < 250)).all(axis=(1, 2))
    assert inside.mean() > 0.5
    assert np.abs(after - expected - travelled)[inside].max() < 1


def test_retarget_ignores_framing_and_keeps_roll(drive: Track) -> None:
    person = rest_face(ANNA)
    before = pixels(drive, person)
    assert (
        np.abs(pixels(Track(drive.landmarks * 1.3 + [70, -40], drive.size, FPS), person) - before).max()
        < 0.01
    )
    angle = np.radians(20)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = (before - person.place * 256) @ turned.T + person.place * 256
    assert np.abs(pixels(Track(drive.landmarks @ turned.T, drive.size, FPS), person) - expected).max() < 1


def test_head_turns_as_driver() -> None:
    # how deep a face is, a picture does not tell: here both are as deep as the mean face
    drive, own = (
        make_track(replace(BOB, deep=1), motion()),
        make_track(replace(ANNA, deep=1), motion()).landmarks,
    )
    result = retarget(drive, rest_face(ANNA))

    def nose(points: np.ndarray) -> np.ndarray:
        return (points[:, 30] - points[:, [36, 45]].mean(axis=1)) / distance(points, 27, 33)[:, None]

    # all of a turn to the side; of a nod what is not taken for a shorter nose
    assert np.abs(nose(result) - nose(own)).mean() < 0.06
    assert np.polyfit(nose(own)[:, 0], nose(result)[:, 0], 1)[0] == pytest.approx(1, abs=0.1)


def test_self_driving_keeps_landmarks() -> None:
    track = make_track(ANNA, motion())
    mapped = (track.landmarks - [300, 200]) / 60 * 0.17 + [0.5, 0.55]
    assert np.abs(retarget(track, rest_face(ANNA)) - mapped).mean() * 256 < 1.5


def test_neutral_face_shuts_open_mouth() -> None:
    movement = motion()
    movement["mouth"] = movement["mouth"] * 0.3 + 0.2
    open_mouthed, shut = (neutral_face(make_track(BOB, frames).landmarks) for frames in (movement, motion()))
    assert mouth_opening(shut.points[None])[0] < 0.03
    assert mouth_opening(open_mouthed.points[None])[0] < 0.05
    # the chin goes with it
    assert open_mouthed.shape[8, 1] == pytest.approx(shut.shape[8, 1], rel=0.08)


def test_lips_never_cross() -> None:
    movement = motion()
    movement["mouth"] = movement["mouth"] * 0.3 + 0.2
    movement["mouth"][:3] = 0  # too rare to be the rest
    result = retarget(make_track(BOB, movement), rest_face(ANNA))
    assert all((result[:, lower, 1] - result[:, upper, 1] > -1e-3).all() for upper, lower in LIPS)


def test_result_stays_inside_crop(drive: Track) -> None:
    walks = drive.landmarks + np.linspace(-400, 400, FRAMES)[:, None, None]
    near = (drive.landmarks - [300, 200]) * np.linspace(1, 6, FRAMES)[:, None, None] + [300, 200]
    for points in (walks, near):
        result = retarget(Track(points, drive.size, FPS), rest_face(ANNA))
        assert result.min() > 0.01 and result.max() < 0.99
        assert np.isfinite(result).all()


def test_neutral_face_is_independent_of_poses() -> None:
    track = make_track(ANNA, motion())
    pictures = neutral_face(track.landmarks[::13])
    alone = neutral_face(
        make_track(ANNA, {key: value[:1] * 0 + (key == "lids") for key, value in motion().items()}).landmarks
    )
    assert np.abs(pictures.shape - alone.shape)[:, :2].max() < 0.06 * 60
    # doubtful frames are left out when there are others
    wrong = track.landmarks.copy()
    wrong[:60] = wrong[:60] * [2, 1]
    confidence = np.where(np.arange(FRAMES) < 60, 0.3, 0.9)
    kept = neutral_face(wrong, confidence)
    assert np.abs(kept.shape - neutral_face(track.landmarks[60:]).shape).max() < 1e-9
    assert len(neutral_face(wrong, np.full(FRAMES, 0.1)).shape) == 68


@pytest.mark.parametrize("frames", [1, 2])
def test_retarget_accepts_few_frames(frames: int, drive: Track) -> None:
    result = retarget(drive[:frames], rest_face(ANNA))
    assert result.shape == (frames, 68, 2) and np.isfinite(result).all()


def test_retarget_of_profile_is_finite() -> None:
    movement = motion()
    movement["yaw"] = np.linspace(-np.pi / 2, np.pi / 2, FRAMES)
    result = retarget(make_track(BOB, movement), rest_face(ANNA))
    assert np.isfinite(result).all() and np.ptp(result, axis=1).max() < 1


def test_retarget_without_face_reports_user_error() -> None:
    for landmarks in (np.zeros((0, 68, 2)), np.ones((3, 68, 2))):
        with pytest.raises(TalkingheadError, match="there are no landmarks, or all are one point; give"):
            neutral_face(landmarks)
