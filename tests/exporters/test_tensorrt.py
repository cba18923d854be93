"""Builds and refits of TensorRT engines, on fake bindings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SMALL_NETWORKS
from support.fake_tensorrt import (
    DETAILS,
    FakeGpu,
    FakeTensorRT,
    install,
    manifest,
    write_engine,
)
from talkinghead.config import Config
from talkinghead.engines.manifest import Manifest
from talkinghead.engines.tensorrt_engine import TensorRTEngine
from talkinghead.errors import TalkingheadError
from talkinghead.exporters import tensorrt
from talkinghead.exporters.tensorrt import build_tensorrt, refit_tensorrt
from talkinghead.model import Person, random_model
from talkinghead.system.file_hash import sha256


@pytest.fixture
def fake_trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    return install(FakeTensorRT(), monkeypatch, tmp_path)


@pytest.fixture
def person() -> Person:
    model = random_model(Config("tiny", SMALL_NETWORKS))
    styles = torch.zeros(1, model.generator.style_length)
    return Person(model.config, model.generator, styles, np.full((68, 2), 0.5, np.float32), "", False)


@pytest.fixture
def writing(fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the ONNX export, the builder and the verification.

    Returns:
        their calls, and in "psnr" the results of the next verifications.
    """
    calls: dict[str, Any] = {"built": [], "probed": [], "psnr": [45.678]}

    def write_onnx(
        person: Person, path: Path, precision: str, batch: int, input: str, output: str, name: str
    ) -> Manifest:
        path.write_bytes(b"onnx")
        return manifest(format="onnx", precision=precision, batch=batch, person=name, details={"opset": 20})

    def build(job: Any, refittable: bool) -> tuple[bytes, int]:
        calls["built"].append(refittable)
        return f"built for {job.target}".encode(), 0

    def probe(engine: TensorRTEngine, person: Person) -> float:
        calls["probed"].append(fake_trt.loaded[-1])
        psnr_db = calls["psnr"].pop(0)
        if psnr_db < 40:
            raise TalkingheadError("tensorrt: its frames are 7 dB from torch's")
        return psnr_db

    monkeypatch.setattr(tensorrt, "write_onnx", write_onnx)
    monkeypatch.setattr(tensorrt, "_build_plan", build)
    monkeypatch.setattr(tensorrt, "verify_against_torch", probe)
    return calls


