"""Tests of the choice of the detector and of face-alignment."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from conftest import RedSquare
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import dlib_detector
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.face_alignment_detector import WEIGHTS, FaceAlignmentDetector
from talkinghead.landmarks.network_detector import NetworkDetector
from talkinghead.landmarks.open_detector import open_detector, resolve_detector

ASTRONAUT: np.ndarray = astronaut()


def test_unknown_detector_reports_user_error() -> None:
    with pytest.raises(
        TalkingheadError,
        match="landmarks 'opencv': no such detector; choose one of auto, network, dlib, face-alignment",
    ):
        open_detector("opencv")


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder for weights, and cut off the network."""

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
        pytest.importorskip(
            "face_alignment", reason="face-alignment cannot be imported", exc_type=ImportError
        )
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    face_finder = s3fd()
    for name, bias in face_finder.named_parameters():
        if name.endswith("conf.bias"):
            bias.data[-1] = -20  # no faces: thousands of random ones would be slow
    return dict(zip(WEIGHTS, (FAN(4).state_dict(), face_finder.state_dict()), strict=True))


@pytest.fixture
def with_weights(checkpoints: Path, random_weights: dict[str, dict[str, torch.Tensor]]) -> Path:
    for name, state in random_weights.items():
        torch.save(state, checkpoints / name)
    return checkpoints


def test_auto_selects_shipped_networks(with_weights: Path) -> None:
    detector, named = open_detector("auto", "cpu"), open_detector("network", "cpu")
    assert isinstance(detector, NetworkDetector) and detector.name == "network"
    assert detector.__reduce__() == named.__reduce__() == (NetworkDetector, ("cpu",))


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense"])
def test_auto_on_missing_device_reports_user_error(device: str) -> None:
    with pytest.raises(TalkingheadError, match=f"^device '{device}': "):
        open_detector("auto", device)


def test_face_alignment_without_faces_returns_none(with_weights: Path) -> None:
    assert open_detector("face-alignment").find([ASTRONAUT[:96, :96]] * 2) == [[], []]


def test_dlib_on_other_device_reports_user_error() -> None:
    with pytest.raises(
        TalkingheadError, match=r"^dlib: runs on the cpu, not on 'cuda'; leave the device out"
    ):
        open_detector("dlib", "cuda")


def test_missing_dlib_reports_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    for part in (
        dlib_detector._face_detector,
        dlib_detector._shape_predictor,
        dlib_detector._face_recognizer,
    ):
        part.cache_clear()
    with pytest.raises(
        TalkingheadError, match=r"^dlib is needed here .*; pip install 'talkinghead\[dlib\]'$"
    ):
        open_detector("dlib")
    with pytest.raises(TalkingheadError, match=r"; pip install 'talkinghead\[identity\]'$"):
        dlib_detector.face_descriptor(ASTRONAUT)


def test_failed_download_reports_user_error(checkpoints: Path, random_weights: object) -> None:
    message = (
        f"{WEIGHTS[0]} and {WEIGHTS[1]} cannot be fetched .*no network in tests.* put them into "
        f"{checkpoints} or use --landmarks network"
    )
    with pytest.raises(TalkingheadError, match=message):
        open_detector("face-alignment")
    assert not list(checkpoints.iterdir())


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_invalid_weights_report_user_error(with_weights: Path, content: bytes | None) -> None:
    if content is None:
        torch.save({"conv.weight": torch.zeros(1)}, with_weights / WEIGHTS[0])
    else:
        (with_weights / WEIGHTS[0]).write_bytes(content)
    with pytest.raises(
        TalkingheadError,
        match=f"cannot be set up on cpu with the weights in {with_weights} .*; delete the files",
    ) as caught:
        open_detector("face-alignment")
    assert "\n" not in str(caught.value)


def brightest(window: torch.Tensor) -> list[torch.Tensor]:
    """Return heat maps [1, 68, 64, 64] of a window [1, 3, 256, 256] that peak where it is bright."""
    return [torch.nn.functional.avg_pool2d(window.mean(dim=1, keepdim=True), 4).expand(1, 68, 64, 64).clone()]


def spot(x: int, height: int = 4) -> np.ndarray:
    """Draw a bright spot whose centre is (x + 2, 182) on a dark frame."""
    frame = np.zeros((400, 500, 3), np.uint8)
    frame[180 : 180 + height, x : x + 4] = 255
    return frame


@pytest.fixture
def bright(with_weights: Path, monkeypatch: pytest.MonkeyPatch) -> FaceAlignmentDetector:
    """Detector with fake networks: two fixed faces in frames that are not black, and heat maps that peak at
    a bright spot.
    """
    detector = FaceAlignmentDetector()
    boxes = [np.array([0, 0, 30, 30, 0.99]), np.array([200, 100, 360, 260, 0.9])]

    def search(batch: torch.Tensor) -> list[list[np.ndarray]]:
        assert (batch.dtype, batch.shape[1:]) == (torch.uint8, (3, 400, 500))
        return [boxes if frame.any() else [] for frame in batch]

    detector._network.face_detector.detect_from_batch = search
    detector._network.face_alignment_net = lambda windows: torch.cat(
        [brightest(window[None])[0] for window in windows]
    )
    detector._network.flip_input = False  # the stand-in has no left and right
    return detector


def test_face_alignment_returns_frame_pixels(bright: FaceAlignmentDetector) -> None:
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


def test_face_alignment_tracks_face_until_lost(
    bright: FaceAlignmentDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FaceAlignmentDetector,
        "_fit",
        lambda self, frame, boxes: [Face(around(frame, boxes[0]), float(frame.any()))],
    )
    start = np.array([[270, 160], [300, 210]], np.float32).repeat(34, axis=0)

    def around(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        searched.append(box.tolist())
        return start + np.float32([0, 5])

    searched: list[list[float]] = []
    tracked = bright.follow([spot(280), spot(283), np.zeros_like(spot(0)), spot(290)], start)
    assert len(tracked) == 2
    # the forehead, above the landmarks, is in the box; which goes along with the face
    assert searched == [[270, 147.5, 300, 210], [270, 152.5, 300, 215], [270, 152.5, 300, 215]]


def test_resolve_detector_takes_a_detector_a_name_or_nothing() -> None:
    detector = RedSquare()
    assert resolve_detector(detector) is detector
    assert resolve_detector("network").name == "network"
    assert isinstance(resolve_detector(None), NetworkDetector)
    with pytest.raises(
        TalkingheadError, match="detector: got int; give one of auto, network, dlib, face-alignment"
    ):
        resolve_detector(3)  # type: ignore[arg-type]
