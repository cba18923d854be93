"""Execution of the CUDA sources of csrc/ on the CPU, compiled by g++ or as PTX from nvcc; see README.md."""

import ctypes
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .ptx_library import CHECKED, CSRC, PtxLibrary, compile_cpp, functions_of, missing_tool, ptx_of

HERE = Path(__file__).parent
DEVICES = ("sm_80", "sm_90", "sm_120")
MISSING = None if shutil.which("g++") else "g++ is not installed"
NO_PTX = missing_tool()
ARCHITECTURES = ("compute_80", "compute_90", "compute_90a")
CODE = [
    "c++",
    *(
        pytest.param(
            name, marks=[pytest.mark.slow, pytest.mark.skipif(NO_PTX is not None, reason=str(NO_PTX))]
        )
        for name in ARCHITECTURES
    ),
]
"""The ways to compile kernels, as parameters of a fixture that calls `build`."""


def build(name: str, code: str, tmp_path_factory: pytest.TempPathFactory) -> "Library":
    """Return the library of a driver, with the kernels compiled as one of CODE.

    Libraries of the same test run are reused.
    """
    folder = tmp_path_factory.getbasetemp() / "cuda_emulator"
    folder.mkdir(exist_ok=True)
    return Library(name, folder, None if code == "c++" else ptx_of(CSRC / "cuda" / f"{name}.cu", code))


def _extent(tensor: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1


class Library:
    """A driver of this folder, NAME.cpp, compiled with the source it includes.

    Args:
        name: of the driver.
        folder: where the library is built.
        ptx: the kernels as nvcc compiled them, which then run instead of the C++ that g++ compiled.

    Attributes:
        version: what the kernels were compiled for, 80 for compute_80; None where that is the device itself.
    """

    def __init__(self, name: str, folder: Path, ptx: str | None = None):
        built = folder / f"{name}.so"
        if not built.exists():
            compile_cpp(
                HERE / f"{name}.cpp",
                built,
                *CHECKED,
                "-include",
                str(HERE / "cuda_emulator.h"),
                f"-I{CSRC / 'include'}",
            )
        target = built
        if ptx is not None:  # a copy, so that both can be loaded
            target = folder / f"{name}_ptx_{hashlib.sha256(ptx.encode()).hexdigest()[:16]}.so"
            shutil.copyfile(built, target)
        self.functions = ctypes.CDLL(str(target))
        self.functions.cuda_emulator_allocate.restype = ctypes.c_void_p
        self.functions.cuda_emulator_ptx_services.restype = ctypes.c_void_p
        self.functions.cuda_emulator_ptx_launches.restype = ctypes.c_int64
        self.functions.cuda_emulator_launches.restype = ctypes.c_char_p
        self.version: int | None = None
        if ptx is not None:
            self._use(PtxLibrary(ptx, folder), target)

    def _use(self, ptx: PtxLibrary, target: Path) -> None:
        self.version, self.ptx = ptx.version, ptx
        ptx.attach(self.functions.cuda_emulator_ptx_services())
        functions = functions_of(target)
        known = ctypes.cast(self.functions.cuda_emulator_ptx_services, ctypes.c_void_p).value
        base = known - functions["cuda_emulator_ptx_services"]
        for name, address in ptx.functions.items():
            kernel = ctypes.c_void_p(base + functions[name])
            self.functions.cuda_emulator_use_ptx(
                kernel, ctypes.c_void_p(address), ctypes.c_int64(ptx.version)
            )

    @property
    def ptx_launches(self) -> int:
        """The number of launches that ran PTX so far."""
        return self.functions.cuda_emulator_ptx_launches()

    def on(self, device: str, schedule: int = 0) -> None:
        """Choose one of DEVICES, and the order of threads: 0 forwards, 1 backwards, more shuffled."""
        self.functions.cuda_emulator_device(DEVICES.index(device))
        self.functions.cuda_emulator_schedule(ctypes.c_uint64(schedule))

    def place(self, tensor: Tensor, aligned: int = 16) -> Tensor:
        """Return a copy with the same strides, in memory that ends where accesses past it are detected.

        Its address is a multiple of `aligned` only.
        """
        placed = self.empty(tensor, aligned)
        flat = [t.as_strided((_extent(t),), (1,), t.storage_offset()) for t in (placed, tensor)]
        flat[0].copy_(flat[1])  # elements that strides of 0 share, once
        return placed

    def empty(self, like: Tensor, aligned: int = 16) -> Tensor:
        """Return a tensor like that of `place`, filled with NaN, which lives until `free`."""
        count = _extent(like)
        size = count * like.element_size()
        # If the address is a multiple of more than `aligned`, place the data one step earlier.
        address = self.functions.cuda_emulator_allocate(ctypes.c_size_t(size), ctypes.c_size_t(aligned))
        if aligned < 16 and address % (2 * aligned) == 0:
            address = self.functions.cuda_emulator_allocate(
                ctypes.c_size_t(size + aligned), ctypes.c_size_t(aligned)
            )
        buffer = (ctypes.c_char * size).from_address(address)
        return torch.frombuffer(buffer, dtype=like.dtype, count=count).as_strided(like.shape, like.stride())

    def free(self) -> None:
        """Unmap all that was placed; those tensors must not be used again."""
        self.functions.cuda_emulator_free_all()

    def launches(self) -> list[str]:
        """Return a line for each launch since the last call.

        Lines are such as "grid 8 1 1 block 128 1 1 cluster 2 shared 64".
        """
        return self.functions.cuda_emulator_launches().decode().splitlines()

    def call(self, name: str, *arguments) -> None:
        """Run an entry point of the driver: it returns null or a message.

        Raises:
            RuntimeError: with that message.
        """
        function = getattr(self.functions, name)
        function.restype = ctypes.c_char_p
        message = function(*(self._c(value) for value in arguments))
        if message:
            raise RuntimeError(message.decode())

    @staticmethod
    def _c(value):
        if value is None:
            return ctypes.c_void_p(None)
        if isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr())
        if isinstance(value, float):
            return ctypes.c_double(value)
        return ctypes.c_int64(value) if isinstance(value, int) else value
