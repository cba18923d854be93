"""The detector of our own networks: its logic with stand-ins, and the shipped networks on real pictures."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detection_network import CELLS, DetectionOutput
from talkinghead.landmarks.detector import find_faces, follow_face
from talkinghead.landmarks.face_finder import FaceFinder, _tiles
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.landmarks.network import CROP_SIDE, KIND, LandmarkNetwork
from talkinghead.landmarks.network_blocks import save_network
from talkinghead.landmarks.network_detector import NetworkDetector
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.oriented_crop import OrientedCrop, crop_of_landmarks
from talkinghead.media.video import VideoReader

NEAR = (MEAN_FACE[:, :2] * 40 + [150, 120]).astype(np.float32)
FRAME = np.zeros((240, 320, 3), np.uint8)


@pytest.fixture(scope="module")
def detector() -> NetworkDetector:
    """Open the shipped networks."""
    return NetworkDetector()


@pytest.fixture(scope="module")
def skimage_data() -> ModuleType:
    """Import scikit-image's pictures; skip without them."""
    return pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")


@pytest.fixture(scope="module")
def astronaut(skimage_data: ModuleType) -> np.ndarray:
    """Return a woman with a helmet, uint8 [512, 512, 3]."""
    return skimage_data.astronaut()


class FakeNetwork:
    """Stand-in for the landmark network: the face lies moved in its crop, as sure as it is told."""

    def __init__(self, move: tuple[float, float] = (0.0, 0.0), presence: float = 6.0) -> None:
        self.move, self.presence, self.batches = move, presence, []

    def __call__(self, pictures: torch.Tensor) -> np.ndarray:
        self.batches.append(len(pictures))
        rows = np.zeros((len(pictures), 79, 3), np.float32)
        rows[:, :68, :2] = MEAN_FACE[:, :2] / CROP_SIDE + 0.5 + self.move
        rows[:, 68:78, :2] = 0.5
        rows[:, :, 2] = -5.0
        rows[:, 78, 0] = self.presence
        return rows


def with_network(monkeypatch: pytest.MonkeyPatch, detector: NetworkDetector, network: FakeNetwork) -> None:
    monkeypatch.setattr(detector, "_run_network", network)


