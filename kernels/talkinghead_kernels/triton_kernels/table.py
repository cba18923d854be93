"""Tables of numbers on the device, written without a copy from the host.

A copy from the host would synchronize, or need memory that outlives a CUDA graph. The numbers are passed as
arguments of a launch instead, which a graph captures like any other.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_GROUP = 128  # numbers per launch: 1 KiB of the 4 KiB of arguments that every driver accepts
# Numbers are passed as 2 (n + offset) + 1: 64 bits wide and never a multiple of 16, for which Triton would
# compile another variant.
_OFFSET = tl.constexpr(1 << 40)


@triton.jit
def _fill(table, values):
    for index in tl.static_range(len(values)):
        tl.store(table + index, (values[index] >> 1) - _OFFSET)


def table(fields: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return the fields in sequence as an int64 tensor on the device."""
    values = list(itertools.chain.from_iterable(fields))
    groups = triton.cdiv(len(values), _GROUP)
    values += [0] * (groups * _GROUP - len(values))
    result = torch.empty(groups * _GROUP, dtype=torch.int64, device=device)
    for start in range(0, len(values), _GROUP):
        _fill[(1,)](
            result[start:],
            tuple(2 * (value + _OFFSET.value) + 1 for value in values[start : start + _GROUP]),
            num_warps=1,
        )
    return result
