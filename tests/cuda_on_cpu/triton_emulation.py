"""Triton without a GPU: kernels are compiled for one, and launches run their PTX in the emulator, on CPU tensors.

A plugin of pytest, for a process of its own, before the kernels are imported: `pytest -p cuda_on_cpu.triton_emulation triton_cases.py`
with TALKINGHEAD_PTX_CAPABILITY=80 or 90 and, for what is built, TALKINGHEAD_PTX_FOLDER.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import triton
from talkinghead_kernels import backend
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from . import Library
from .ptx_library import PtxLibrary

C_TYPES = {"fp32": ctypes.c_float, "i32": ctypes.c_int32, "u32": ctypes.c_uint32, "i64": ctypes.c_int64, "u64": ctypes.c_uint64}


class Target:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


class Emulation:
    """Stands in for launches of Triton's kernels.

    Args:
        capability: of the GPU that is compiled for, 80 or 90; it is one of the emulator's devices.
        folder: where PTX is built.

    Attributes:
        kernels: by name, how many variants of each were launched.
    """

    def __init__(self, capability: int, folder: Path):
        self.folder, self.compile = folder, JITFunction.run
        self.emulator = Library("ptx", folder)
        self.emulator.on(f"sm_{capability}")
        self.libraries: dict[str, PtxLibrary] = {}
        self.kernels: dict[str, int] = {}

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        """`JITFunction.run`, with the emulator's launch."""
        compiled = self.compile(kernel, *args, grid=grid, warmup=True, **options)
        text = compiled.asm["ptx"]
        if text not in self.libraries:
            self.libraries[text] = PtxLibrary(text, self.folder)
            self.libraries[text].attach(self.emulator.functions.cuda_on_cpu_ptx_services())
            self.kernels[kernel.__name__] = self.kernels.get(kernel.__name__, 0) + 1
        library = self.libraries[text]
        ((name, function),) = library.functions.items()
        values = dict(zip(kernel.arg_names, args, strict=False)) | options
        numbers = [number for name in kernel.arg_names for number in _c_values(compiled.src.signature[name], values.get(name))]
        numbers += [ctypes.c_uint64(0)] * (library.parameters[name] - len(numbers))  # Triton's own scratch, which none of ours uses
        addresses = (ctypes.c_void_p * len(numbers))(*map(ctypes.addressof, numbers))
        blocks = (ctypes.c_int64 * 3)(*grid, *[1] * (3 - len(grid)))
        threads, shared = 32 * compiled.metadata.num_warps, compiled.metadata.shared
        self.emulator.call("cuda_on_cpu_launch_ptx", ctypes.c_void_p(function), blocks, threads, shared, addresses)
        return compiled


def _c_values(kind: Any, value: Any) -> Iterator[Any]:
    """What a kernel's parameter is in memory; a tuple is several, a constant none."""
    if isinstance(kind, Sequence) and not isinstance(kind, str):
        for each, number in zip(kind, value, strict=True):
            yield from _c_values(each, number)
    elif kind.startswith("*"):
        yield ctypes.c_uint64(value.data_ptr())
    elif kind != "constexpr":
        yield C_TYPES[kind](value)


def emulate(capability: int, folder: Path) -> Emulation:
    """From now on, in this process, run Triton's kernels in the emulator."""
    triton.runtime.driver.set_active(Target(capability))
    emulation = Emulation(capability, folder)
    JITFunction.run = lambda kernel, *args, **options: emulation.run(kernel, *args, **options)
    backend.interpreted = lambda: True  # as there, tensors are on the CPU
    for known in (backend._reasons, backend._missing, backend._kernel, backend.automatic):
        known.cache_clear()
    return emulation


def pytest_configure(config: Any) -> None:
    config.stash_emulation = emulate(int(os.environ["TALKINGHEAD_PTX_CAPABILITY"]), Path(os.environ["TALKINGHEAD_PTX_FOLDER"]))


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    emulation = config.stash_emulation
    launches = emulation.emulator.ptx_launches
    terminalreporter.write_line(f"launches of PTX: {launches}; variants: {emulation.kernels}")
