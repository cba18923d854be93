"""Build `csrc/` into one extension, `talkinghead_kernels._native`, and fetch the runtime of exported pages;
all other settings are in pyproject.toml.

TALKINGHEAD_BUILD selects what is built:
    auto  the default: "cuda" if torch is a CUDA build and nvcc is found, else "cpu" if a C++ compiler is
          found, else "none"
    none  nothing: the ops run on torch only
    cpu   the C++ kernels
    cuda  the C++ and the CUDA kernels; a CPU build of torch and a machine without a GPU are enough
MAX_JOBS, TORCH_CUDA_ARCH_LIST, CUDA_HOME and CXX have the same meaning as for other extensions of torch. Only
torch's stable ABI is used, so one wheel works with every Python >= 3.10 and every torch >= 2.10, CPU or CUDA.

onnxruntime-web, which package-lock.json pins, comes by npm and goes into the package. Without npm, or offline
(`npm_config_offline=true`), the package is built all the same; `talkinghead export --format web` refuses.
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

BUILD_CHOICES = ("auto", "none", "cpu", "cuda")
OLDEST_TORCH = (2, 10)
UNTESTED_TORCH = (2, 16)
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
ARCHITECTURES = ("8.0+PTX", "9.0+PTX", "10.0", "12.0")
"""The architectures to compile for if TORCH_CUDA_ARCH_LIST is not set.

Later GPUs run the PTX: that of 9.0 uses clusters, which 8.0 lacks.
"""

PAGE_RUNTIME = Path("talkinghead/exporters/static/onnxruntime")
PAGE_RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web that a page loads: by WASM the first three, by WebGPU the others."""
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
MAX_FETCH_S = 600


def import_torch() -> Any:
    """Return the torch to build against, or None.

    An isolated build does not see the environment that it is for; import torch from that environment.
    """
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
        sys.path[:] = path  # otherwise setuptools would load the plugins of that environment


def compiler_error() -> str:
    """Return why no C++ can be compiled, or "" after setting CXX to the compiler found."""
    if not sys.platform.startswith("linux"):
        return f"the kernels are built on Linux only, this is {platform.system()}"
    named = os.environ.get("CXX")
    if named:
        is_installed = shutil.which(shlex.split(named)[0])
        return "" if is_installed else f"the C++ compiler that CXX names, {named}, was not found"
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return "no C++ compiler was found; sudo apt install g++, or name yours in CXX"
    os.environ["CXX"] = compiler
    return ""


class Cuda(NamedTuple):
    """A CUDA toolkit: its folder, and the folder of its static library."""

    home: Path
    libraries: Path

    def nvcc_output(self, option: str) -> str:
        """Return the output of nvcc with an option."""
        return subprocess.run(
            [self.home / "bin" / "nvcc", option], check=True, capture_output=True, text=True
        ).stdout

    def architectures(self) -> str:
        """Return those of ARCHITECTURES that this nvcc supports."""
        supported = self.nvcc_output("--list-gpu-arch").split()
        return ";".join(
            name for name in ARCHITECTURES if f"compute_{''.join(re.findall('[0-9]', name))}" in supported
        )


def find_in_toolkit(home: Path, name: str) -> Path | None:
    """Return the path of a file of a toolkit, in either of its layouts, or None."""
    patterns = (name, f"targets/*-linux/{name}")
    return next((path for pattern in patterns for path in home.glob(pattern)), None)


