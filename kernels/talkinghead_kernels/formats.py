"""Dtypes and memory formats that the ops share."""

import torch
from torch import Tensor

from . import backend

FLOAT_DTYPES = (*backend.FAST_DTYPES, torch.float64)


def stats_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of statistics and sums: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last for maps in that format alone, else torch.contiguous_format."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty tensor of x's shape in x's memory format."""
    return torch.empty_like(x, dtype=dtype, memory_format=memory_format_of(x))


def to_dense(x: Tensor) -> Tensor:
    """Return x, copied where it is neither NCHW-contiguous nor channels_last."""
    return x if x.is_contiguous() else x.contiguous(memory_format=memory_format_of(x))
