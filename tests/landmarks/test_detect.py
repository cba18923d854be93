from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import dlib_face, face_alignment_detector
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.dlib_face import DlibDetector, face_descriptor
from talkinghead.landmarks.face import DOUBTFUL, Face, boxes_of, largest_face
from talkinghead.landmarks.face_alignment_detector import WEIGHTS, FaceAlignmentDetector
from talkinghead.media.video import VideoReader

ASTRONAUT: np.ndarray = astronaut()
FACE = (170, 60, 290, 200)
"""Left, top, right and bottom around the astronaut's face."""


def inside(points: np.ndarray, box: tuple[float, ...]) -> bool:
    return bool((points >= box[:2]).all() and (points <= box[2:]).all())


def find_one(frame: np.ndarray) -> Face:
    [face] = DlibDetector().find([frame])[0]
    return face


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())


# the faces of a frame


def test_dlib_finds_a_face() -> None:
    face = find_one(ASTRONAUT)
    points = face.landmarks
    assert (points.shape, points.dtype) == ((68, 2), np.float32)
    assert isinstance(face.confidence, float)
    assert inside(points, FACE)
    # iBUG order: jaw from the picture's left to its right, brows over eyes over nose over mouth
    assert points[0, 0] < points[8, 0] < points[16, 0]
    heights = [points[part, 1].mean() for part in (slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 68))]
    assert heights == sorted(heights)


def test_dlib_agrees_with_dlib_in_pixels_that_have_an_extent() -> None:
    detected = dlib.get_frontal_face_detector()(ASTRONAUT, 0)[0]
    predictor = dlib.shape_predictor(dlib_face._model_file("shape_predictor_68_face_landmarks.dat"))
    plain = np.array([[part.x + 0.5, part.y + 0.5] for part in predictor(ASTRONAUT, detected).parts()])
    points = find_one(ASTRONAUT).landmarks
    # a pixel number alone would lie 0.5 beside on average
    assert np.abs((points - plain).mean(axis=0)).max() < 0.25
    assert np.abs(points - plain).mean() < 1


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_the_size_of_the_picture_does_not_matter(factor: float) -> None:
    side = int(512 * factor)
    points, reference = find_one(resized(ASTRONAUT, side, side)).landmarks, find_one(ASTRONAUT).landmarks
    # within 4 of the 120 pixels that the face is wide
    assert np.abs(points / factor - reference).mean() < 4


@pytest.mark.parametrize("frame", [np.zeros((120, 160, 3), np.uint8), np.zeros((1, 1, 3), np.uint8), ASTRONAUT[300:]])
def test_no_face(frame: np.ndarray) -> None:
    detector = DlibDetector()
    assert detector.find([frame]) == [[]]
    assert largest_face(detector, frame) is None
    assert face_descriptor(frame) is None


def two_faces() -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """The astronaut, a little smaller, and in full size beside; each cut to the right of the face."""
    frame = np.zeros((512, 600, 3), np.uint8)
    frame[:461, :280], frame[:, 280:] = resized(ASTRONAUT, 461, 461)[:, :280], ASTRONAUT[:, :320]
    left, top, right, bottom = FACE
    return frame, (280 + left, top, 280 + right, bottom), tuple(0.9 * side for side in FACE)


def test_all_faces_are_found_the_largest_first() -> None:
    frame, large, small = two_faces()
    detector = DlibDetector()
    none, both, one = detector.find([ASTRONAUT[300:], frame, ASTRONAUT])
    assert (len(none), len(both), len(one)) == (0, 2, 1)
    assert inside(both[0].landmarks, large) and inside(both[1].landmarks, small)
    largest = largest_face(detector, frame)
    assert largest is not None and np.array_equal(largest.landmarks, both[0].landmarks)


def test_boxes_of_faces() -> None:
    corners = np.resize(np.array([[10, 20], [40, 20], [40, 60], [10, 60]], np.float32), (68, 2))
    assert boxes_of(np.stack([corners, 2 * corners])).tolist() == [[25, 40, 40], [50, 80, 80]]


# how sure


