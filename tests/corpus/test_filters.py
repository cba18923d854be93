from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from talkinghead.corpus.filters import Filters, Shot, sharpness
from talkinghead.data.read import Faces
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.follow import Chain

BASE = np.resize(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]], dtype=np.float32), (68, 2))


def chain(numbers: Any, side: float = 100, left: float = 200, top: float = 200, confidence: float = 1.0) -> Chain:
    numbers = np.asarray(numbers)
    points = np.repeat((BASE * side + [left, top])[None], len(numbers), axis=0).astype(np.float32)
    return Chain(numbers, points, np.full(len(numbers), confidence, dtype=np.float32))


def shot(*chains: Chain, start: int = 0, end: int = 40) -> Shot:
    return Shot(Faces(Path("a.mp4"), chains, 40, (600, 800), 25.0), start, end)


def test_a_shot_is_judged_by_its_own_frames() -> None:
    first, second = chain(range(30)), chain(range(20, 40), left=500)
    one, two = shot(first, second, end=20), shot(first, second, start=20)
    assert one.kept.numbers.tolist() == list(range(20))
    assert two.kept.numbers.tolist() == list(range(20, 40))
    assert two.kept.landmarks[0, 0].tolist() == [500, 200]
    assert one.figures() == {"first": 0, "last": 19, "seen": 20, "kept": 20, "face": 100.0, "confidence": 1.0}
    assert shot(start=5, end=9).figures() == {"first": 5, "last": 8, "seen": 0, "kept": 0}


def test_doubtful_frames_are_not_learned_from() -> None:
    parts = [chain(range(20)), chain(range(20, 40), confidence=0.49)]
    mixed = Chain(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("numbers", "landmarks", "confidence")))
    assert shot(mixed).kept.numbers.tolist() == list(range(20))
    assert shot(mixed).figures()["seen"] == 40
    reason = shot(mixed).reason(Filters(min_frames=21))
    assert reason == "shows a face in 20 of its 40 frames, and in 20 in profile, hidden or badly fitted, expected at least 21"


@pytest.mark.parametrize(
    ("chains", "reason"),
    [
        ([], "no face was found in any of its 40 frames, expected one seen from the front"),
        ([chain(range(15))], "shows a face in 15 of its 40 frames, expected at least 16"),
        ([chain(range(16))], ""),
        ([chain(range(40), side=47)], "its face is 47 pixels large, expected at least 48"),
        ([chain(range(40), side=48)], ""),
        # beside it, half as large, in more than a tenth of the frames
        ([chain(range(40)), chain(range(5), side=50, left=320)], "a second face is beside it in 5 of its 40 frames, expected one person"),
        ([chain(range(40)), chain(range(4), side=50, left=320)], ""),
        ([chain(range(40)), chain(range(40), side=49, left=320)], ""),
        # the crop ends at 350: at its edge, and away from it
        ([chain(range(40)), chain(range(40), side=60, left=349)], "a second face is beside it in 40 of its 40 frames, expected one person"),
        ([chain(range(40)), chain(range(40), side=60, left=351)], ""),
        # one person who was lost and found again elsewhere
        ([chain(range(21)), chain(range(21, 40), left=300)], ""),
    ],
)
def test_why_a_shot_is_not_taken(chains: list[Chain], reason: str) -> None:
    assert shot(*chains).reason(Filters()) == reason


def test_filters_can_be_set() -> None:
    beside = [chain(range(40)), chain(range(5), side=50, left=320)]
    assert shot(*beside).reason(Filters(second_face=0.2)) == ""
    assert shot(chain(range(3), side=9)).reason(Filters(min_frames=1, min_face=0)) == ""
    assert "expected at least 200" in shot(chain(range(40))).reason(Filters(min_face=200))
    assert shot().reason(Filters(min_frames=0)) != ""
    for wrong in ({"min_face": -1.0}, {"second_face": float("nan")}):
        with pytest.raises(TalkingheadError, match=f"filter {next(iter(wrong))}: a number of 0 or more was expected"):
            Filters(**wrong)


def test_shot_convention_2_moves_its_crop_into_the_frame() -> None:
    faces = Faces(Path("a.mp4"), (chain(range(40), left=700),), 40, (600, 800), 25.0)
    assert Shot(faces, 0, 40).crop.x + Shot(faces, 0, 40).crop.side == 850
    crop = Shot(faces, 0, 40, 2).crop
    assert (crop.x + crop.side, crop.side, crop.convention) == (800, 200, 2)


@pytest.fixture(scope="module")
def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """A sharp portrait, and a face's box on it."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut(), (BASE * 100 + [172, 75]).astype(np.float32)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def test_sharpness_falls_with_blur_and_not_with_light_or_size(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
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


def test_pictures_are_crops_and_their_sharpness_is_noted(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
    picture, points = astronaut
    face = Chain(np.arange(40), np.repeat(points[None], 40, axis=0), np.ones(40, dtype=np.float32))
    looks: list[float] = []
    it = shot(face)
    pictures = list(it.pictures(iter([picture] * 40), 32, looks))
    assert len(pictures) == 40 and pictures[0].shape == (32, 32, 3)
    assert np.array_equal(pictures[7], it.crop.pixels(picture, 32))
    assert looks == [sharpness(picture, points)] * 16
