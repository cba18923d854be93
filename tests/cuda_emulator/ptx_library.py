"""PTX of the sources of csrc/, and libraries built from PTX that the emulator runs."""

import ctypes
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import torch

from .ptx_module import parse, plain_names, without_target
from .ptx_translate import translate

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
INCLUDE = Path(torch.__file__).parent / "include"
NVCC_FLAGS = [
    "-std=c++20",
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
"""The flags of setup.py that matter to kernels."""
CHECKED = ["-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"]
"""The compiler's checks become traps, which the emulator reports with the thread."""


def compile_cpp(source: Path, target: Path, *options: str) -> None:
    """Build a shared library for the emulator.

    Raises:
        RuntimeError: with what the compiler says.
    """
    # without unique symbols: libraries loaded together share nothing
    command = [
        "g++",
        "-x",
        "c++",
        "-std=c++20",
        "-O1",
        "-U_FORTIFY_SOURCE",
        "-fPIC",
        "-shared",
        "-w",
        "-fno-gnu-unique",
    ]
    done = subprocess.run(
        [*command, *options, str(source), "-o", str(target)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")


def ptx_of(source: Path, architecture: str) -> str:
    """Compile a .cu file to PTX by nvcc for an architecture such as "compute_90a".

    Raises:
        RuntimeError: nvcc fails; the message has its output.
    """
    command = [
        "nvcc",
        *NVCC_FLAGS,
        f"-I{INCLUDE}",
        f"-I{INCLUDE}/torch/csrc/api/include",
        f"-I{CSRC / 'include'}",
        f"-I{CSRC / 'cuda'}",
        f"-arch={architecture}",
    ]
    done = subprocess.run([*command, "-ptx", "-o", "-", str(source)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")
    return done.stdout


class PtxLibrary:
    """A module of PTX, translated and built.

    Args:
        text: PTX.
        folder: where the library is built; equal code is built there once, whatever architecture it says it
            is for.

    Attributes:
        version: 90 for sm_90 and sm_90a.
        functions: address of each kernel by its mangled name, as g++ mangles it.
        parameters: how many each has.
    """

    def __init__(self, text: str, folder: Path):
        module = parse(text)
        digest = hashlib.sha256(without_target(text).encode()).hexdigest()[:16]
        target = folder / f"ptx_{digest}.so"
        if not target.exists():
            source = target.with_suffix(".cpp")
            source.write_text(translate(module))
            compile_cpp(source, target, "-fvisibility=hidden", f"-I{HERE}")
        self.version = module.version
        self.library = ctypes.CDLL(str(target))
        table = (ctypes.c_void_p * len(module.kernels)).in_dll(self.library, "ptx_kernels")
        self.functions = {
            plain_names(kernel.name): address for kernel, address in zip(module.kernels, table, strict=True)
        }
        self.parameters = {plain_names(kernel.name): len(kernel.parameters) for kernel in module.kernels}

    def attach(self, services: int) -> None:
        """Run the kernels in the emulator with these services; in one emulator at a time."""
        self.library.ptx_attach(ctypes.c_void_p(services))


def functions_of(library: Path) -> dict[str, int]:
    """Return the address of each function in a shared library by mangled name, local ones included."""
    done = subprocess.run(["nm", str(library)], check=True, capture_output=True, text=True)
    symbols = re.findall(r"^([0-9a-f]+) [tTwW] (\S+)$", done.stdout, re.MULTILINE)
    return {name: int(address, 16) for address, name in symbols}


def missing_tool() -> str | None:
    """Return why PTX cannot be compiled or run here, or None."""
    return next(
        (f"{tool} is not installed" for tool in ("nvcc", "g++", "nm") if shutil.which(tool) is None), None
    )
