"""Runs the CUDA sources of csrc/ on the CPU: as g++ compiles them, or as the PTX that nvcc makes of them. README.md tells how."""

import ctypes
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .ptx_library import CHECKED, CSRC, PtxLibrary, compile_cpp, functions_of, missing, ptx_of

HERE = Path(__file__).parent
DEVICES = ("sm_80", "sm_90", "sm_120")
MISSING = None if shutil.which("g++") else "g++ is not installed"
NO_PTX = missing()
ARCHITECTURES = ("compute_80", "compute_90", "compute_90a")
CODE = [
    "c++",
    *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.skipif(NO_PTX is not None, reason=str(NO_PTX))]) for name in ARCHITECTURES),
]
"""What kernels can be compiled to; parameters of a fixture that calls `build`."""


def build(name: str, code: str, tmp_path_factory: pytest.TempPathFactory) -> "Library":
    """The library of a driver, with the kernels as one of CODE; what was built in this test run is not built again."""
    folder = tmp_path_factory.getbasetemp() / "cuda_on_cpu"
    folder.mkdir(exist_ok=True)
    return Library(name, folder, None if code == "c++" else ptx_of(CSRC / f"{name}_cuda.cu", code))


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
            compile_cpp(HERE / f"{name}.cpp", built, *CHECKED, "-include", str(HERE / "cuda_on_cpu.h"), f"-I{CSRC}")
        target = built
        if ptx is not None:  # a copy, which is loaded beside the first
            target = folder / f"{name}_ptx_{hashlib.sha256(ptx.encode()).hexdigest()[:16]}.so"
            shutil.copyfile(built, target)
        self.functions = ctypes.CDLL(str(target))
        self.functions.cuda_on_cpu_allocate.restype = ctypes.c_void_p
        self.functions.cuda_on_cpu_ptx_services.restype = ctypes.c_void_p
        self.functions.cuda_on_cpu_ptx_launches.restype = ctypes.c_int64
        self.functions.cuda_on_cpu_launches.restype = ctypes.c_char_p
        self.version: int | None = None
        if ptx is not None:
            self._use(PtxLibrary(ptx, folder), target)

    def _use(self, ptx: PtxLibrary, target: Path) -> None:
        self.version, self.ptx = ptx.version, ptx
        ptx.attach(self.functions.cuda_on_cpu_ptx_services())
        functions = functions_of(target)
        known = ctypes.cast(self.functions.cuda_on_cpu_ptx_services, ctypes.c_void_p).value
        base = known - functions["cuda_on_cpu_ptx_services"]
        for name, address in ptx.functions.items():
            kernel = ctypes.c_void_p(base + functions[name])
            self.functions.cuda_on_cpu_use_ptx(kernel, ctypes.c_void_p(address), ctypes.c_int64(ptx.version))

    @property
    def ptx_launches(self) -> int:
        """How many launches ran PTX so far."""
        return self.functions.cuda_on_cpu_ptx_launches()

    def on(self, device: str, schedule: int = 0) -> None:
        """Choose one of DEVICES, and the order of threads: 0 forwards, 1 backwards, more shuffled."""
        self.functions.cuda_on_cpu_device(DEVICES.index(device))
        self.functions.cuda_on_cpu_schedule(ctypes.c_uint64(schedule))

    def place(self, tensor: Tensor, aligned: int = 16) -> Tensor:
        """A copy, same strides, in memory that ends where an access past it is reported; its address is a multiple of `aligned` only."""
        placed = self.empty(tensor, aligned)
        flat = [t.as_strided((_extent(t),), (1,), t.storage_offset()) for t in (placed, tensor)]
        flat[0].copy_(flat[1])  # elements that strides of 0 share, once
        return placed

    def empty(self, like: Tensor, aligned: int = 16) -> Tensor:
        """Like `place`, filled with NaN. Lives until `free`."""
        count = _extent(like)
        size = count * like.element_size()
        # one alignment step is put behind the data where its address must not be a multiple of more
        address = self.functions.cuda_on_cpu_allocate(ctypes.c_size_t(size), ctypes.c_size_t(aligned))
        if aligned < 16 and address % (2 * aligned) == 0:
            address = self.functions.cuda_on_cpu_allocate(ctypes.c_size_t(size + aligned), ctypes.c_size_t(aligned))
        buffer = (ctypes.c_char * size).from_address(address)
        return torch.frombuffer(buffer, dtype=like.dtype, count=count).as_strided(like.shape, like.stride())

    def free(self) -> None:
        """Unmap all that was placed; those tensors must not be used again."""
        self.functions.cuda_on_cpu_free_all()

    def launches(self) -> list[str]:
        """A line for each launch since the last call, such as "grid 8 1 1 block 128 1 1 cluster 2 shared 64"."""
        return self.functions.cuda_on_cpu_launches().decode().splitlines()

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
