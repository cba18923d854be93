"""Runs of a TensorRT engine: calls and their order, and refusals, on fake bindings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from support.fake_tensorrt import (
    DETAILS,
    SIZE,
    STYLES,
    FakeTensorRT,
    install,
    manifest,
    write_engine,
)
from talkinghead.engines import tensorrt_api
from talkinghead.engines.manifest import sidecar
from talkinghead.engines.tensorrt_engine import TensorRTEngine
from talkinghead.errors import TalkingheadError


@pytest.fixture
def fake_trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    return install(FakeTensorRT(), monkeypatch, tmp_path)


def points(*brightness: float) -> np.ndarray:
    landmarks = np.zeros((len(brightness), 68, 2), np.float32)
    landmarks[:, 0, 0] = brightness
    return landmarks


def test_run_captures_graph_once_and_replays(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    engine = TensorRTEngine(write_engine(tmp_path, manifest()))
    frames = engine.run(points(0.2, 1.0))
    assert frames.shape == (2, SIZE, SIZE, 3) and frames.dtype == np.uint8
    assert frames[:, 3, 3, 1].tolist() == [51, 255]
    copied = ("copy", (2, SIZE, SIZE, 3))
    first = [
        ("copy", (2, 68, 2)),
        ("shape", "points", (2, 68, 2)),
        "execute",
        "wait",
        "capture",
        "execute while capturing",
    ]
    assert fake_trt.gpu.calls == [*first, "replay", copied, "wait"]
    fake_trt.gpu.calls.clear()
    later = engine.run(points(0.4, 0.6))
    assert fake_trt.gpu.calls == [("copy", (2, 68, 2)), "replay", copied, "wait"]
    assert later[:, 0, 0, 0].tolist() == [102, 153]
    assert frames[:, 0, 0, 0].tolist() == [51, 255]  # not overwritten


def test_batch_sizes_have_separate_graphs(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    engine = TensorRTEngine(write_engine(tmp_path, manifest()))
    brightness = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    frames = engine.run(points(*brightness))  # pieces of 4 and of 2
    assert frames[:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]
    engine.run(points(*brightness))
    assert [context.shapes["points"][0] for context in fake_trt.contexts] == [4, 2]
    assert fake_trt.gpu.calls.count("capture") == 2


def test_styles_are_separate_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(FakeTensorRT(names=("points", "styles", "frames")), monkeypatch, tmp_path)
    engine = TensorRTEngine(write_engine(tmp_path, manifest(styles="input")))
    frames = engine.run(points(0, 0), np.array([[0.2] * STYLES, [1.0] * STYLES], np.float32))
    assert frames[:, 0, 0, 0].tolist() == [51, 255]
    with pytest.raises(TalkingheadError, match="many people"):
        engine.run(points(0))


def test_run_without_capture_support_still_works(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    fake_trt.capturable = False
    engine = TensorRTEngine(write_engine(tmp_path, manifest()))
    assert engine.run(points(0.2))[0, 0, 0, 0] == 51
    assert "capture" not in fake_trt.gpu.calls and fake_trt.gpu.calls.count("execute") == 2


def test_kernel_cache_persists_between_engines(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    path = write_engine(tmp_path, manifest())
    TensorRTEngine(path).run(points(0.2))
    (kept,) = (tmp_path / "cache").rglob("*.kernels")
    assert kept.read_bytes() == b"kernels" and "sm_86" in kept.name and fake_trt.cached == b""
    TensorRTEngine(path).run(points(0.2))
    assert fake_trt.cached == b"kernels"


def test_tensorrt_has_no_kernel_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_trt = install(FakeTensorRT("tensorrt", "10.13.0"), monkeypatch, tmp_path)
    details = {**DETAILS, "builder": "tensorrt", "builder_version": "10.13.0"}
    TensorRTEngine(write_engine(tmp_path, manifest(details=details))).run(points(0.2))
    assert fake_trt.contexts[0].settings is None and not (tmp_path / "cache").exists()


REFUSED = {
    "was built by tensorrt_rtx 1.6.0": {"details": {**DETAILS, "builder_version": "1.6.0"}},
    "was built by 'pickle'": {"details": {**DETAILS, "builder": "pickle"}},
    "was built for sm_120, Fake 3090 is sm_86": {"details": {**DETAILS, "target": "sm_120"}},
    "is onnx, expected a TensorRT engine": {"format": "onnx"},
}


@pytest.mark.parametrize("line", REFUSED)
def test_mismatched_engine_is_never_deserialized(fake_trt: FakeTensorRT, tmp_path: Path, line: str) -> None:
    with pytest.raises(TalkingheadError, match=line) as error:
        TensorRTEngine(write_engine(tmp_path, manifest(**REFUSED[line])))
    assert "\n" not in str(error.value) and fake_trt.loaded == []


def test_edited_engine_is_never_deserialized(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    path = write_engine(tmp_path, manifest())
    path.write_bytes(b"a plot")
    with pytest.raises(TalkingheadError, match="was cut or edited"):
        TensorRTEngine(path)
    sidecar(path).unlink()
    with pytest.raises(TalkingheadError, match="anna.engine.json is missing"):
        TensorRTEngine(path)
    assert fake_trt.loaded == []


def test_tensorrt_failure_reports_user_error(fake_trt: FakeTensorRT, tmp_path: Path) -> None:
    path = write_engine(tmp_path, manifest())
    fake_trt.names = ("points", "pictures")
    with pytest.raises(TalkingheadError, match="takes and gives"):
        TensorRTEngine(path)
    fake_trt.names, fake_trt.fails = ("points", "frames"), True
    with pytest.raises(TalkingheadError, match="running failed"):
        TensorRTEngine(path).run(points(0.5))
    fake_trt.refuses = True
    with pytest.raises(TalkingheadError, match=r"cannot load it \(the driver is too old\)"):
        TensorRTEngine(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_engine_without_gpu_reports_user_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorrt_api, "require", lambda module, extra: FakeTensorRT())
    details = {**DETAILS, "builder": "tensorrt_rtx"}
    with pytest.raises(TalkingheadError, match="needs an NVIDIA GPU, torch sees none as 'cuda'"):
        TensorRTEngine(write_engine(tmp_path, manifest(details=details)))
