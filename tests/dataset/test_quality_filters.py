from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from talkinghead.data.load import FaceTracks
from talkinghead.dataset.quality_filters import Filters, VideoShot, sharpness
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.tracking import FaceTrack

BASE = np.resize(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]], dtype=np.float32), (68, 2))


def face_track(
    numbers: Any, side: float = 100, left: float = 200, top: float = 200, confidence: float = 1.0
) -> FaceTrack:
    numbers = np.asarray(numbers)
    points = np.repeat((BASE * side + [left, top])[None], len(numbers), axis=0).astype(np.float32)
    return FaceTrack(numbers, points, np.full(len(numbers), confidence, dtype=np.float32))


def shot(*tracks: FaceTrack, start: int = 0, end: int = 40) -> VideoShot:
    return VideoShot(FaceTracks(Path("a.mp4"), tracks, 40, (600, 800), 25.0), start, end)


def test_shot_uses_only_its_frames() -> None:
    first, second = face_track(range(30)), face_track(range(20, 40), left=500)
    one, two = shot(first, second, end=20), shot(first, second, start=20)
    assert one.kept.numbers.tolist() == list(range(20))
    assert two.kept.numbers.tolist() == list(range(20, 40))
    assert two.kept.landmarks[0, 0].tolist() == [500, 200]
    assert one.figures() == {"first": 0, "last": 19, "seen": 20, "kept": 20, "face": 100.0, "confidence": 1.0}
    assert shot(start=5, end=9).figures() == {"first": 5, "last": 8, "seen": 0, "kept": 0}


def test_shot_skips_uncertain_frames() -> None:
    parts = [face_track(range(20)), face_track(range(20, 40), confidence=0.49)]
    mixed = FaceTrack(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("numbers", "landmarks", "confidence")
        )
    )
    assert shot(mixed).kept.numbers.tolist() == list(range(20))
    assert shot(mixed).figures()["seen"] == 40
    reason = shot(mixed).rejection_reason(Filters(min_frames=21))
    assert (
        reason
        == "shows a face in 20 of its 40 frames, and in 20 in profile, hidden or badly fitted, expected at "
        "least 21"
    )


@pytest.mark.parametrize(
    ("tracks", "reason"),
    [
        ([], "no face was found in any of its 40 frames, expected one seen from the front"),
        ([face_track(range(15))], "shows a face in 15 of its 40 frames, expected at least 16"),
        ([face_track(range(16))], ""),
        ([face_track(range(40), side=47)], "its face is 47 pixels large, expected at least 48"),
        ([face_track(range(40), side=48)], ""),
        # next to it, half as large, in more than a tenth of the frames
        (
            [face_track(range(40)), face_track(range(5), side=50, left=320)],
            "a second face is close to it in 5 of its 40 frames, expected one person",
        ),
        ([face_track(range(40)), face_track(range(4), side=50, left=320)], ""),
        ([face_track(range(40)), face_track(range(40), side=49, left=320)], ""),
        # the crop ends at 350: at its edge, and away from it
        (
            [face_track(range(40)), face_track(range(40), side=60, left=349)],
            "a second face is close to it in 40 of its 40 frames, expected one person",
        ),
        ([face_track(range(40)), face_track(range(40), side=60, left=351)], ""),
        # one person who was lost and found again elsewhere
        ([face_track(range(21)), face_track(range(21, 40), left=300)], ""),
    ],
)
def test_rejection_reason_matches_filter(tracks: list[FaceTrack], reason: str) -> None:
    assert shot(*tracks).rejection_reason(Filters()) == reason


def test_filters_reject_invalid_values() -> None:
    pair = [face_track(range(40)), face_track(range(5), side=50, left=320)]
    assert shot(*pair).rejection_reason(Filters(second_face=0.2)) == ""
    assert shot(face_track(range(3), side=9)).rejection_reason(Filters(min_frames=1, min_face=0)) == ""
    assert "expected at least 200" in shot(face_track(range(40))).rejection_reason(Filters(min_face=200))
    assert shot().rejection_reason(Filters(min_frames=0)) != ""
    for wrong in ({"min_face": -1.0}, {"second_face": float("nan")}):
        with pytest.raises(
            TalkingheadError, match=f"filter {next(iter(wrong))}: .* is no limit; give a number of 0 or more"
        ):
            Filters(**wrong)


def test_shot_convention_2_moves_its_crop_into_the_frame() -> None:
    faces = FaceTracks(Path("a.mp4"), (face_track(range(40), left=700),), 40, (600, 800), 25.0)
    assert VideoShot(faces, 0, 40).crop.x + VideoShot(faces, 0, 40).crop.side == 850
    crop = VideoShot(faces, 0, 40, 2).crop
    assert (crop.x + crop.side, crop.side, crop.convention) == (800, 200, 2)


@pytest.fixture(scope="module")
def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """Return a sharp portrait, and a face's box on it."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut(), (BASE * 100 + [172, 75]).astype(np.float32)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def test_sharpness_depends_on_blur_alone(
    astronaut: tuple[np.ndarray, np.ndarray],
) -> None:
    picture, points = astronaut
    least = Filters().min_sharpness
    sharp = sharpness(picture, points)
    assert sharp > 4 * least
    values = [sharp, *(sharpness(blurred(picture, radius), points) for radius in (1, 2, 3, 4))]
    assert values == sorted(values, reverse=True)
    assert values[3] < least  # 3% of the face's side
    dark = (picture * 0.4 + 10).astype(np.uint8)
    assert sharpness(dark, points) == pytest.approx(sharp, rel=0.1)
    large = np.array(Image.fromarray(picture).resize((1024, 1024), Image.Resampling.LANCZOS))
    assert sharpness(large, points * 2) == pytest.approx(sharp, rel=0.15)
    assert sharpness(np.full((600, 800, 3), 90, np.uint8), points) == 0


def test_crops_yield_frames_and_sharpness(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
    picture, points = astronaut
    face = FaceTrack(np.arange(40), np.repeat(points[None], 40, axis=0), np.ones(40, dtype=np.float32))
    sharpness_values: list[float] = []
    face_shot = shot(face)
    crops = list(face_shot.crops(iter([picture] * 40), 32, sharpness_values))
    assert len(crops) == 40 and crops[0].shape == (32, 32, 3)
    assert np.array_equal(crops[7], face_shot.crop.pixels(picture, 32))
    assert sharpness_values == [sharpness(picture, points)] * 16