def test_followed_faces_run_in_one_batch(detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    network = FakeNetwork()
    with_network(monkeypatch, detector, network)
    faces = detector.follow([FRAME] * 20, NEAR)
    assert len(faces) == 20
    assert network.batches == [16, 4]
    np.testing.assert_allclose(faces[0].landmarks, NEAR, atol=0.3)


def test_moved_face_is_fitted_in_a_crop_of_its_own(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FakeNetwork(move=(0.1, 0.0))
    with_network(monkeypatch, detector, network)
    (face,) = detector.follow([FRAME], NEAR)
    assert network.batches == [1, 1]
    # moved by a tenth of the crop's side in each of two fits
    side = crop_of_landmarks(NEAR, CROP_SIDE).side
    assert face.landmarks.mean(axis=0)[0] == pytest.approx(NEAR.mean(axis=0)[0] + 0.2 * side, abs=0.5)


def test_following_stops_where_no_face_is_present(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_network(monkeypatch, detector, FakeNetwork(presence=-3.0))
    assert detector.follow([FRAME] * 3, NEAR) == []


def test_confidence_is_high_for_sure_points_alone(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_network(monkeypatch, detector, FakeNetwork())
    assert detector.follow([FRAME], NEAR)[0].confidence > 0.95
    unsure = FakeNetwork()
    original = unsure.__call__
    with_network(monkeypatch, detector, lambda pictures: original(pictures) * [1, 1, 0.7])  # type: ignore[arg-type]
    assert detector.follow([FRAME], NEAR)[0].confidence < 0.5


def test_expected_error_and_pose_are_those_of_the_face(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_network(monkeypatch, detector, FakeNetwork())
    (face,) = detector.follow([FRAME], NEAR)
    assert face.expected_error is not None
    side = crop_of_landmarks(NEAR, CROP_SIDE).side
    np.testing.assert_allclose(face.expected_error, np.full(68, np.exp(-5.0) * side), rtol=1e-4)
    assert face.pose == pytest.approx((0, 0, 0), abs=0.5)


def test_covered_points_have_larger_expected_errors(detector: NetworkDetector, astronaut: np.ndarray) -> None:
    (face, *_) = find_faces(detector, [astronaut])[0]
    covered = astronaut.copy()
    x, y = face.landmarks[48:68].mean(axis=0).astype(int)
    covered[y - 18 : y + 22, x - 30 : x + 30] = (90, 60, 40)
    (hidden,) = follow_face(detector, [covered], face.landmarks)
    assert hidden.expected_error is not None
    assert face.expected_error is not None
    ratio = hidden.expected_error / face.expected_error
    assert np.median(ratio[48:68]) > max(1.3, np.median(ratio[36:48]))


def finder_that_sees(
    monkeypatch: pytest.MonkeyPatch, faces: list[tuple[float, float, float, float, float]], frames: list[int]
) -> FaceFinder:
    """Return a finder whose network sees (x, y, radius, roll, probability) in each picture."""
    finder = FaceFinder()

    def network(pictures: torch.Tensor) -> DetectionOutput:
        frames.append(len(pictures))
        count = CELLS * CELLS
        logits = torch.full((len(pictures), count), -9.0)
        centres, radii = torch.zeros(len(pictures), count, 2), torch.zeros(len(pictures), count)
        rolls = torch.zeros(len(pictures), count, 2)
        for index, (x, y, radius, roll, probability) in enumerate(faces):
            logits[:, index] = torch.logit(torch.tensor(probability))
            centres[:, index] = torch.tensor([x, y])
            radii[:, index] = np.log(radius)
            rolls[:, index] = torch.tensor([np.cos(roll), np.sin(roll)])
        return DetectionOutput(logits, centres, radii, rolls)

    monkeypatch.setattr(finder, "_network", network)
    return finder


def test_finder_places_faces_in_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = finder_that_sees(monkeypatch, [(0.25, 0.5, 0.05, 0.3, 0.9)], [])
    (crop,) = finder.find(FRAME, 4.0)
    # the picture shows a square of 320 pixels whose upper and lower eighth lie beyond the frame
    assert (crop.x, crop.y) == (pytest.approx(80), pytest.approx(120))
    assert (crop.side, crop.angle) == (pytest.approx(64), pytest.approx(0.3))


def test_finder_keeps_one_of_two_near_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {0.25: 0.8, 0.27: 0.9, 0.6: 0.7, 0.9: 0.2}
    seen = [(x, 0.5, 0.05, 0.0, probability) for x, probability in places.items()]
    crops = finder_that_sees(monkeypatch, seen, []).find(FRAME, 4.0)
    assert [round(crop.x / 320, 2) for crop in crops] == [0.27, 0.6]


def test_parts_of_large_frames_alone_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[int] = []
    finder = finder_that_sees(monkeypatch, [(0.5, 0.5, 0.05, 0.0, 0.9)], frames)
    crops = finder.find_small(np.zeros((480, 640, 3), np.uint8), 4.0)
    tiles = _tiles(640, 480)
    assert frames == [len(tiles)]
    np.testing.assert_allclose([[crop.x, crop.y] for crop in crops], [[tile.x, tile.y] for tile in tiles])
    assert finder.find_small(np.zeros((200, 200, 3), np.uint8), 4.0) == []
    assert frames == [len(tiles)]


@pytest.mark.parametrize(("side", "searched"), [(30.0, True), (130.0, False)])
def test_small_faces_are_searched_without_a_large_one(
    detector: NetworkDetector, monkeypatch: pytest.MonkeyPatch, side: float, searched: bool
) -> None:
    calls: list[int] = []
    with_network(monkeypatch, detector, FakeNetwork())
    crop = OrientedCrop(320, 240, side * 2)
    monkeypatch.setattr(detector._finder, "find", lambda frame, _: [crop])
    monkeypatch.setattr(detector._finder, "find_small", lambda frame, _: calls.append(1) or [crop])
    (faces,) = detector.find([np.zeros((480, 640, 3), np.uint8)])
    assert bool(calls) is searched
    assert len(faces) == 1  # whether one crop or both show it


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 1000), (3000, 200), (321, 320)])
def test_tiles_cover_the_frame(size: tuple[int, int]) -> None:
    tiles = _tiles(*size)
    random = np.random.default_rng(0)
    for point in random.uniform(0, 1, (200, 2)) * size:
        distances = [max(abs(point[0] - tile.x), abs(point[1] - tile.y)) / tile.side for tile in tiles]
        assert min(distances) <= 0.5


def test_detector_reaches_other_processes(detector: NetworkDetector, astronaut: np.ndarray) -> None:
    copied = pickle.loads(pickle.dumps(detector))
    crop = OrientedCrop(225.0, 120.0, 200.0)
    face, same = (opened._run([astronaut], [crop])[0] for opened in (detector, copied))
    np.testing.assert_array_equal(face.landmarks, same.landmarks)


def test_missing_weights_report_user_error(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"gone\.safetensors: cannot be read as a landmark network"):
        open_detector(str(tmp_path / "gone.safetensors"))


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("size", [512, 256, 128])
def test_astronaut_is_found_at_every_size(
    detector: NetworkDetector, size: int, astronaut: np.ndarray
) -> None:
    (face,) = find_faces(detector, [resized(astronaut, size)])[0]
    eyes = [face.landmarks[part].mean(axis=0) * 512 / size for part in (slice(36, 42), slice(42, 48))]
    np.testing.assert_allclose(eyes, [[204, 102], [247, 104]], atol=4)
    assert face.irises is not None
    np.testing.assert_allclose(face.irises[:, 0] * 512 / size, [[204, 101], [247, 103]], atol=4)


def test_thirty_faces_are_found(detector: NetworkDetector, astronaut: np.ndarray) -> None:
    face = resized(astronaut[:230, 110:340], 160)
    frame = np.full((1080, 1920, 3), 90, np.uint8)
    corners = [(x, y) for x in range(60, 1900, 310) for y in range(20, 1000, 215)]
    for x, y in corners:
        frame[y : y + 160, x : x + 160] = face
    (faces,) = find_faces(detector, [frame])
    assert len(corners) == len(faces) == 30
    centres = {(round((f.box[0] - 80) / 310), round((f.box[1] - 80) / 215)) for f in faces}
    assert len(centres) == 30


@pytest.mark.parametrize("name", ["coffee", "rocket", "retina", "brick", "grass", "chelsea"])
def test_picture_without_a_face_shows_none(
    detector: NetworkDetector, skimage_data: ModuleType, name: str
) -> None:
    picture = getattr(skimage_data, name)()
    picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]
    assert find_faces(detector, [picture])[0] == []


def masked(picture: Image.Image) -> Image.Image:
    corners = [(95, 140), (135, 128), (175, 140), (172, 180), (135, 200), (98, 180)]
    ImageDraw.Draw(picture).polygon(corners, fill="#a0c8e8")
    return picture


def with_sunglasses(picture: Image.Image) -> Image.Image:
    ImageDraw.Draw(picture).rectangle((95, 90, 180, 120), fill="black")
    return picture


def cartoon(picture: Image.Image) -> Image.Image:
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 260, 260), fill="white")
    pen.ellipse((40, 30, 216, 226), fill="#ffe0b0", outline="black", width=4)
    for x in (95, 160):
        pen.ellipse((x - 16, 90, x + 16, 125), fill="white", outline="black", width=3)
        pen.ellipse((x - 5, 102, x + 7, 116), fill="black")
    pen.arc((85, 130, 170, 190), 10, 170, fill="red", width=6)
    return picture