def covered(half: str) -> np.ndarray:
    frame = ASTRONAUT.copy()
    x, y = find_one(ASTRONAUT).landmarks.mean(axis=0).astype(int)
    frame[{"right": np.s_[50:230, x:310], "upper": np.s_[50:y, 150:310], "lower": np.s_[y:230, 150:310]}[half]] = 128
    return frame


def from_the_side() -> np.ndarray:
    """The face pressed together to two fifths of its width: as little is seen of one that is turned away."""
    left, top, right, bottom = 150, 40, 310, 220
    frame = np.full_like(ASTRONAUT, 90)
    frame[top:bottom, 200:264] = resized(ASTRONAUT[top:bottom, left:right], bottom - top, 64)
    return frame


def test_confidence_is_high_on_a_clear_face(carphone: Path) -> None:
    assert find_one(ASTRONAUT).confidence > 0.7
    assert find_one(resized(ASTRONAUT, 256, 256)).confidence > 0.7
    assert np.median([find_one(frame).confidence for frame in list(VideoReader(carphone))[::12]]) > 0.7


@pytest.mark.parametrize("frame", [covered("right"), covered("upper"), covered("lower"), from_the_side()])
def test_confidence_is_low_where_a_face_is_covered_or_turned(frame: np.ndarray) -> None:
    clear = find_one(ASTRONAUT)
    followed = DlibDetector().follow([frame], clear.landmarks)
    assert not followed or followed[0].confidence < clear.confidence - 0.2
    assert all(0 < face.confidence < 0.7 for face in DlibDetector().find([frame])[0])


def test_a_face_that_the_detector_sees_is_never_quite_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_face, "_LOST", 1e-6)  # nothing fits that well
    assert 0 < find_one(ASTRONAUT).confidence < 0.1


def test_points_jitter_less_than_a_single_fit() -> None:
    """Under noise, in one and the same box."""
    random = np.random.default_rng(0)
    noisy = [np.clip(ASTRONAUT + random.normal(0, 6, ASTRONAUT.shape), 0, 255).astype(np.uint8) for _ in range(12)]
    box = dlib_face._find_boxes(ASTRONAUT)[0]

    def jitter() -> float:
        return float(np.std([dlib_face._fit(frame, box).landmarks for frame in noisy], axis=0).mean())

    averaged = jitter()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dlib_face, "_BOXES", dlib_face._BOXES[:1])
        assert averaged < 0.8 * jitter()


# following


def moving(frames: int, step: tuple[int, int]) -> list[np.ndarray]:
    return [np.roll(ASTRONAUT, (step[1] * number, step[0] * number), (0, 1)) for number in range(frames)]


def test_a_face_that_is_followed_is_where_a_search_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(8, (9, 3))
    detector = DlibDetector()
    monkeypatch.setattr(dlib_face, "_find_near", lambda *_: pytest.fail("its points went along with it, it was not to be looked for"))
    start = find_one(frames[0]).landmarks
    followed = detector.follow(frames[1:], start)
    assert len(followed) == 7
    side = boxes_of(start[None])[0, 2]
    for number, (face, faces) in enumerate(zip(followed, detector.find(frames[1:]), strict=True), 1):
        assert np.abs(face.landmarks - (start + np.float32([9 * number, 3 * number]))).mean() < 0.02 * side
        assert np.abs(face.landmarks - faces[0].landmarks).mean() < 0.02 * side
        assert face.confidence > 0.7


