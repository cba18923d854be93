"""Entry points of the CUDA kernels of AdaIN in the emulator, and their plans."""

import ctypes
from typing import NamedTuple

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Plan(NamedTuple):
    """The choices of the launch logic."""

    on_chip: int  # one read and one write
    pack_bytes: int
    packs: int  # of each tensor that a thread keeps
    threads: int
    tiles_per_block: int
    lanes: int
    parts: int  # blocks of a tile
    ranks: int  # blocks of a cluster
    group: int  # tiles of a launch
    tiles: int
    rows: int
    shared_bytes: int
    partials: int


def planned(library, device, dtype, shape, last=False, held=1, aligned=True):
    library.on(device)
    out = (ctypes.c_int64 * len(Plan._fields))()
    library.call(
        "plan",
        dtype.itemsize,
        shape[0],
        shape[1],
        shape[2] * shape[3],
        last,
        aligned,
        held,
        ctypes_pointer(out),
    )
    return Plan(*out)


def has_clusters(library):
    """Return whether the kernels were compiled with clusters, which sm_90 and later have."""
    return library.version is None or library.version >= 90


def ctypes_pointer(array):
    return ctypes.addressof(array)


def problem(shape, dtype, last=False, residual=False, wide=True, shared=False, mean=0.0, seed=0):
    torch.manual_seed(seed)
    layout = torch.channels_last if last else torch.contiguous_format
    x, r, grad_y, grad_h = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(4))
    x = (x + mean).to(dtype)
    affine = torch.float32 if wide else dtype
    scale, bias = (
        torch.randn(1 if shared else shape[0], shape[1]).to(affine).expand(shape[:2]) for _ in range(2)
    )
    return x, r if residual else None, scale, bias, grad_y, grad_h


def forward(library, x, residual, scale, bias, last, relu=True, eps=1e-4, aligned=16):
    """Return y, h, mean, rstd and the plan.

    Accesses past the end of a buffer are detected, and outputs are filled with NaN before.
    """
    batch, channels, height, width = x.shape
    placed = [library.place(t, aligned) if t is not None else None for t in (x, residual)]
    y, h = library.empty(x, aligned), library.empty(x, aligned) if residual is not None else None
    mean, rstd = (library.empty(torch.zeros(batch, channels), 4) for _ in range(2))
    affine = [library.place(t, t.element_size()) for t in (scale, bias)]
    out = (ctypes.c_int64 * len(Plan._fields))()
    library.call(
        "forward", DTYPES.index(x.dtype), batch, channels, height * width, last, *placed,
        affine[0], affine[0].stride(0), affine[1], affine[1].stride(0), scale.dtype == torch.float32,
        eps, relu, y, h, mean, rstd, ctypes_pointer(out),
    )  # fmt: skip
    return y, h, mean, rstd, Plan(*out)
