from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from talkinghead.data.video import VideoReader
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import dlib_face, face_alignment_detector
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.dlib_face import DlibDetector, face_descriptor
from talkinghead.landmarks.face_alignment_detector import WEIGHTS, FaceAlignmentDetector

ASTRONAUT: np.ndarray = astronaut()
FACE = (170, 60, 290, 200)
"""Left, top, right and bottom around the astronaut's face."""


def inside(points: np.ndarray, box: tuple[float, ...]) -> bool:
    return bool((points >= box[:2]).all() and (points <= box[2:]).all())


def test_dlib_finds_a_face() -> None:
    points = DlibDetector()(ASTRONAUT)
    assert points is not None
    assert (points.shape, points.dtype) == ((68, 2), np.float32)
    assert inside(points, FACE)
    # iBUG order: jaw from the picture's left to its right, brows over eyes over nose over mouth
    assert points[0, 0] < points[8, 0] < points[16, 0]
    heights = [points[part, 1].mean() for part in (slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 68))]
    assert heights == sorted(heights)


def test_dlib_agrees_with_dlib_in_pixels_that_have_an_extent() -> None:
    detected = dlib.get_frontal_face_detector()(ASTRONAUT, 0)[0]
    predictor = dlib.shape_predictor(dlib_face._model_file("shape_predictor_68_face_landmarks.dat"))
    plain = np.array([[part.x + 0.5, part.y + 0.5] for part in predictor(ASTRONAUT, detected).parts()])
    points = DlibDetector()(ASTRONAUT)
    assert points is not None
    # a pixel number alone would lie 0.5 beside on average
    assert np.abs((points - plain).mean(axis=0)).max() < 0.25
    assert np.abs(points - plain).mean() < 1


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_the_size_of_the_picture_does_not_matter(factor: float) -> None:
    side = int(512 * factor)
    planes = torch.from_numpy(ASTRONAUT).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    points, reference = DlibDetector()(resized), DlibDetector()(ASTRONAUT)
    assert points is not None
    assert reference is not None
    # within 4 of the 120 pixels that the face is wide
    assert np.abs(points / factor - reference).mean() < 4


@pytest.mark.parametrize("frame", [np.zeros((120, 160, 3), np.uint8), np.zeros((1, 1, 3), np.uint8), ASTRONAUT[300:]])
def test_no_face_is_none(frame: np.ndarray) -> None:
    assert DlibDetector()(frame) is None
    assert face_descriptor(frame) is None


def two_faces() -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """The astronaut, and half as large beside."""
    small = ASTRONAUT[::2, ::2]
    frame = np.zeros((512, 768, 3), np.uint8)
    frame[:, :512], frame[:256, 512:] = ASTRONAUT, small
    left, top, right, bottom = FACE
    return frame, FACE, (512 + left / 2, top / 2, 512 + right / 2, bottom / 2)


def test_the_largest_face_or_the_one_seen_before() -> None:
    frame, large, small = two_faces()
    detector = DlibDetector()
    first = detector(frame)
    assert first is not None
    assert inside(first, large)
    beside = first / 2 + [512 + 3, 2]
    again = detector(frame, beside)
    assert again is not None
    assert inside(again, small)
    assert np.abs(again - (first / 2 + [512, 0])).mean() < 2


@pytest.mark.parametrize("shift", [(250, 250), (-1000, 0), (0, 10_000)])
def test_what_was_seen_elsewhere_hides_no_face(shift: tuple[int, int]) -> None:
    detector = DlibDetector()
    reference = detector(ASTRONAUT)
    assert reference is not None
    found = detector(ASTRONAUT, reference + shift)
    assert found is not None
    assert np.array_equal(found, reference)


def test_following_a_face_searches_little(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    search = dlib_face._face_detector()

    class Recording:
        def run(self, window: np.ndarray, upsampling: int, score: float) -> Any:
            searched.append(window.shape[0] * window.shape[1])
            return search.run(window, upsampling, score)

    detector = DlibDetector()
    reference = detector(ASTRONAUT)
    monkeypatch.setattr(dlib_face, "_face_detector", Recording)
    found = detector(ASTRONAUT, reference)
    assert found is not None
    assert reference is not None
    assert np.abs(found - reference).mean() < 2
    assert len(searched) == 1
    assert searched[0] < 512 * 512 / 3


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
    assert detector(ASTRONAUT[:96, :96]) is None


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


def test_face_alignment_in_pixels_of_the_frame(with_weights: Path) -> None:
    """With networks that are known: faces at given places, and heat maps that peak at a bright spot in the largest."""
    detector = FaceAlignmentDetector()
    boxes = [np.array([0, 0, 30, 30, 0.99]), np.array([200, 100, 360, 260, 0.9])]
    detector._network.face_detector.detect_from_image = lambda image: boxes
    detector._network.face_alignment_net = brightest
    detector._network.flip_input = False  # the stand-in has no left and right
    errors = []
    for x in range(250, 310, 6):
        frame = np.zeros((400, 500, 3), np.uint8)
        frame[180:184, x : x + 4] = 255
        points = detector(frame)
        assert points is not None
        assert (points.shape, points.dtype) == ((68, 2), np.float32)
        errors.append(points.mean(axis=0) - [x + 2, 182])
    # a pixel of the heat map is 5 of the frame here; the package's own rounding is within 2 on average
    assert np.abs(errors).max() < 5
    assert np.abs(np.mean(errors, axis=0)).max() < 2
