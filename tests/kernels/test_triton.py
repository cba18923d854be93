"""Tests of Triton without a GPU: results in the interpreter, and cubins.

Each runs in its own process, because the choice of the interpreter is fixed when kernels are imported.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import talkinghead_kernels
import torch
from talkinghead_kernels import backend

import cuda_emulator

TESTS = Path(__file__).parents[1]
KERNELS = Path(talkinghead_kernels.__file__).parent / "triton_kernels"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def python(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(KERNELS.parent.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@needs_triton
def test_results_in_interpreter():
    done = python(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        TESTS / "support" / "triton_cases.py",
        TRITON_INTERPRET="1",
    )
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, (
        done.stdout + done.stderr
    )


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(cuda_emulator.MISSING is not None, reason=str(cuda_emulator.MISSING))
@pytest.mark.parametrize("capability", [80, 90])
def test_ptx_results_in_emulator(tmp_path, capability):
    # The emulator runs the code that a GPU would run; the interpreter runs the source.
    variables = {
        "TALKINGHEAD_PTX_CAPABILITY": str(capability),
        "TALKINGHEAD_PTX_FOLDER": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    plugin = ("-p", "no:cacheprovider", "-p", "cuda_emulator.triton_emulation")
    done = python("-m", "pytest", "-q", *plugin, TESTS / "support" / "triton_cases.py", **variables)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, (
        done.stdout + done.stderr
    )
    (launched,) = re.findall(r"launches of PTX: \d+; variants: \{(.*)\}", done.stdout)
    assert kernels_in_the_source() <= set(re.findall(r"'(_\w+)'", launched))


def kernels_in_the_source():
    source = "".join(path.read_text() for path in KERNELS.glob("*.py"))
    return set(re.findall(r"^ +(_\w+)\[\(?\w+", source, re.MULTILINE))


@pytest.mark.slow
@needs_triton
def test_every_kernel_compiles_for_every_gpu(tmp_path):
    capabilities = {"80", "90", "120"}
    done = python(TESTS / "support" / "triton_cubins.py", *capabilities, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    compiled = defaultdict(lambda: defaultdict(set))
    for capability, kernel, dtype, _ in map(str.split, done.stdout.splitlines()):
        compiled[kernel][dtype].add(capability)
    assert set(compiled) == kernels_in_the_source()
    for kernel, dtypes in compiled.items():
        assert set.union(*dtypes.values()) == capabilities
        if kernel in (
            "_forward",
            "_backward",
            "_chunk_moments",
            "_apply",
            "_chunk_sums",
            "_apply_backward",
            "_write",
            "_adjoint",
        ):
            assert dtypes == dict.fromkeys(("float32", "bfloat16", "float16"), capabilities)


def test_importing_the_package_does_not_import_triton():
    done = python("-c", "import sys, talkinghead_kernels; print('triton' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_unavailable_triton_gives_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend._triton_unavailable_reason() == "triton is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert backend._triton_unavailable_reason().startswith("torch sees no CUDA device")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend._triton_unavailable_reason() is None
