"""The names of instruction sets are the same with a torch that tells them and with one that does not."""

import platform
from types import SimpleNamespace

import pytest
import torch
from talkinghead_kernels import cpu_features, resample


def test_cpu_features_come_from_torch(monkeypatch):
    capabilities = {"avx512_bf16": True, "amx_bf16": False, "sve_max_length": 256, "architecture": "x86_64"}
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    assert cpu_features.cpu_features() == {"avx512_bf16"}


def test_cpu_features_of_torch_2_10_come_from_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    monkeypatch.setattr(cpu_features, "CPUINFO", tmp_path / "cpuinfo")
    assert cpu_features.cpu_features() == frozenset()  # not Linux
    cpu_features.CPUINFO.write_text(
        "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\nbugs\t\t:\n\nprocessor\t: 1\n"
    )
    assert cpu_features.cpu_features() == {"avx512f", "avx512_bf16"}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resample.device_class.__wrapped__(torch.device("cpu")) == "cpu-avx512_bf16"


@pytest.mark.skipif(
    platform.system() != "Linux" or not hasattr(torch.cpu, "get_capabilities"), reason="needs both sources"
)
def test_linux_and_torch_spell_features_equally(monkeypatch):
    used = {"avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"}
    by_torch = cpu_features.cpu_features()
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert cpu_features.cpu_features() & used == by_torch & used