def painted(picture: Image.Image) -> Image.Image:
    return ImageOps.posterize(picture, 1).filter(ImageFilter.ModeFilter(9))


@pytest.mark.parametrize("change", [masked, with_sunglasses, cartoon, painted])
def test_doubtful_face_is_none_or_less_certain(
    detector: NetworkDetector, change: Callable[[Image.Image], Image.Image], astronaut: np.ndarray
) -> None:
    clear = astronaut[:260, 90:350]
    (face,) = find_faces(detector, [np.ascontiguousarray(clear)])[0]
    doubtful = find_faces(detector, [np.asarray(change(Image.fromarray(clear)))])[0]
    assert len(doubtful) <= 1
    for other in doubtful:
        assert other.confidence < face.confidence - 0.05
        assert 0 < other.landmarks.min() < other.landmarks.max() < 260


def test_upside_down_face_and_noise_show_no_face(detector: NetworkDetector, astronaut: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for picture in (astronaut[::-1], noise):
        assert find_faces(detector, [np.ascontiguousarray(picture)])[0] == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 400, 3), (400, 3, 3), (12, 12, 3)])
def test_tiny_and_thin_frames_show_no_face(detector: NetworkDetector, shape: tuple[int, int, int]) -> None:
    frame = np.full(shape, 128, np.uint8)
    assert find_faces(detector, [frame])[0] == []
    follow_face(detector, [frame], NEAR)  # whatever it returns, it raises nothing


def test_detector_leaves_callers_random_state_alone(astronaut: np.ndarray) -> None:
    state = torch.get_rng_state()
    find_faces(NetworkDetector(), [astronaut])
    assert torch.equal(torch.get_rng_state(), state)


def test_face_is_followed_through_a_video(detector: NetworkDetector, carphone: Path) -> None:
    frames = list(VideoReader(carphone))[:40]
    (face, *_) = find_faces(detector, frames[:1])[0]
    followed = follow_face(detector, frames, face.landmarks)
    assert len(followed) == 40
    assert np.median([one.confidence for one in followed]) > 0.5


@pytest.mark.identity
def test_followed_face_agrees_with_dlib(detector: NetworkDetector, carphone: Path) -> None:
    frames = list(VideoReader(carphone))[:40]
    (face, *_) = find_faces(detector, frames[:1])[0]
    followed = follow_face(detector, frames, face.landmarks)
    dlib_detector = open_detector("dlib")
    (other, *_) = find_faces(dlib_detector, [frames[39]])[0]
    size = np.linalg.norm(other.landmarks[45] - other.landmarks[36])
    error = np.linalg.norm(followed[39].landmarks - other.landmarks, axis=1).mean() / size
    assert error < 0.1


def test_crop_far_beyond_the_frame_has_no_confident_face(
    detector: NetworkDetector, astronaut: np.ndarray
) -> None:
    (face,) = detector._run([astronaut], [OrientedCrop(-900, -900, 100)])
    assert face.confidence < 0.1


def test_digest_tells_weights_apart(detector: NetworkDetector, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_network(LandmarkNetwork(), path, KIND, {})
    assert detector.digest == NetworkDetector().digest != NetworkDetector("cpu", path).digest
