"""MediaPipe's landmarker: decoding, with stand-ins for its networks, and bad files."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from talkinghead import cli
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import face_landmarker_detector as module
from talkinghead.landmarks.detector import find_faces
from talkinghead.landmarks.face_landmarker_detector import LANDMARKS_68, FaceLandmarkerDetector
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.oriented_crop import OrientedCrop

FRAME = np.zeros((240, 320, 3), np.uint8)
MESH = np.random.default_rng(0).uniform(90, 166, (478, 3)).astype(np.float32)


class FakeNetworks:
    """Stand-ins for both networks: the detector sees given boxes, and the mesh lies anywhere in its crop."""

    def __init__(self, boxes: list[tuple[int, tuple[float, float, float, float], float]]) -> None:
        self.boxes, self.presence, self.crops = boxes, 5.0, 0

    def detect(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert pixels.shape == (1, 128, 128, 3)
        assert pixels.min() >= -1
        regressors = np.zeros((1, 896, 16), np.float32)
        scores = np.full((1, 896, 1), -50.0, np.float32)
        for anchor, (x, y, width, height), score in self.boxes:
            keypoints = [x - 10, y - 5, x + 10, y - 5, *[x, y] * 4]
            regressors[0, anchor] = [x, y, width, height, *keypoints]
            scores[0, anchor] = score
        return regressors, scores

    def fit(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert pixels.shape[1:] == (256, 256, 3)
        self.crops += len(pixels)
        mesh = np.repeat(MESH.reshape(1, 1, 1, -1), len(pixels), axis=0)
        return mesh, np.full((len(pixels), 1, 1, 1), self.presence, np.float32)


def detector_with(monkeypatch: pytest.MonkeyPatch, networks: FakeNetworks) -> FaceLandmarkerDetector:
    monkeypatch.setattr(module, "_open_networks", lambda path: (networks.detect, networks.fit))
    return FaceLandmarkerDetector("face_landmarker.task")


def test_anchors_are_centres_of_cells() -> None:
    anchors = module._anchors()
    assert anchors.shape == (896, 2)
    np.testing.assert_allclose(anchors[:3], [[1 / 32, 1 / 32]] * 2 + [[3 / 32, 1 / 32]])
    np.testing.assert_allclose(anchors[512:519], [[1 / 16, 1 / 16]] * 6 + [[3 / 16, 1 / 16]])


def test_box_lies_where_network_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # anchor 512 has its centre at 8, 8 of 128 pixels, which show 320
    networks = FakeNetworks([(512, (56.0, 40.0, 40.0, 40.0), 3.0)])
    (crop,) = detector_with(monkeypatch, networks)._boxes(FRAME)
    assert (crop.x, crop.y + 40) == (pytest.approx(64 * 2.5, abs=0.01), pytest.approx(48 * 2.5, abs=0.01))
    assert crop.side == pytest.approx(40 * 2.5 * 1.5, abs=0.01)
    assert crop.angle == pytest.approx(0, abs=1e-6)


def test_overlapping_and_unlikely_boxes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = FakeNetworks(
        [
            (512, (56.0, 40.0, 40.0, 40.0), 3.0),
            (513, (58.0, 41.0, 40.0, 40.0), 2.0),
            (514, (0.0, 70.0, 20.0, 20.0), 1.0),
            (600, (0.0, 0.0, 20.0, 20.0), -1.0),
        ]
    )
    assert len(detector_with(monkeypatch, networks)._boxes(FRAME)) == 2


def test_landmarks_and_irises_are_those_of_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_with(monkeypatch, FakeNetworks([]))
    monkeypatch.setattr(module, "_VARIATIONS", ((0.0, 0.0, 1.0, 0.0),) * 3)
    crop = OrientedCrop(100.0, 80.0, 64.0)
    face = detector._fit(FRAME, crop)
    expected = crop.to_frame(MESH[:, :2] / 256)
    np.testing.assert_allclose(face.landmarks[8], expected[152], atol=1e-3)
    np.testing.assert_allclose(face.landmarks[36], expected[33], atol=1e-3)
    assert face.irises is not None
    np.testing.assert_allclose(face.irises[1, 0], expected[473], atol=1e-3)
    assert face.confidence == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-5)


def test_map_names_each_landmark_once() -> None:
    assert len(LANDMARKS_68) == 68
    assert max(max(indices) for indices in LANDMARKS_68) < 468


def test_crops_that_disagree_lower_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_with(monkeypatch, FakeNetworks([]))
    assert detector._fit(FRAME, OrientedCrop(100.0, 80.0, 64.0)).confidence < 0.9


def test_one_crop_runs_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = FakeNetworks([])
    monkeypatch.setattr(module, "_open_networks", lambda path: (networks.detect, networks.fit))
    FaceLandmarkerDetector("face_landmarker.task", num_crops=1)._fit(FRAME, OrientedCrop(100.0, 80.0, 64.0))
    assert networks.crops == 1


def test_task_file_on_a_gpu_reports_user_error() -> None:
    with pytest.raises(TalkingheadError, match="face_landmarker.task: runs on the cpu, not on 'cuda'"):
        open_detector("face_landmarker.task", "cuda")


def test_following_stops_without_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = FakeNetworks([])
    detector = detector_with(monkeypatch, networks)
    near = np.random.default_rng(1).uniform(100, 140, (68, 2))
    networks.presence = -5.0
    assert detector.follow([FRAME, FRAME], near) == []
    assert find_faces(detector, [FRAME]) == [[]]


def test_detector_reaches_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detector_with(monkeypatch, FakeNetworks([]))
    assert pickle.loads(pickle.dumps(detector))._path == Path("face_landmarker.task")


@pytest.mark.parametrize("content", ["missing", "text", "empty", "no tflite"])
def test_bad_file_reports_user_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "face_landmarker.task"
    if content == "text":
        path.write_text("no zip")
    elif content == "empty":
        with zipfile.ZipFile(path, "w"):
            pass
    elif content == "no tflite":
        with zipfile.ZipFile(path, "w") as archive:
            for name in module._MEMBERS:
                archive.writestr(name, b"nothing")
    with pytest.raises(
        TalkingheadError, match=r"face_landmarker\.task: (no such file|cannot be read)"
    ) as info:
        open_detector(str(path))
    assert "\n" not in str(info.value)


def test_huge_member_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(module._MEMBERS[0], bytes(2_000_000))
    monkeypatch.setattr(module, "_MAX_MEMBER_BYTES", 1_000_000)
    with pytest.raises(TalkingheadError, match="claims 2000000 bytes"):
        open_detector(str(path))


def test_command_names_missing_task_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["landmarks", "me.mp4", "--out", str(tmp_path / "o.png"), "--landmarks", "gone.task"]
    assert cli.main(arguments) == cli.USER_ERROR
    assert "gone.task" in capsys.readouterr().err


def test_bad_frame_and_landmarks_report_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, near = detector_with(monkeypatch, FakeNetworks([])), MESH[:68, :2]
    for frames in ([FRAME[..., 0]], [FRAME.astype(np.float32)]):
        with pytest.raises(TalkingheadError, match=r"^frame 1: .*, expected uint8 \[H, W, 3\]; convert"):
            detector.find(frames)
        with pytest.raises(TalkingheadError, match=r"^frame 1: .*, expected uint8 \[H, W, 3\]; convert"):
            detector.follow(frames, near)
    with pytest.raises(TalkingheadError, match=r"^landmarks to follow: not finite; pass"):
        detector.follow([FRAME], near * np.nan)