def find_cuda_home() -> Path | str:
    """Return the folder of the CUDA toolkit, or the reason why there is none."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    if named:
        homes = [Path(named)]
    else:
        homes = [*([Path(on_path).resolve().parents[1]] if on_path else []), Path("/usr/local/cuda")]
    for home in homes:
        # A script named nvcc may be outside the toolkit that it calls, so look for the headers too.
        if find_in_toolkit(home, "bin/nvcc") and find_in_toolkit(home, "include/cuda_runtime.h"):
            return home
    searched = f"in CUDA_HOME={named}" if named else "on PATH or in /usr/local/cuda"
    return (
        f"nvcc and CUDA's headers were not found {searched}; install the CUDA toolkit, or name its folder in "
        "CUDA_HOME"
    )


def find_cuda(torch: Any) -> Cuda | str:
    """Return the CUDA toolkit to compile with, or the reason why there is none."""
    home = find_cuda_home()
    if isinstance(home, str):
        return home
    candidates = (
        find_in_toolkit(home, f"{folder}/libcudart_static.a") for folder in ("lib64", "lib", "lib/*")
    )
    library = next(filter(None, candidates), None)
    if library is None:
        return f"libcudart_static.a was not found in {home}; install the complete CUDA toolkit"
    cuda = Cuda(home, library.parent)
    release = re.search(r"release (\d+)\.\d+", cuda.nvcc_output("--version"))
    torch_cuda = torch.version.cuda
    major = torch_cuda and torch_cuda.split(".")[0]
    if release and major and release[1] != major:
        return (
            f"nvcc is of CUDA {release[0].split()[1]}, torch of CUDA {torch_cuda}; install a CUDA {major} "
            "toolkit and name it in CUDA_HOME"
        )
    return cuda


def headers() -> list[Path]:
    """Return the files that sources include."""
    return sorted(path for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inl", ".cuh"))


def compiler_flags(include_paths: list[str]) -> dict[str, list[str]]:
    """Return the flags of the C++ compiler and of nvcc."""
    # Include torch with -isystem, so that the compiler warns of this project's code only.
    system_includes = [flag for folder in include_paths for flag in ("-isystem", folder)]
    # torch sets no -gencode if any of these flags contains "arch", as the path of a folder may.
    has_arch = any("arch" in folder for folder in include_paths)
    flags = ["-O3", "-std=c++20", TARGET]
    # Error messages name files of csrc/, not folders of the machine that built them.
    prefix_map = f"-ffile-prefix-map={Path.cwd()}/="
    visibility = "-fvisibility=hidden,-fvisibility-inlines-hidden"
    nvcc = [*flags, "-DUSE_CUDA", "--expt-relaxed-constexpr", f"-Xcompiler={visibility},-Wall"]
    return {
        "cxx": [*flags, *system_includes, "-g0", prefix_map, *visibility.split(","), "-Wall", "-Wextra"],
        "nvcc": nvcc if has_arch else [*nvcc, *system_includes],
    }


def extension_kwargs(cuda: Cuda | None) -> dict[str, Any]:
    """Return the arguments of `setup` that build the extension."""
    from torch.utils import cpp_extension

    class BuildKernels(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            # With a CPU build of torch, ninja does not know the headers of .cu files.
            newest = max((path.stat().st_mtime for path in headers()), default=0.0)
            for compiled in Path(self.build_temp).rglob("*.o"):
                if compiled.stat().st_mtime < newest:
                    compiled.unlink()
            super().build_extensions()

    sources = sorted(Path("csrc/cpu").glob("*.cpp"))
    # Symbols that only CUDA builds of torch have are resolved through libtorch.
    link = ["-Wl,--no-as-needed", "-ltorch"]
    if cuda is not None:
        cpp_extension.CUDA_HOME = str(cuda.home)  # a CPU build of torch does not look for it
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            os.environ["TORCH_CUDA_ARCH_LIST"] = cuda.architectures()
        sources += sorted(Path("csrc/cuda").glob("*.cu"))
        link += [f"-L{cuda.libraries}", "-lcudart_static", "-ldl", "-lpthread", "-lrt"]
    # ninja is found in the environment even if that is not activated.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    kernels = cpp_extension.CppExtension(
        "talkinghead_kernels._native",
        [str(path) for path in sources],
        depends=[str(path) for path in headers()],
        include_dirs=[str(Path(folder).absolute()) for folder in ("csrc", "csrc/include")],
        extra_compile_args=compiler_flags(cpp_extension.include_paths()),
        extra_link_args=link,
        py_limited_api=True,
    )
    return {
        "ext_modules": [kernels],
        "cmdclass": {"build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def no_extension() -> dict[str, Any]:
    """Return the arguments of `setup` for a pure-Python build."""
    if "editable_wheel" in sys.argv:  # otherwise an extension built earlier would still be loaded
        for earlier in Path("kernels/talkinghead_kernels").glob("_native*.so"):
            earlier.unlink()
    return {}


def only_metadata() -> bool:
    """Return whether `setup` is run for metadata only, and builds nothing yet."""
    return bool({"egg_info", "dist_info", "sdist"} & set(sys.argv))


def fetch_page_runtime() -> None:
    """Copy onnxruntime-web into the package, unless the version of package-lock.json is there; or print why
    it cannot be fetched.
    """
    lock = Path("package-lock.json")
    fetched = PAGE_RUNTIME / lock.name
    if lock.is_file() and fetched.is_file() and fetched.read_bytes() == lock.read_bytes():
        return
    reason = page_runtime_error(lock)
    if reason:
        print(f"talkinghead: building without the runtime of exported pages: {reason}", flush=True)
        return
    for name in PAGE_RUNTIME_FILES:
        shutil.copyfile(Path("node_modules/onnxruntime-web/dist", name), PAGE_RUNTIME / name)
    shutil.rmtree("node_modules")
    shutil.copyfile(lock, fetched)  # last: it says that all files are there


def page_runtime_error(lock: Path) -> str:
    """Fetch what a lock file pins into node_modules; return why it cannot be fetched, or ""."""
    npm = shutil.which("npm")
    if not lock.is_file():
        return f"{lock} is missing"
    if npm is None:
        return "npm was not found; sudo apt install npm"
    try:
        done = subprocess.run([npm, *NPM_CI], capture_output=True, text=True, timeout=MAX_FETCH_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm failed ({type(error).__name__})"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"npm failed ({lines[0][:200]})" if done.returncode else ""


def skip_or_fail(build: str, kernels: str, reason: str) -> None:
    """Print that a kind of kernels is skipped, or fail if they were requested.

    Raises:
        SystemExit: TALKINGHEAD_BUILD requests them.
    """
    if build != "auto":
        raise SystemExit(f"talkinghead: TALKINGHEAD_BUILD={build}: {reason}")
    if not only_metadata():
        print(f"talkinghead: building without {kernels} kernels: {reason}", flush=True)


def torch_error(torch: Any) -> str:
    """Return why the kernels cannot be built against a torch, or ""."""
    if torch is None:
        return "torch is not installed; pip install torch"
    oldest = ".".join(map(str, OLDEST_TORCH))
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        return f"torch is {torch.__version__}, {oldest} or newer is needed; pip install 'torch>={oldest}'"
    return ""


def setup_kwargs() -> dict[str, Any]:
    """Return the arguments of `setup`.

    Raises:
        SystemExit: TALKINGHEAD_BUILD is unknown, or requests kernels that cannot be built.
    """
    build = os.environ.get("TALKINGHEAD_BUILD") or "auto"
    if build not in BUILD_CHOICES:
        choices = ", ".join(BUILD_CHOICES)
        raise SystemExit(f"talkinghead: TALKINGHEAD_BUILD must be one of {choices}, got {build!r}")
    if build == "none":
        return no_extension()
    reason = compiler_error()
    if reason:
        skip_or_fail(build, "compiled", reason)
        return no_extension()
    torch = import_torch()
    if torch is None and only_metadata():
        oldest, untested = (".".join(map(str, release)) for release in (OLDEST_TORCH, UNTESTED_TORCH))
        return {"setup_requires": [f"torch>={oldest},<{untested}"]}
    reason = torch_error(torch)
    if reason:
        skip_or_fail(build, "compiled", reason)
        return no_extension()
    cuda = find_cuda(torch) if build == "cuda" or (build == "auto" and torch.version.cuda) else None
    if isinstance(cuda, str):
        skip_or_fail(build, "CUDA", cuda)
        cuda = None
    return extension_kwargs(cuda)


if {"bdist_wheel", "editable_wheel"} & set(sys.argv):
    fetch_page_runtime()
setup(**setup_kwargs())
