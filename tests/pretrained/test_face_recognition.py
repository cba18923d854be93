"""Tests of face-recognition networks: embeddings, and refused files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skimage import data

from conftest import RedSquare
from talkinghead.clip import Clip
from talkinghead.errors import TalkingheadError
from talkinghead.media.images import resize
from talkinghead.pretrained import face_recognition


def network(path: Path, shape: list[object], axes: list[int], keepdims: int = 0) -> Path:
    """Return an ONNX file whose one output is the mean of its input over some axes."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_cosine_and_csim_of_known_vectors() -> None:
    a, b = np.array([3.0, 0.0]), np.array([0.0, 0.5])
    assert face_recognition.cosine(a, a) == pytest.approx(1)
    assert face_recognition.cosine(a, b) == pytest.approx(0)
    assert face_recognition.cosine(a, -2 * a) == pytest.approx(-1)
    assert face_recognition.cosine(a, a + 6 * b) == pytest.approx(2**-0.5)
    assert face_recognition.csim([a, b, a], [a, a, None]) == pytest.approx(
        0.5
    )  # pairs without a face are left out
    assert np.isnan(face_recognition.csim([None, a], [b, None]))


@pytest.mark.identity
def test_csim_of_equal_frames_is_one(carphone_clip: Clip) -> None:
    dlib = face_recognition.DlibIdentity()
    frames = carphone_clip.frames[[0, 20]]
    described = face_recognition.embed_faces(dlib, frames)
    astronaut = face_recognition.embed_faces(dlib, np.stack([resize(data.astronaut()[:256, 96:352], 64)] * 2))
    assert described[0] is not None and described[0].shape == (128,)
    assert face_recognition.csim(described, described) == pytest.approx(1, abs=1e-6)
    same, other = (
        face_recognition.csim(described, described[::-1]),
        face_recognition.csim(described, astronaut),
    )
    assert other < 0.92 < same < 1
    assert face_recognition.embed_faces(dlib, np.zeros((1, 64, 64, 3), np.uint8)) == [None]


def test_align_face_matches_five_points() -> None:
    """Check on a ramp, whose colour is its position, where each aligned pixel came from."""
    middle = np.arange(200) + 0.5
    ramp = np.stack(
        [np.tile(middle, (200, 1)), np.tile(middle[:, None], (1, 200)), np.zeros((200, 200))], axis=2
    )
    turn = 1.2 * np.exp(1j * np.radians(20))
    five = face_recognition._TEMPLATE @ [1, 1j] * turn + (40 + 10j)
    points = np.zeros((68, 2))
    for where, place in zip(((36, 42), (42, 48), (30, 31), (48, 49), (54, 55)), five, strict=True):
        points[slice(*where)] = place.real, place.imag
    aligned = face_recognition.align_face(np.rint(ramp - 0.5).astype(np.uint8), points).astype(float) + 0.5
    assert aligned.shape == (112, 112, 3)
    for row, column in ((51, 38), (71, 56), (92, 70), (40, 90)):
        expected = (column + 0.5 + 1j * (row + 0.5)) * turn + (40 + 10j)
        np.testing.assert_allclose(aligned[row, column, :2], (expected.real, expected.imag), atol=1.1)


@pytest.mark.parametrize("shape, axes", [([1, 3, 112, 112], [2, 3]), (["n", 112, 112, 3], [1, 2])])
def test_arcface_input_is_normalised_rgb(
    shape: list[object], axes: list[int], tmp_path: Path, red_square: RedSquare
) -> None:
    arcface = face_recognition.open_identity(network(tmp_path / "arc.onnx", shape, axes), red_square)
    face = np.broadcast_to(np.array([0, 255, 51], np.uint8), (112, 112, 3))
    assert (
        isinstance(arcface, face_recognition.ArcFace)
        and arcface.name == "arc.onnx"
        and len(arcface.digest) == 64
    )
    np.testing.assert_allclose(arcface.embed_aligned_face(face), [-1, 1, -0.6], atol=1e-3)
    assert arcface.embed_face(np.zeros((40, 40, 3), np.uint8)) is None  # no face is found


def test_open_identity_rejects_other_files(tmp_path: Path, red_square: RedSquare) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    network(tmp_path / "small.onnx", [1, 3, 64, 64], [2, 3])
    network(tmp_path / "map.onnx", [1, 3, 112, 112], [2, 3], keepdims=1)
    network(tmp_path / "number.onnx", [1, 3, 112, 112], [0, 1, 2, 3])
    for name, message in {
        "missing.onnx": "no such file",
        "text.onnx": "cannot be run",
        "small.onnx": "cannot be run",
        "map.onnx": r"returns \[1, 3, 1, 1\]",
        "number.onnx": r"returns \[\]",
    }.items():
        with pytest.raises(TalkingheadError, match=message) as raised:
            face_recognition.open_identity(tmp_path / name, red_square)
        assert str(raised.value).startswith(str(tmp_path / name)) and "ArcFace" in str(raised.value)