def test_build_is_verified_before_kept(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    path = tmp_path / "new" / "anna.engine"
    details = build_tensorrt(person, path, name="anna.safetensors").details
    assert (
        details["verified"]
        and details["psnr"] == 45.7
        and details["refittable"]
        and details["target"] == "sm_86"
    )
    assert writing["probed"] == [b"built for sm_86"] == [path.read_bytes()]
    assert sorted(file.name for file in path.parent.iterdir()) == ["anna.engine", "anna.engine.json"]


def test_wrong_refittable_build_falls_back(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    writing["psnr"] = [7.0, 45.0]
    details = build_tensorrt(person, tmp_path / "anna.engine").details
    assert writing["built"] == [True, False] and details["verified"] and not details["refittable"]
    writing["psnr"] = [7.0, 7.0]
    with pytest.raises(TalkingheadError, match="7 dB"):
        build_tensorrt(person, tmp_path / "berta.engine")
    assert not [file.name for file in tmp_path.iterdir() if "berta" in file.name or "tensorrt." in file.name]


def test_build_for_other_gpu_is_unverified(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    details = build_tensorrt(person, tmp_path / "anna.engine", target="sm_120").details
    assert (
        not details["verified"]
        and details["unverified"] == "it is for sm_120, the GPU where it was built is sm_86"
    )
    assert writing["probed"] == []


def base(folder: Path, person: Person, **other: Any) -> Path:
    size = person.config.networks.image_size
    return write_engine(folder, manifest(preset=person.config.preset, size=size, **other))


def test_refit_is_verified_and_not_refittable(
    fake_trt: FakeTensorRT, writing: dict[str, Any], person: Person, tmp_path: Path
) -> None:
    path = tmp_path / "berta.engine"
    manifest_of_refit = refit_tensorrt(
        base(tmp_path, person), person, path, "berta.safetensors", precision="fp16"
    )
    assert (
        path.read_bytes() == b"refitted"
        and writing["probed"] == [b"refitted"]
        and fake_trt.loaded[0] == b"a plan"
    )
    assert manifest_of_refit.person == "berta.safetensors" and not manifest_of_refit.details["refittable"]
    assert manifest_of_refit.details["base_sha256"] == sha256(tmp_path / "anna.engine")
    with pytest.raises(TalkingheadError, match="cannot be refitted"):
        refit_tensorrt(base(tmp_path, person, details={**DETAILS, "refittable": False}), person, path)


def test_refit_rejects_mismatched_base(
    fake_trt: FakeTensorRT, writing: dict[str, Any], person: Person, tmp_path: Path
) -> None:
    path = tmp_path / "berta.engine"
    with pytest.raises(TalkingheadError, match="has precision 'fp16', expected 'fp32'"):
        refit_tensorrt(base(tmp_path, person), person, path, precision="fp32")
    with pytest.raises(TalkingheadError, match="has preset 'paper'"):
        refit_tensorrt(write_engine(tmp_path, manifest(preset="paper")), person, path)
    with pytest.raises(TalkingheadError, match="has styles 'constant', expected 'input'"):
        refit_tensorrt(base(tmp_path, person), replace(person, feed_forward=True), path)
    with pytest.raises(TalkingheadError, match="was built for sm_120"):
        refit_tensorrt(base(tmp_path, person, details={**DETAILS, "target": "sm_120"}), person, path)
    assert fake_trt.loaded == [] and not path.exists()


def test_failed_refit_leaves_no_files(
    fake_trt: FakeTensorRT, writing: dict[str, Any], person: Person, tmp_path: Path
) -> None:
    start, path = base(tmp_path, person), tmp_path / "berta.engine"
    fake_trt.missing = ["generator.out.bias"]
    with pytest.raises(
        TalkingheadError, match="needs 1 weights that the person lacks, such as 'generator.out.bias'"
    ):
        refit_tensorrt(start, person, path)
    fake_trt.missing, fake_trt.complaint = [], "no weight styles"
    with pytest.raises(TalkingheadError, match=r"do not fit it \(no weight styles\)"):
        refit_tensorrt(start, person, path)
    fake_trt.complaint, fake_trt.fails = "", True
    with pytest.raises(TalkingheadError, match="refitting failed"):
        refit_tensorrt(start, person, path)
    fake_trt.fails, writing["psnr"] = False, [7.0]
    with pytest.raises(TalkingheadError, match="7 dB"):
        refit_tensorrt(start, person, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["anna.engine", "anna.engine.json"]


class FakeConfig:
    """Fake configuration of a builder that supports timing caches."""

    def __init__(self, refuses: bytes) -> None:
        self.refuses, self.used = refuses, b"?"

    def create_timing_cache(self, kept: bytes) -> bytes:
        return kept

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache == self.refuses:
            return False
        self.used = cache
        return True

    def get_timing_cache(self) -> Any:
        return type("Cache", (), {"serialize": lambda _: b"times"})()


def test_timings_are_saved_by_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    trt, gpu = FakeTensorRT("tensorrt", "10.13.0"), FakeGpu()
    config = FakeConfig(b"foreign")
    kept = tensorrt._load_timings(trt, config, gpu)
    assert config.used == b"" and kept.name == "tensorrt-10.13.0-Fake_3090.timings"
    tensorrt._save_timings(config, kept)
    tensorrt._load_timings(trt, config, gpu)
    assert config.used == b"times"
    kept.write_bytes(b"foreign")
    tensorrt._load_timings(trt, config, gpu)
    assert config.used == b""