def test_following_searches_little(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    search = dlib_face._face_detector()

    class Recording:
        def run(self, window: np.ndarray, upsampling: int, score: float) -> Any:
            searched.append(window.shape[0] * window.shape[1])
            return search.run(window, upsampling, score)

    detector, start = DlibDetector(), find_one(ASTRONAUT).landmarks
    monkeypatch.setattr(dlib_face, "_face_detector", Recording)
    [again] = detector.follow([ASTRONAUT], start)
    assert np.abs(again.landmarks - start).mean() < 2
    assert searched == []
    # where the points do not fit it is searched for, around its place alone
    [found] = detector.follow([np.roll(ASTRONAUT, 60, 1)], start)
    assert np.abs(found.landmarks - start - [60, 0]).mean() < 2 and found.confidence > 0.7
    assert len(searched) == 1 and searched[0] < 512 * 512 / 3


def test_the_one_that_was_seen_before_is_followed_not_the_largest() -> None:
    frame, _, small = two_faces()
    beside = find_one(ASTRONAUT).landmarks * np.float32(0.9)
    [face] = DlibDetector().follow([frame], beside + np.float32([3, 2]))
    assert inside(face.landmarks, small)
    assert np.abs(face.landmarks - beside).mean() < 2


def test_a_face_that_is_gone_is_lost() -> None:
    wall = np.full_like(ASTRONAUT, 90)
    start = find_one(ASTRONAUT).landmarks
    assert len(DlibDetector().follow([ASTRONAUT, ASTRONAUT, wall, ASTRONAUT], start)) == 2
    assert DlibDetector().follow([], start) == []


@pytest.mark.parametrize("shift", [(250, 250), (-1000, 0), (0, 10_000)])
def test_where_there_was_no_face_none_is_followed(shift: tuple[int, int]) -> None:
    """Far from the face, or out of the frame; at best something of no confidence."""
    start = find_one(ASTRONAUT).landmarks
    assert all(face.confidence < DOUBTFUL for face in DlibDetector().follow([ASTRONAUT], start + np.float32(shift)))


# descriptor, models


def test_a_descriptor_tells_people_apart(carphone: Path) -> None:
    frames = list(VideoReader(carphone))
    first, later, other = (face_descriptor(frame) for frame in (frames[0], frames[60], ASTRONAUT))
    assert first is not None
    assert later is not None
    assert other is not None
    assert (first.shape, first.dtype) == ((128,), np.float32)
    assert np.linalg.norm(first - later) < 0.6
    assert np.linalg.norm(first - other) > 0.7


def test_a_missing_model_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_face.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TalkingheadError, match=r"gone\.dat: dlib's model file is not installed; pip install 'talkinghead\[dlib\]'"):
        dlib_face._model_file("gone.dat")


def test_an_unknown_detector() -> None:
    with pytest.raises(TalkingheadError, match="landmarks 'opencv': no such detector, expected one of auto, dlib, face-alignment"):
        open_detector("opencv")


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for weights, and no network."""

    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def random_weights() -> dict[str, dict[str, torch.Tensor]]:
    """Weights of the right shapes, which find nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")  # read at the import; compiling takes longer than these tests
        pytest.importorskip("face_alignment", reason="face-alignment cannot be imported", exc_type=ImportError)
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    face_finder = s3fd()
    for name, bias in face_finder.named_parameters():
        if name.endswith("conf.bias"):
            bias.data[-1] = -20  # never a face, which thousands of random ones would be slow to sort out
    return dict(zip(WEIGHTS, (FAN(4).state_dict(), face_finder.state_dict()), strict=True))


@pytest.fixture
def with_weights(checkpoints: Path, random_weights: dict[str, dict[str, torch.Tensor]]) -> Path:
    for name, state in random_weights.items():
        torch.save(state, checkpoints / name)
    return checkpoints


def test_auto_without_weights_is_dlib_and_says_why(checkpoints: Path) -> None:
    detector = open_detector("auto")
    assert detector.name == "dlib"
    assert detector.choice_reason == f"dlib: face-alignment's weights {WEIGHTS[0]} and {WEIGHTS[1]} are not in {checkpoints}"
    (checkpoints / WEIGHTS[0]).touch()
    assert open_detector("auto").choice_reason == f"dlib: face-alignment's weights {WEIGHTS[1]} are not in {checkpoints}"
    assert open_detector("dlib").choice_reason == "dlib: asked for by name"


