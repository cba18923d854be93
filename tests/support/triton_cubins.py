"""Compile every Triton kernel to a cubin, on a machine without a GPU.

    python triton_cubins.py 80 90 120

test_triton.py runs it. The kernels' Python functions are called with a driver that names the target and
launches nothing, so the same code is compiled as for a launch, with the same argument types, alignment and
options. Prints compute capability, kernel, dtype and bytes of each.
"""

import re
import sys

import torch
import triton
from talkinghead_kernels import triton_kernels
from triton.runtime.jit import JITFunction

from cuda_emulator.triton_emulation import Target

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)


def adain(dtype):
    """Compile AdaIN for planes that fit in registers and for split ones, each in one memory format."""
    turn = DTYPES.index(dtype)
    for size, memory_format in ((16, FORMATS[turn % 2]), (256, FORMATS[(turn + 1) % 2])):
        x = Nowhere(
            torch.empty(4, 512, size, size, dtype=dtype, device="meta").contiguous(
                memory_format=memory_format
            )
        )
        style = torch.empty(4, 512)
        added, relu = (x, True) if memory_format == FORMATS[0] else (None, False)
        triton_kernels.adain_forward(x, added, style, style, 1e-4, relu, x, added, style, style)
        triton_kernels.adain_backward(x, added, x, style, style, style, style, relu, x, style, style)


class Nowhere:
    """A tensor of any size without memory, at an aligned address."""

    def __init__(self, tensor):
        self.tensor, self.dtype, self.shape, self.device = (
            tensor,
            tensor.dtype,
            tensor.shape,
            torch.device("cpu"),
        )

    def data_ptr(self):
        return 1 << 40

    def __getattr__(self, name):
        return getattr(self.tensor, name)


def spectral_norm(dtype):
    weights = [torch.empty(64, 64, 3, 3), torch.empty(64, 64)]
    us = [torch.empty(64) for _ in weights]
    vs = [torch.empty(weight[0].numel()) for weight in weights]
    outputs = [torch.empty(64, 64, 4, 4, dtype=dtype), torch.empty(64, 64, dtype=dtype)]
    constants = torch.empty(2 + 128 + 576 + 64)
    triton_kernels.normalise_forward(weights, us, vs, 1e-4, [1, 0], outputs, constants)
    triton_kernels.normalise_backward(outputs, weights, constants, 1e-4, [1, 0], weights)
    if dtype == torch.float32:
        triton_kernels.power_iteration_(weights, us, vs, 1e-4)


def landmarks():
    parts = [17, 5, 5, 4, 5, 7, 7, 13, 9]  # as many segments as a face has
    indices = [index % 68 for index in range(sum(parts))]
    triton_kernels.draw_polylines(
        torch.empty(2, 68, 2), indices, parts, [100] * 27, torch.empty(2, 3, 256, 256)
    )


def warps(dtype):
    source, field = torch.empty(2, 84, 2), torch.empty(2, 2, 64, 64)
    for memory_format in FORMATS:
        image = torch.empty(2, 3, 256, 256, dtype=dtype).contiguous(memory_format=memory_format)
        triton_kernels.warp_forward(image, field, image)
    if dtype == torch.float32:
        triton_kernels.landmark_motion(source, source, field)


def main(capabilities):
    run = JITFunction.run
    dtype = None
    tables = set()

    def compile_only(kernel, *args, grid, warmup, **options):
        compiled = run(kernel, *args, grid=grid, warmup=True, **options)
        cubin = compiled.asm["cubin"]
        assert cubin[:4] == b"\x7fELF"
        # the interpreter keeps NaN in any maximum, a GPU only in this one
        assert not re.search(r"\b(max|min)\.(ftz\.)?f32", compiled.asm["ptx"]), (
            f"{kernel.__name__} loses NaN in a maximum or minimum"
        )
        if kernel.__name__ == "_fill":
            tables.add((capability, compiled.hash))
        print(capability, kernel.__name__, str(dtype).removeprefix("torch."), len(cubin))
        return compiled

    JITFunction.run = compile_only
    for capability in capabilities:
        triton.runtime.driver.set_active(Target(capability))
        for dtype in DTYPES:
            adain(dtype)
            spectral_norm(dtype)
            warps(dtype)
        landmarks()
    assert len(tables) == len(capabilities), "a table is compiled for its numbers"


main([int(argument) for argument in sys.argv[1:]])
