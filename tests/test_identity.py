"""Face-recognition networks: what their descriptors give, which files are refused, and two people told apart."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skimage import data

from conftest import RedSquare
from talkinghead import identity
from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError
from talkinghead.media.pictures import resize


def network(path: Path, shape: list[object], axes: list[int], keepdims: int = 0) -> Path:
    """An ONNX file whose one output is the mean of its input over some axes."""
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
    assert identity.cosine(a, a) == pytest.approx(1)
    assert identity.cosine(a, b) == pytest.approx(0)
    assert identity.cosine(a, -2 * a) == pytest.approx(-1)
    assert identity.cosine(a, a + 6 * b) == pytest.approx(2**-0.5)
    assert identity.csim([a, b, a], [a, a, None]) == pytest.approx(0.5)  # pairs without a face are left out
    assert np.isnan(identity.csim([None, a], [b, None]))


def test_csim_of_equal_frames_is_1_and_of_two_people_less(carphone_clip: Clip) -> None:
    dlib = identity.DlibIdentity()
    frames = carphone_clip.frames[[0, 20]]
    described = identity.describe(dlib, frames)
    astronaut = identity.describe(dlib, np.stack([resize(data.astronaut()[:256, 96:352], 64)] * 2))
    assert described[0] is not None and described[0].shape == (128,)
    assert identity.csim(described, described) == pytest.approx(1, abs=1e-6)
    same, other = identity.csim(described, described[::-1]), identity.csim(described, astronaut)
    assert other < 0.92 < same < 1
    assert identity.describe(dlib, np.zeros((1, 64, 64, 3), np.uint8)) == [None]


def test_a_face_is_aligned_to_the_five_points() -> None:
    """On a ramp whose colour is its place, each aligned pixel shows where it came from."""
    middle = np.arange(200) + 0.5
    ramp = np.stack([np.tile(middle, (200, 1)), np.tile(middle[:, None], (1, 200)), np.zeros((200, 200))], axis=2)
    turn = 1.2 * np.exp(1j * np.radians(20))
    five = identity._TEMPLATE @ [1, 1j] * turn + (40 + 10j)
    points = np.zeros((68, 2))
    for where, place in zip(((36, 42), (42, 48), (30, 31), (48, 49), (54, 55)), five, strict=True):
        points[slice(*where)] = place.real, place.imag
    aligned = identity.align_face(np.rint(ramp - 0.5).astype(np.uint8), points).astype(float) + 0.5
    assert aligned.shape == (112, 112, 3)
    for row, column in ((51, 38), (71, 56), (92, 70), (40, 90)):
        wanted = (column + 0.5 + 1j * (row + 0.5)) * turn + (40 + 10j)
        np.testing.assert_allclose(aligned[row, column, :2], (wanted.real, wanted.imag), atol=1.1)


@pytest.mark.parametrize("shape, axes", [([1, 3, 112, 112], [2, 3]), (["n", 112, 112, 3], [1, 2])])
def test_an_arcface_network_sees_rgb_in_its_own_range(shape: list[object], axes: list[int], tmp_path: Path, red_square: RedSquare) -> None:
    arcface = identity.open_identity(network(tmp_path / "arc.onnx", shape, axes), red_square)
    face = np.broadcast_to(np.array([0, 255, 51], np.uint8), (112, 112, 3))
    assert isinstance(arcface, identity.ArcFace) and arcface.name == "arc.onnx" and len(arcface.digest) == 64
    np.testing.assert_allclose(arcface.describe_face(face), [-1, 1, -0.6], atol=1e-3)
    assert arcface.describe(np.zeros((40, 40, 3), np.uint8)) is None  # no face is found


def test_files_that_are_no_arcface_network_are_one_line(tmp_path: Path, red_square: RedSquare) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    network(tmp_path / "small.onnx", [1, 3, 64, 64], [2, 3])
    network(tmp_path / "map.onnx", [1, 3, 112, 112], [2, 3], keepdims=1)
    network(tmp_path / "number.onnx", [1, 3, 112, 112], [0, 1, 2, 3])
    for name, said in {
        "missing.onnx": "no such file",
        "text.onnx": "cannot be run",
        "small.onnx": "cannot be run",
        "map.onnx": r"gives \[1, 3, 1, 1\]",
        "number.onnx": r"gives \[\]",
    }.items():
        with pytest.raises(TalkingheadError, match=said) as raised:
            identity.open_identity(tmp_path / name, red_square)
        assert str(raised.value).startswith(str(tmp_path / name)) and "ArcFace" in str(raised.value)


def test_two_people_in_one_are_told(carphone_clip: Clip, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    astronaut = resize(data.astronaut()[:256, 96:352], 64)
    frames = np.stack([carphone_clip.frames[0], astronaut, carphone_clip.frames[20], np.zeros_like(astronaut)])
    found = identity.strangers(frames)
    assert found is not None and found[:2] == ([1, 3], [2]) and 0.6 < found[2] < 1.1
    assert identity.strangers(carphone_clip.frames[::15]) is None
    assert identity.strangers(frames[:1]) is None and identity.strangers(frames[3:]) is None
    caplog.set_level(logging.WARNING)
    track = Track(np.zeros((4, 68, 2)), (64, 64))
    identity.warn_of_strangers(Clip(track, frames, "three.png"))
    assert "three.png: picture 1, 3 and picture 2 look like different people (identity distance 0." in caplog.text
    caplog.clear()
    identity.warn_of_strangers(Clip(track[:1], frames[:1]))
    monkeypatch.setattr(identity, "face_descriptor", lambda frame: (_ for _ in ()).throw(TalkingheadError("dlib is needed here")))
    identity.warn_of_strangers(Clip(track, frames))
    assert not caplog.text
