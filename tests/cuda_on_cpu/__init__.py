"""Runs the CUDA sources of csrc/ on the CPU: what cuda_on_cpu.h does, from Python."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
DEVICES = ("sm_80", "sm_90", "sm_120")
MISSING = None if shutil.which("g++") else "g++ is not installed"


def _extent(tensor: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1


class Library:
    """A driver of this folder, NAME.cpp, compiled with the source it includes.

    Args:
        name: of the driver.
        folder: where the library is built.
    """

    def __init__(self, name: str, folder: Path):
        target = folder / f"{name}.so"
        command = ["g++", "-x", "c++", "-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w"]
        # the compiler's checks become traps, which the emulator reports with the thread
        command += ["-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"]
        command += ["-include", str(HERE / "cuda_on_cpu.h"), "-I", str(HERE.parents[1] / "csrc")]
        command += [str(HERE / f"{name}.cpp"), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}.cpp does not compile:\n{done.stderr}")
        self.functions = ctypes.CDLL(str(target))
        self.functions.cuda_on_cpu_allocate.restype = ctypes.c_void_p
        self.functions.cuda_on_cpu_launches.restype = ctypes.c_char_p

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
        return ctypes.c_int64(value)