def test_auto_without_the_package_is_dlib(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = face_alignment_detector.importlib.util.find_spec
    monkeypatch.setattr(face_alignment_detector.importlib.util, "find_spec", lambda name: None if name == "face_alignment" else find(name))
    assert open_detector("auto").choice_reason == "dlib: face-alignment is not installed"


def test_auto_with_weights_is_face_alignment(with_weights: Path) -> None:
    detector = open_detector("auto")
    assert detector.name == "face-alignment"
    assert detector.choice_reason == f"face-alignment: its weights are in {with_weights}"
    assert detector.find([ASTRONAUT[:96, :96]] * 2) == [[], []]


def test_face_alignment_that_cannot_be_fetched(checkpoints: Path, random_weights: object) -> None:
    message = f"{WEIGHTS[0]} and {WEIGHTS[1]} cannot be fetched .*no network in tests.* put them into {checkpoints} or use --landmarks dlib"
    with pytest.raises(TalkingheadError, match=message):
        open_detector("face-alignment")
    assert not list(checkpoints.iterdir())


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_weights_that_do_not_fit(with_weights: Path, content: bytes | None) -> None:
    if content is None:
        torch.save({"conv.weight": torch.zeros(1)}, with_weights / WEIGHTS[0])
    else:
        (with_weights / WEIGHTS[0]).write_bytes(content)
    with pytest.raises(
        TalkingheadError, match=f"cannot be set up on cpu with the weights in {with_weights} .*; delete the files"
    ) as caught:
        open_detector("face-alignment")
    assert "\n" not in str(caught.value)


def brightest(window: torch.Tensor) -> list[torch.Tensor]:
    """Heat maps [1, 68, 64, 64] of a window [1, 3, 256, 256]: a peak wherever it is bright."""
    return [torch.nn.functional.avg_pool2d(window.mean(dim=1, keepdim=True), 4).expand(1, 68, 64, 64).clone()]


def spot(x: int, height: int = 4) -> np.ndarray:
    """A dark frame with a bright spot whose centre is (x + 2, 182)."""
    frame = np.zeros((400, 500, 3), np.uint8)
    frame[180 : 180 + height, x : x + 4] = 255
    return frame


@pytest.fixture
def bright(with_weights: Path, monkeypatch: pytest.MonkeyPatch) -> FaceAlignmentDetector:
    """With networks that are known: two faces at given places in frames that are not black, and heat maps that peak at a bright spot."""
    detector = FaceAlignmentDetector()
    boxes = [np.array([0, 0, 30, 30, 0.99]), np.array([200, 100, 360, 260, 0.9])]

    def search(batch: torch.Tensor) -> list[list[np.ndarray]]:
        assert (batch.dtype, batch.shape[1:]) == (torch.uint8, (3, 400, 500))
        return [boxes if frame.any() else [] for frame in batch]

    detector._network.face_detector.detect_from_batch = search
    detector._network.face_alignment_net = lambda windows: torch.cat([brightest(window[None])[0] for window in windows])
    detector._network.flip_input = False  # the stand-in has no left and right
    return detector


def test_face_alignment_in_pixels_of_the_frame(bright: FaceAlignmentDetector) -> None:
    errors = []
    for x in range(250, 310, 6):
        none, faces = bright.find([np.zeros((400, 500, 3), np.uint8), spot(x)])
        assert (none, len(faces)) == ([], 2)
        points = faces[0].landmarks  # of the larger
        assert (points.shape, points.dtype) == ((68, 2), np.float32)
        errors.append(points.mean(axis=0) - [x + 2, 182])
        assert 0.1 < faces[0].confidence <= 1 and faces[1].confidence == 0
    # a pixel of the heat map is 5 of the frame here; the package's own rounding is within 2 on average
    assert np.abs(errors).max() < 5
    assert np.abs(np.mean(errors, axis=0)).max() < 2


def test_face_alignment_follows_a_face_until_it_is_lost(bright: FaceAlignmentDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceAlignmentDetector, "_fit", lambda self, frame, boxes: [Face(around(frame, boxes[0]), float(frame.any()))])
    start = np.array([[270, 160], [300, 210]], np.float32).repeat(34, axis=0)

    def around(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        searched.append(box.tolist())
        return start + np.float32([0, 5])

    searched: list[list[float]] = []
    found = bright.follow([spot(280), spot(283), np.zeros_like(spot(0)), spot(290)], start)
    assert len(found) == 2
    # the forehead, above the landmarks, is in the box; which goes along with the face
    assert searched == [[270, 147.5, 300, 210], [270, 152.5, 300, 215], [270, 152.5, 300, 215]]
