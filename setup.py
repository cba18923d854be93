"""Builds `csrc/` into one extension, `talkinghead_kernels._native`; everything else is in pyproject.toml.

TALKINGHEAD_BUILD says what is built:
    auto  "cuda" where torch is a CUDA build and nvcc is found, else "cpu" where a C++ compiler is, else "none"; the default
    none  nothing: the ops run on torch alone
    cpu   the C++ kernels
    cuda  the C++ and the CUDA kernels; a CPU build of torch and a machine without a GPU will do
MAX_JOBS, TORCH_CUDA_ARCH_LIST, CUDA_HOME and CXX mean what they mean to every extension of torch. Only torch's stable ABI is used, so one
wheel serves every Python >= 3.10 and every torch >= 2.10, CPU or CUDA.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import setup

CHOICES = ("auto", "none", "cpu", "cuda")
OLDEST_TORCH = (2, 10)
UNTESTED_TORCH = (2, 16)
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
ARCHITECTURES = ("8.0+PTX", "9.0+PTX", "10.0", "12.0")
"""What is compiled for where TORCH_CUDA_ARCH_LIST is not set. PTX serves what comes later: that of 9.0 with clusters, which 8.0 lacks."""


def import_torch() -> Any:
    """The torch to build against, or None. An isolated build does not see the environment it is for; that one's torch is taken."""
    folders = site.getsitepackages()
    if sys.prefix == sys.base_prefix:
        folders = [*folders, site.getusersitepackages()]
    path = list(sys.path)
    sys.path += folders
    try:
        if importlib.util.find_spec("torch") is None:
            return None
        import torch.utils.cpp_extension

        return torch
    finally:
        sys.path[:] = path  # or setuptools would load the plugins of that environment


def no_compiler() -> str:
    """Why no C++ can be compiled; empty where it can. Whatever is found is in CXX from then on."""
    if not sys.platform.startswith("linux"):
        return f"the kernels are built on Linux only, this is {platform.system()}"
    named = os.environ.get("CXX")
    if named:
        return "" if shutil.which(shlex.split(named)[0]) else f"the C++ compiler that CXX names, {named}, was not found"
    found = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if found is None:
        return "no C++ compiler was found; sudo apt install g++, or name yours in CXX"
    os.environ["CXX"] = found
    return ""


class Cuda(NamedTuple):
    """A CUDA toolkit: its folder, and the folder of its static library."""

    home: Path
    libraries: Path

    def told(self, option: str) -> str:
        """What nvcc prints."""
        return subprocess.run([self.home / "bin" / "nvcc", option], check=True, capture_output=True, text=True).stdout

    def architectures(self) -> str:
        """Those of ARCHITECTURES that this nvcc knows."""
        known = self.told("--list-gpu-arch").split()
        return ";".join(it for it in ARCHITECTURES if f"compute_{''.join(re.findall('[0-9]', it))}" in known)


def within(home: Path, name: str) -> Path | None:
    """A file of a toolkit, in either of its layouts."""
    return next((found for pattern in (name, f"targets/*-linux/{name}") for found in home.glob(pattern)), None)


