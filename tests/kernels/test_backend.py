import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from talkinghead_kernels import adain, backend, backends, extension, use_backend

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh():
    """Clear the caches of backends before and after a test."""
    cached_functions = [
        function
        for function in (*vars(backend).values(), *vars(extension).values())
        if hasattr(function, "cache_clear") and function is not extension.load
    ]
    for function in cached_functions:
        function.cache_clear()
    yield
    for function in cached_functions:
        function.cache_clear()


@pytest.fixture
def install_kernels(monkeypatch, fresh):
    """Give the extension kernels: `install_kernels(cpu=["adain_forward"])`."""

    def install(**kernels):
        monkeypatch.setattr(extension, "load", lambda: None)
        report = {
            f"talkinghead_native::{name}": key.upper() for key, names in kernels.items() for name in names
        }
        monkeypatch.setattr(
            torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: report.get(name) == key
        )

    return install


def test_unavailable_backends_give_reasons():
    report = backends()
    assert report["reference"] is None
    for name, reason in report.items():
        if reason is None:
            with use_backend(name):
                pass
        else:
            with pytest.raises(RuntimeError, match=re.escape(reason)), use_backend(name):
                pass


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="'abacus'"), use_backend("abacus"):
        pass


def test_missing_extension_falls_back_to_reference(monkeypatch, fresh):
    monkeypatch.setattr(
        extension,
        "load",
        lambda: "the extension is not built; install with a C++ compiler at hand: pip install .",
    )
    assert backends()["cpp"] == extension.load() and backend.default_backend("cpu") == "reference"
    assert backend.report()["runs"]["cpu"] == dict.fromkeys(backend.KERNELS, "reference")
    assert adain(torch.randn(1, 2, 4, 4), torch.ones(2), torch.zeros(2)).isfinite().all()
    with pytest.raises(RuntimeError, match="cpp cannot run: the extension is not built"), use_backend("cpp"):
        pass


def test_missing_kernel_falls_back_to_reference(install_kernels):
    install_kernels(cpu=["adain_forward", "adain_backward", "normalise_forward"])
    points = torch.zeros(1, 68, 2)
    assert (
        backend.select_kernel("adain_forward", points) is torch.ops.talkinghead_native.adain_forward.default
    )
    assert backend.select_kernel("draw_polylines", points) is None
    with (
        use_backend("cpp"),
        pytest.raises(
            RuntimeError,
            match="^draw_polylines: backend cpp cannot run it: .* without draw_polylines for CPU$",
        ),
    ):
        backend.select_kernel("draw_polylines", points)
    with use_backend("reference"):
        assert backend.select_kernel("adain_forward", points) is None
    report = backend.report()
    assert report["runs"]["cpu"] == {
        "adain": "cpp",
        "power_iteration_": "reference",
        "normalise": "cpp/reference",
        "attention": "reference",
        "winograd": "reference",
        "conv_sequence": "reference",
        "inverted_residual": "reference",
        "soft_argmax": "reference",
        "warp_affine": "reference",
        "draw_polylines": "reference",
        "landmark_motion": "reference",
        "warp": "reference",
    }
    assert report["ops"]["adain"]["cpp"] == "available"
    assert report["ops"]["normalise"]["cpp"] == "the extension was built without normalise_backward for CPU"


def test_extension_without_device_kernels_gives_reason(install_kernels):
    install_kernels(cpu=["draw_polylines"])
    assert backends()["cpp"] is None
    assert backends()["cuda"] == "the extension was built without CUDA kernels"
    assert (
        "yes"
        in next(
            line for line in backend.format_report(backend.report()) if line.startswith("draw_polylines")
        ).split()[2]
    )


def test_tensors_on_other_device_are_rejected(install_kernels):
    install_kernels(cpu=["adain_forward"])
    with (
        use_backend("cpp"),
        pytest.raises(RuntimeError, match="adain_forward: backend cpp runs on cpu, the tensors are on meta"),
    ):
        backend.select_kernel("adain_forward", torch.empty(1, device="meta"))
    with use_backend("cpp"):
        assert backend.select_kernel("adain_forward", torch.zeros(1, dtype=torch.float64)) is None


def test_report_is_complete_json():
    report = json.loads(json.dumps(backend.report()))
    assert list(report) == ["versions", "devices", "backends", "ops", "runs"]
    assert report["versions"]["torch"] == torch.__version__
    assert report["backends"] == {name: reason or "available" for name, reason in backends().items()}
    assert list(report["runs"]) == (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    native_ops = {schema[: schema.index("(")] for schema in extension._SCHEMAS}
    assert {kernel for kernels in backend.KERNELS.values() for kernel in kernels} == native_ops
    for op, states in report["ops"].items():
        assert states["reference"] == "available" and set(states) == set(backend.NAMES)
        for device, runs in report["runs"].items():
            assert all(states[name] == "available" or "/" in runs[op] for name in runs[op].split("/")), device


def test_table_is_aligned_and_gives_reasons(install_kernels):
    install_kernels(cpu=["adain_forward", "adain_backward"])
    head, *rows = backend.format_report(backend.report())
    assert head.split()[:5] == ["op", *backend.NAMES]
    table = rows[: len(backend.KERNELS)]
    assert [row.split()[0] for row in table] == list(backend.KERNELS)
    assert {row[head.index("cpp") :].split()[0] for row in table} == {"yes", "-"}
    assert "cpp has no draw_polylines: the extension was built without draw_polylines for CPU" in rows


def test_module_prints_default_backends():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "kernels")}
    done = subprocess.run(
        [sys.executable, "-m", "talkinghead_kernels"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", done.stdout, re.MULTILINE)
    assert re.search(r"^cpu +\d+ threads?, \w+$", done.stdout, re.MULTILINE)
    assert re.search(r"^reference +available$", done.stdout, re.MULTILINE)
    assert re.search(r"^draw_polylines +yes .*(cpp|reference)$", done.stdout, re.MULTILINE)
    assert done.stderr == ""
