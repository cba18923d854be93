import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from talkinghead_kernels import adain, backend, backends, native, use_backend

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh():
    """What is remembered of backends is forgotten before and after."""
    remembered = [it for it in (*vars(backend).values(), *vars(native).values()) if hasattr(it, "cache_clear") and it is not native.load]
    for it in remembered:
        it.cache_clear()
    yield
    for it in remembered:
        it.cache_clear()


@pytest.fixture
def holds(monkeypatch, fresh):
    """Give the extension kernels: `holds(cpu=["adain_forward"])`."""

    def give(**kernels):
        monkeypatch.setattr(native, "load", lambda: None)
        found = {f"talkinghead_native::{name}": key.upper() for key, names in kernels.items() for name in names}
        monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: found.get(name) == key)

    return give


def test_reference_runs_and_the_others_say_why_not():
    found = backends()
    assert found["reference"] is None
    for name, reason in found.items():
        if reason is None:
            with use_backend(name):
                pass
        else:
            with pytest.raises(RuntimeError, match=re.escape(reason)), use_backend(name):
                pass


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="'abacus'"), use_backend("abacus"):
        pass


def test_without_the_extension_the_reference_runs(monkeypatch, fresh):
    monkeypatch.setattr(native, "load", lambda: "the extension is not built; install with a C++ compiler at hand: pip install .")
    assert backends()["cpp"] == native.load() and backend.automatic("cpu") == "reference"
    assert backend.report()["runs"]["cpu"] == dict.fromkeys(backend.KERNELS, "reference")
    assert adain(torch.randn(1, 2, 4, 4), torch.ones(2), torch.zeros(2)).isfinite().all()
    with pytest.raises(RuntimeError, match="cpp cannot run: the extension is not built"), use_backend("cpp"):
        pass


def test_a_kernel_that_the_extension_lacks_runs_as_reference(holds):
    holds(cpu=["adain_forward", "adain_backward", "normalise_forward"])
    points = torch.zeros(1, 68, 2)
    assert backend.kernel("adain_forward", points) is torch.ops.talkinghead_native.adain_forward.default
    assert backend.kernel("draw_landmarks", points) is None
    with (
        use_backend("cpp"),
        pytest.raises(RuntimeError, match="^draw_landmarks: backend cpp cannot run it: .* without draw_landmarks for CPU$"),
    ):
        backend.kernel("draw_landmarks", points)
    with use_backend("reference"):
        assert backend.kernel("adain_forward", points) is None
    found = backend.report()
    assert found["runs"]["cpu"] == {
        "adain": "cpp",
        "power_iteration_": "reference",
        "normalise": "cpp/reference",
        "attention": "reference",
        "winograd": "reference",
        "draw_landmarks": "reference",
        "landmark_motion": "reference",
        "warp": "reference",
    }
    assert found["ops"]["adain"]["cpp"] == "available"
    assert found["ops"]["normalise"]["cpp"] == "the extension was built without normalise_backward for CPU"


def test_an_extension_without_any_kernel_for_a_device_is_told_apart(holds):
    holds(cpu=["draw_landmarks"])
    assert backends()["cpp"] is None
    assert backends()["cuda"] == "the extension was built without CUDA kernels"
    assert "yes" in next(line for line in backend.lines(backend.report()) if line.startswith("draw_landmarks")).split()[2]


def test_tensors_elsewhere_are_named(holds):
    holds(cpu=["adain_forward"])
    with use_backend("cpp"), pytest.raises(RuntimeError, match="adain_forward: backend cpp runs on cpu, the tensors are on meta"):
        backend.kernel("adain_forward", torch.empty(1, device="meta"))
    with use_backend("cpp"):
        assert backend.kernel("adain_forward", torch.zeros(1, dtype=torch.float64)) is None


def test_report_is_plain_and_whole():
    found = json.loads(json.dumps(backend.report()))
    assert list(found) == ["versions", "devices", "backends", "ops", "runs"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["backends"] == {name: reason or "available" for name, reason in backends().items()}
    assert list(found["runs"]) == (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    native_ops = {schema[: schema.index("(")] for schema in native._SCHEMAS}
    assert {kernel for kernels in backend.KERNELS.values() for kernel in kernels} == native_ops
    for op, states in found["ops"].items():
        assert states["reference"] == "available" and set(states) == set(backend.NAMES)
        for device, runs in found["runs"].items():
            assert all(states[name] == "available" or "/" in runs[op] for name in runs[op].split("/")), device


def test_the_table_is_aligned_and_says_why(holds):
    holds(cpu=["adain_forward", "adain_backward"])
    head, *rows = backend.lines(backend.report())
    assert head.split()[:5] == ["op", *backend.NAMES]
    table = rows[: len(backend.KERNELS)]
    assert [row.split()[0] for row in table] == list(backend.KERNELS)
    assert {row[head.index("cpp") :].split()[0] for row in table} == {"yes", "-"}
    assert "cpp has no draw_landmarks: the extension was built without draw_landmarks for CPU" in rows


def test_module_prints_what_would_run():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "kernels")}
    done = subprocess.run([sys.executable, "-m", "talkinghead_kernels"], capture_output=True, text=True, env=environment, check=True)
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", done.stdout, re.MULTILINE)
    assert re.search(r"^cpu +\d+ threads, \w+$", done.stdout, re.MULTILINE)
    assert re.search(r"^reference +available$", done.stdout, re.MULTILINE)
    assert re.search(r"^draw_landmarks +yes .*(cpp|reference)$", done.stdout, re.MULTILINE)
    assert done.stderr == ""
