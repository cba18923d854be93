"""Values of ATEN_CPU_CAPABILITY, for tests of kernels that exist for several instruction sets."""

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
