"""ONNX export of the landmark network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from talkinghead import cli
from talkinghead.engines.tensorrt_api import fresh_logger, set_target
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.landmark_network import MAX_BATCH, export_landmark_network
from talkinghead.exporters.tensorrt import parse_onnx
from talkinghead.landmarks.network import SHIPPED, SIZE, LandmarkRows, load_landmark_network
from talkinghead.landmarks.network_blocks import prepare_for_inference
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.system.onnx_runtime import RUNTIMES


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shipped network as ONNX."""
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    path = tmp_path_factory.mktemp("onnx") / "landmarks.onnx"
    export_landmark_network(path)
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [1, 5])
def test_runtime_computes_what_torch_does(exported: Path, runtime: str, batch: int) -> None:
    package = "openvino" if runtime == "openvino" else "onnxruntime"
    pytest.importorskip(package, reason=f"{package} is not installed")
    pictures = torch.rand(batch, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = LandmarkRows(prepare_for_inference(load_landmark_network(SHIPPED)))(pictures).numpy()
    rows = RUNTIMES[runtime](exported, "cpu", "fp32")({"pictures": pictures.numpy()})
    assert rows.shape == (batch, 79, 3)
    np.testing.assert_allclose(rows, expected, atol=2e-3)


def test_detector_runs_the_file(exported: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    near = np.random.default_rng(1).uniform(80, 120, (68, 2))
    faces = open_detector(str(exported))._run([frame], [open_crop(near)])  # type: ignore[attr-defined]
    expected = open_detector("network")._run([frame], [open_crop(near)])  # type: ignore[attr-defined]
    np.testing.assert_allclose(faces[0].landmarks, expected[0].landmarks, atol=0.2)


def open_crop(near: np.ndarray) -> object:
    """Return the crop around landmarks."""
    from talkinghead.landmarks.oriented_crop import crop_of_landmarks

    return crop_of_landmarks(near, 3.8)


def test_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    path = tmp_path / "landmarks.onnx"
    assert cli.main(["export-landmarks", "--out", str(path)]) == 0
    assert path.stat().st_size > 100_000
    assert "[B, 79, 3]" in capsys.readouterr().out


def test_file_of_something_else_reports_user_error(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    with pytest.raises(TalkingheadError, match=r"text\.onnx: cannot be run as a landmark network"):
        open_detector(str(path))
    with pytest.raises(TalkingheadError, match=r"text\.onnx: cannot be read as a landmark network"):
        export_landmark_network(tmp_path / "out.onnx", path)


def test_tensorrt_builds_the_file(exported: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    logger = fresh_logger(trt)
    builder = trt.Builder(logger)
    network = parse_onnx(trt, builder, exported, path=exported, logger=logger)
    assert [network.get_output(index).name for index in range(network.num_outputs)] == ["rows"]
    config = builder.create_builder_config()
    set_target(trt, config, "sm_120")
    profile = builder.create_optimization_profile()
    row = (3, SIZE, SIZE)
    profile.set_shape("pictures", (1, *row), (16, *row), (MAX_BATCH, *row))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, logger.errors
    assert plan.nbytes > 500_000
