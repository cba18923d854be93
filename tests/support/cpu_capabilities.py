"""Values of ATEN_CPU_CAPABILITY, for tests of kernels that exist for several instruction sets."""

import os
import subprocess
import sys

import pytest
import torch

_LEVELS = ("DEFAULT", "AVX2", "AVX512")
_LEVEL = torch.backends.cpu.get_cpu_capability()


def _parameter(level: str) -> object:
    unsupported = _LEVEL not in _LEVELS or _LEVELS.index(level) > _LEVELS.index(_LEVEL)
    skip = pytest.mark.skipif(unsupported, reason=f"this CPU has {_LEVEL} at most, {level} is needed")
    return pytest.param(level.lower(), marks=skip)


CPU_CAPABILITIES = [_parameter(level) for level in _LEVELS]
"""Parameters of a test; those that this CPU lacks are skipped."""


def check_with_capability(file: str, capability: str, only: str) -> None:
    """Run tests of a file in a new process with an older instruction set; the kernels read the variable once.

    Args:
        file: of the tests.
        capability: of `CPU_CAPABILITIES`.
        only: expression of pytest's option -k.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", only]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "MALLOC_PERTURB_": "128"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0 and " passed" in process.stdout, process.stdout