def find_cuda(torch: Any) -> Cuda | str:
    """The CUDA toolkit to compile with, or why there is none."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    homes = [Path(named)] if named else [*([Path(on_path).resolve().parents[1]] if on_path else []), Path("/usr/local/cuda")]
    # a script named nvcc may stand far from the toolkit that it calls
    home = next((home for home in homes if within(home, "bin/nvcc") and within(home, "include/cuda_runtime.h")), None)
    if home is None:
        where = f"in CUDA_HOME={named}" if named else "on PATH or in /usr/local/cuda"
        return f"nvcc and CUDA's headers were not found {where}; install the CUDA toolkit, or name its folder in CUDA_HOME"
    library = next(filter(None, (within(home, f"{folder}/libcudart_static.a") for folder in ("lib64", "lib", "lib/*"))), None)
    if library is None:
        return f"libcudart_static.a was not found in {home}"
    cuda = Cuda(home, library.parent)
    release = re.search(r"release (\d+)\.\d+", cuda.told("--version"))
    built = torch.version.cuda
    major = built and built.split(".")[0]
    if release and major and release[1] != major:
        return f"nvcc is of CUDA {release[0].split()[1]}, torch of CUDA {built}; install a CUDA {major} toolkit and name it in CUDA_HOME"
    return cuda


def extension(cuda: Cuda | None) -> dict[str, Any]:
    """What `setup` is told to build the extension."""
    from torch.utils import cpp_extension

    class BuildKernels(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            # ninja is not told what a .cu includes where torch is a CPU build
            newest = max((Path(header).stat().st_mtime for header in headers), default=0.0)
            for compiled in Path(self.build_temp).rglob("*.o"):
                if compiled.stat().st_mtime < newest:
                    compiled.unlink()
            super().build_extensions()

    # as -isystem, so that warnings are of our code alone
    includes = [flag for folder in cpp_extension.include_paths() for flag in ("-isystem", folder)]
    flags = ["-O3", "-std=c++20", TARGET, *includes]
    paths = f"-ffile-prefix-map={Path.cwd()}/="  # error messages name files of csrc/, not the machine they were built on
    cxx = [*flags, "-g0", paths, "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra"]
    nvcc = [*flags, "-DUSE_CUDA", "--expt-relaxed-constexpr", "-Xcompiler=-fvisibility=hidden,-fvisibility-inlines-hidden,-Wall"]
    sources, headers = sorted(Path("csrc").glob("*_cpu.cpp")), sorted([*Path("csrc").glob("*.h"), *Path("csrc").glob("*.cuh")])
    link = ["-Wl,--no-as-needed", "-ltorch"]  # what only CUDA builds of torch have is then found through libtorch
    if cuda is not None:
        cpp_extension.CUDA_HOME = str(cuda.home)  # a CPU build of torch does not look for it
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            os.environ["TORCH_CUDA_ARCH_LIST"] = cuda.architectures()
        sources += sorted(Path("csrc").glob("*_cuda.cu"))
        link += [f"-L{cuda.libraries}", "-lcudart_static", "-ldl", "-lpthread", "-lrt"]
    # ninja's, where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    kernels = cpp_extension.CppExtension(
        "talkinghead_kernels._native",
        [str(source) for source in sources],
        depends=[str(header) for header in headers],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        extra_link_args=link,
        py_limited_api=True,
    )
    return {
        "ext_modules": [kernels],
        "cmdclass": {"build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def nothing() -> dict[str, Any]:
    """What `setup` is told to build no extension."""
    if "editable_wheel" in sys.argv:  # an earlier one would still be loaded
        for earlier in Path("kernels/talkinghead_kernels").glob("_native*.so"):
            earlier.unlink()
    return {}


def configuration() -> dict[str, Any]:
    """What `setup` is told.

    Raises:
        SystemExit: what TALKINGHEAD_BUILD demands cannot be.
    """
    wanted = os.environ.get("TALKINGHEAD_BUILD") or "auto"
    if wanted not in CHOICES:
        raise SystemExit(f"talkinghead: TALKINGHEAD_BUILD must be one of {', '.join(CHOICES)}, got {wanted!r}")
    if wanted == "none":
        return nothing()
    asked = bool({"egg_info", "dist_info", "sdist"} & set(sys.argv))  # nothing is built yet

    def without(what: str, lacking: str) -> None:
        if wanted != "auto":
            raise SystemExit(f"talkinghead: TALKINGHEAD_BUILD={wanted}: {lacking}")
        if not asked:
            print(f"talkinghead: going without {what} kernels: {lacking}", flush=True)

    lacking = no_compiler()
    if lacking:
        without("compiled", lacking)
        return nothing()
    torch = import_torch()
    if torch is None and asked:
        return {"setup_requires": [f"torch>={'.'.join(map(str, OLDEST_TORCH))},<{'.'.join(map(str, UNTESTED_TORCH))}"]}
    if torch is None:
        without("compiled", "torch is not installed; pip install torch")
        return nothing()
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        without("compiled", f"torch is {torch.__version__}, {'.'.join(map(str, OLDEST_TORCH))} or newer is needed")
        return nothing()
    cuda = find_cuda(torch) if wanted == "cuda" or (wanted == "auto" and torch.version.cuda) else None
    if isinstance(cuda, str):
        without("CUDA", cuda)
        cuda = None
    return extension(cuda)


setup(**configuration())
