"""Triton without a GPU: kernels are compiled for one, and launches run their PTX in the emulator.

Tensors are on the CPU. This is a plugin of pytest for a separate process, loaded before the kernels are
imported: `pytest -p cuda_emulator.triton_emulation triton_cases.py`, with TALKINGHEAD_PTX_CAPABILITY=80 or 90
and TALKINGHEAD_PTX_FOLDER for the files that it builds.
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

C_TYPES = {
    "fp32": ctypes.c_float,
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
}


class Target:
    """The part of a driver that compiling needs."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


class Emulation:
    """A replacement for launches of Triton's kernels.

    Args:
        capability: compute capability to compile for, 80 or 90; one of the emulator's devices.
        folder: folder where PTX is built.

    Attributes:
        kernels: number of variants launched of each kernel, by name.
    """

    def __init__(self, capability: int, folder: Path):
        self.folder, self.compile = folder, JITFunction.run
        self.emulator = Library("ptx", folder)
        self.emulator.on(f"sm_{capability}")
        self.libraries: dict[str, PtxLibrary] = {}
        self.kernels: dict[str, int] = {}

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        """Run `JITFunction.run` with a launch in the emulator."""
        compiled = self.compile(kernel, *args, grid=grid, warmup=True, **options)
        text = compiled.asm["ptx"]
        if text not in self.libraries:
            self.libraries[text] = PtxLibrary(text, self.folder)
            self.libraries[text].attach(self.emulator.functions.cuda_emulator_ptx_services())
            self.kernels[kernel.__name__] = self.kernels.get(kernel.__name__, 0) + 1
        library = self.libraries[text]
        ((name, function),) = library.functions.items()
        values = dict(zip(kernel.arg_names, args, strict=False)) | options
        numbers = [
            number
            for name in kernel.arg_names
            for number in _c_values(compiled.src.signature[name], values.get(name))
        ]
        # The other parameters are Triton's workspaces, which no kernel here uses.
        numbers += [ctypes.c_uint64(0)] * (library.parameters[name] - len(numbers))
        addresses = (ctypes.c_void_p * len(numbers))(*map(ctypes.addressof, numbers))
        blocks = (ctypes.c_int64 * 3)(*grid, *[1] * (3 - len(grid)))
        threads, shared = 32 * compiled.metadata.num_warps, compiled.metadata.shared
        self.emulator.call(
            "cuda_emulator_launch_ptx", ctypes.c_void_p(function), blocks, threads, shared, addresses
        )
        return compiled


def _c_values(kind: Any, value: Any) -> Iterator[Any]:
    """Yield a kernel's parameter as C values: several for a tuple, none for a constant."""
    if isinstance(kind, Sequence) and not isinstance(kind, str):
        for item_kind, item in zip(kind, value, strict=True):
            yield from _c_values(item_kind, item)
    elif kind.startswith("*"):
        yield ctypes.c_uint64(value.data_ptr())
    elif kind != "constexpr":
        yield C_TYPES[kind](value)


def emulate(capability: int, folder: Path) -> Emulation:
    """Run Triton's kernels of this process in the emulator from now on."""
    triton.runtime.driver.set_active(Target(capability))
    emulation = Emulation(capability, folder)
    JITFunction.run = lambda kernel, *args, **options: emulation.run(kernel, *args, **options)
    backend.is_triton_interpreted = lambda: True  # tensors are on the CPU, as with the interpreter
    for known in (
        backend.backend_status,
        backend.unavailable_reason,
        backend._load_kernel,
        backend.default_backend,
    ):
        known.cache_clear()
    return emulation


def pytest_configure(config: Any) -> None:
    config.stash_emulation = emulate(
        int(os.environ["TALKINGHEAD_PTX_CAPABILITY"]), Path(os.environ["TALKINGHEAD_PTX_FOLDER"])
    )


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    emulation = config.stash_emulation
    launches = emulation.emulator.ptx_launches
    terminalreporter.write_line(f"launches of PTX: {launches}; variants: {emulation.kernels}")
