"""Offline builds of copies of the project, with and without a compiler, nvcc and torch."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = (
    "-m",
    "pip",
    "wheel",
    "-v",
    "--no-index",
    "--no-build-isolation",
    "--no-deps",
    "--disable-pip-version-check",
    "-w",
    "wheels",
)
IN_PLACE = ("setup.py", "build_ext", "--inplace")
NO_COMPILER = {"CXX": "/nonexistent/c++"}
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler is installed"
)
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


NPM = """#!/bin/sh
# a fake npm: the file `offline` says that it fails, `npm_calls` records the calls
here="{here}"
echo "$*" >>"$here/npm_calls"
[ ! -e "$here/offline" ] || {{ echo "npm error network" >&2; exit 1; }}
mkdir -p node_modules/onnxruntime-web/dist
for name in ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm ort.webgpu.min.mjs \\
  ort-wasm-simd-threaded.asyncify.mjs ort-wasm-simd-threaded.asyncify.wasm; do
  echo "$name" >"node_modules/onnxruntime-web/dist/$name"
done
"""


class Project:
    """A copy of the files that are installed, with a `csrc/` that compiles quickly and a fake npm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        fetched = ("*.wasm", "*.mjs", "package-lock.json")
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors", *fetched)
        for name in ("kernels", "talkinghead"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        files = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
        for name in (*files, "package.json", "package-lock.json"):
            shutil.copy(ROOT / name, self.folder)
        self.tools = folder / "tools"
        self.tools.mkdir()
        (self.tools / "npm").write_text(NPM.format(here=self.tools))
        (self.tools / "npm").chmod(0o755)
        self.csrc = self.folder / "csrc"
        for name in ("include", "cpu", "cuda"):
            (self.csrc / name).mkdir(parents=True)
        (self.csrc / "include" / "answer.h").write_text("#define ANSWER 1\n")
        (self.csrc / "cpu" / "tiny.cpp").write_text(
            '#include "answer.h"\nextern "C" [[gnu::visibility("default")]] int cpu() { return ANSWER; }\n'
        )

    def python(
        self, *arguments: str, build: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy, with output and errors as one text."""
        unset = (
            "TALKINGHEAD_BUILD",
            "CXX",
            "CC",
            "CUDA_HOME",
            "CUDA_PATH",
            "TORCH_CUDA_ARCH_LIST",
            "PYTHONPATH",
        )
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        choice = {"TALKINGHEAD_BUILD": build} if build else {}
        path = f"{self.tools}{os.pathsep}{kept.get('PATH', os.defpath)}"
        variables = {**kept, "PATH": path, "MAX_JOBS": "1", **environment, **choice}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    def wheel(self, source: str = ".", build: str | None = None, **environment: str) -> tuple[Path, str]:
        """Build the wheel with pip, and return its path and the output."""
        done = self.python(*PIP, source, build=build, **environment)
        assert done.returncode == 0, done.stdout
        (wheel,) = (self.folder / "wheels").iterdir()
        return wheel, done.stdout

    def answers(self, *names: str, environment: dict[str, str] | None = None) -> list[int]:
        """Return the results of functions of the extension that was built in place."""
        code = (
            "import ctypes, glob, torch; library = "
            "ctypes.CDLL(glob.glob('kernels/talkinghead_kernels/_native.abi3.so')[0])\n"
        )
        done = self.python(
            "-c", code + f"print(*(getattr(library, name)() for name in {names}))", **(environment or {})
        )
        assert done.returncode == 0, done.stdout
        return [int(word) for word in done.stdout.split()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a call failed with one line of this project, and return it."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout, done.stdout
    (line,) = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("talkinghead: ")]
    return line


def test_none_builds_pure_python_wheel(project: Project) -> None:
    wheel, _ = project.wheel(build="none")
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {"talkinghead/py.typed", "talkinghead_kernels/py.typed", "talkinghead_kernels/backend.py"} <= set(
        names
    )
    assert not [
        name
        for name in names
        if re.search(r"\.(so|cpp|cu|h)$", name) or name.startswith(("csrc", "kernels", "tests"))
    ]


@pytest.mark.slow
@needs_compiler
def test_source_distribution_builds_kernels_that_run(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.csrc)
    shutil.copytree(ROOT / "csrc", project.csrc)
    packed = project.python(
        "-c", "from setuptools import build_meta; build_meta.build_sdist('.')", build="none"
    )
    assert packed.returncode == 0, packed.stdout
    (source,) = project.folder.glob("*.tar.gz")
    wheel, output = project.wheel(source.name, build="cpu", MAX_JOBS="2")
    assert "-cp310-abi3-linux_" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if re.search(r"\.(so|cpp|cu|h)$", name)] == [
        "talkinghead_kernels/_native.abi3.so"
    ]
    assert [line for line in output.splitlines() if "csrc/" in line and "warning: " in line] == []
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    library = (tmp_path / "unpacked" / "talkinghead_kernels" / "_native.abi3.so").read_bytes()
    assert not re.search(rb"/csrc/cpu/\w+\.cpp", library)  # the folder that it was built in
    code = (
        "import torch, talkinghead_kernels as ops; x, s = torch.randn(2, 3, 8, 8), torch.rand(2, 3)\n"
        "with ops.use_backend('cpp'): fast = ops.adain(x, s, s)\n"
        "with ops.use_backend('reference'): torch.testing.assert_close(fast, ops.adain(x, s, s))\n"
        "print(ops.__file__)"
    )
    ran = project.python("-c", code, PYTHONPATH=str(tmp_path / "unpacked"))
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines()[-1].startswith(str(tmp_path / "unpacked"))


@pytest.mark.slow
@needs_compiler
def test_auto_compiles_and_rebuilds_after_header_change(project: Project) -> None:
    for answer in (1, 2):
        (project.csrc / "include" / "answer.h").write_text(f"#define ANSWER {answer}\n")
        done = project.python(*IN_PLACE)
        assert done.returncode == 0, done.stdout
        assert "building without compiled" not in done.stdout
        assert project.answers("cpu") == [answer]


@pytest.mark.slow
@needs_compiler
@needs_nvcc
@pytest.mark.parametrize(("build", "torch_cuda"), [("cuda", None), ("auto", "nvcc's")])
def test_cuda_builds_without_gpu_and_loads_with_cpu_torch(
    project: Project, build: str, torch_cuda: str | None
) -> None:
    assert NVCC is not None
    (project.csrc / "cuda" / "tiny.cu").write_text(
        '#include "answer.h"\n#include <cuda_runtime.h>\n__global__ void kernel(int* at) { *at = ANSWER; }\n'
        'extern "C" [[gnu::visibility("default")]] int cuda() { cudaGetLastError(); return ANSWER; }\n'
        "void launch(int* at) { kernel<<<1, 1>>>(at); }\n"
    )
    release = re.search(
        r"release (\d+\.\d+)",
        subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout,
    )
    assert release
    for answer in (1, 2) if build == "cuda" else (1,):  # the second time only the header has changed
        (project.csrc / "include" / "answer.h").write_text(f"#define ANSWER {answer}\n")
        done = project.python(
            *build_with_torch_cuda(torch_cuda and release[1]), build=build, TORCH_CUDA_ARCH_LIST="9.0a"
        )
        assert done.returncode == 0, done.stdout
        assert re.findall(r"gencode=\S*?code=(\w+)", done.stdout) == ["sm_90a"]
        assert project.answers("cpu", "cuda", environment={"LD_BIND_NOW": "1"}) == [answer, answer]


@pytest.mark.slow
@needs_compiler
@needs_nvcc
def test_cuda_architectures_do_not_depend_on_machine(project: Project) -> None:
    (project.csrc / "cuda" / "tiny.cu").write_text("#error enough\n")
    done = project.python(*IN_PLACE, build="cuda", TORCH_CUDA_ARCH_LIST="")
    assert {"sm_80", "compute_80", "sm_90", "compute_90"} <= set(
        re.findall(r"gencode=\S*?code=(\w+)", done.stdout)
    ), done.stdout


@pytest.mark.slow
@needs_compiler
@needs_nvcc
def test_nvcc_of_other_cuda_reports_user_error(project: Project) -> None:
    line = error_line(project.python(*build_with_torch_cuda("8.0"), build="cuda"))
    assert re.search(r"nvcc is of CUDA \d+\.\d+, torch of CUDA 8\.0; install a CUDA 8 toolkit", line)
    done = project.python(*build_with_torch_cuda("8.0"))
    assert done.returncode == 0 and project.answers("cpu") == [1]
    assert done.stdout.count("talkinghead: building without CUDA kernels: nvcc is ") == 1


@needs_compiler
def test_cuda_without_nvcc_reports_user_error(project: Project, tmp_path: Path) -> None:
    line = error_line(project.python(*PIP, ".", build="cuda", CUDA_HOME=str(tmp_path)))
    assert line.startswith("talkinghead: TALKINGHEAD_BUILD=cuda: nvcc") and str(tmp_path) in line


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_no_compiler_reports_user_error(project: Project, build: str) -> None:
    line = error_line(project.python(*IN_PLACE, build=build, **NO_COMPILER))
    assert (
        line
        == f"talkinghead: TALKINGHEAD_BUILD={build}: the C++ compiler that CXX names, /nonexistent/c++, was "
        "not found"
    )
    assert "sudo apt install g++" in error_line(project.python(*IN_PLACE, build=build, PATH=""))


def test_auto_without_compiler_installs_and_warns(project: Project) -> None:
    wheel, output = project.wheel(**NO_COMPILER)
    assert wheel.name.endswith("-py3-none-any.whl")
    (line,) = [line for line in output.splitlines() if line.strip().startswith("talkinghead: ")]
    assert (
        "building without compiled kernels: the C++ compiler that CXX names, /nonexistent/c++, was not found"
        in line
    )


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("build", ["auto", "cpu"])
def test_compiler_errors_are_printed(project: Project, build: str) -> None:
    (project.csrc / "cpu" / "tiny.cpp").write_text("int f() { return not_declared_anywhere; }\n")
    done = project.python(*IN_PLACE, build=build)
    assert done.returncode != 0
    assert re.search(r"tiny\.cpp:1:\d+: error: .*not_declared_anywhere", done.stdout), done.stdout


def test_editable_install_removes_earlier_extension(project: Project) -> None:
    earlier = project.folder / "kernels" / "talkinghead_kernels" / "_native.abi3.so"
    earlier.write_bytes(b"")
    done = project.python(
        "-c", "from setuptools import build_meta; build_meta.build_editable('.')", build="none"
    )
    assert done.returncode == 0, done.stdout
    assert not earlier.exists()
    assert (project.folder / "talkinghead/exporters/static/onnxruntime/ort.wasm.min.mjs").is_file()


def test_unknown_build_choice_reports_user_error(project: Project) -> None:
    line = error_line(project.python(*PIP, ".", build="gpu"))
    assert line == "talkinghead: TALKINGHEAD_BUILD must be one of auto, none, cpu, cuda, got 'gpu'"


@pytest.mark.slow
@needs_compiler
def test_isolated_build_uses_torch_of_environment(project: Project, tmp_path: Path) -> None:
    # pip isolates builds in this way: only the requirements of the build are on the path.
    import setuptools

    overlay = tmp_path / "overlay"
    overlay.mkdir()
    installed = Path(setuptools.__file__).parent.parent
    for path in [installed / "setuptools", *installed.glob("setuptools-*.dist-info")]:
        (overlay / path.name).symlink_to(path)
    (overlay / "sitecustomize.py").write_text(
        "import site, sys\n"
        "hidden = [*site.getsitepackages(), site.getusersitepackages()]\n"
        "sys.path[:] = [path for path in sys.path if path not in hidden]\n"
    )
    code = (
        "import importlib.util, sys; from setuptools import build_meta\n"
        "print('found', importlib.util.find_spec('torch'), build_meta.get_requires_for_build_wheel(), "
        "'torch' in sys.modules)"
    )
    done = project.python("-c", code, PYTHONPATH=str(overlay))
    assert done.stdout.splitlines()[-1] == "found None [] True", done.stdout


@pytest.mark.parametrize(
    ("build", "environment", "required"),
    [
        ("auto", {}, "torch>=2.10,<2.16"),
        ("cpu", {}, "torch>=2.10,<2.16"),
        ("none", {}, ""),
        ("auto", NO_COMPILER, ""),
    ],
)
def test_build_requires_torch_only_if_needed(
    project: Project, build: str, environment: dict[str, str], required: str
) -> None:
    if required and not environment and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler is installed")
    code = (
        "import sys; sys.modules['torch'] = None; from setuptools import build_meta; "
        "print(*build_meta.get_requires_for_build_wheel())"
    )
    done = project.python("-c", code, build=build, **environment)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == required, done.stdout


@needs_compiler
def test_build_without_torch_reports_user_error(project: Project) -> None:
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv[1:] = ['build_ext']; "
        "runpy.run_path('setup.py')"
    )
    assert error_line(project.python("-c", code, build="cpu")).endswith(
        "torch is not installed; pip install torch"
    )
    done = project.python("-c", code)
    assert (
        done.returncode == 0
        and done.stdout.count("talkinghead: building without compiled kernels: torch is not installed") == 1
    )


def build_with_torch_cuda(cuda: str | None) -> Sequence[str]:
    """Return the arguments of Python to build in place, with a torch of a version of CUDA."""
    code = (
        f"import sys, runpy, torch; torch.version.cuda = {cuda!r}; sys.argv[1:] = {IN_PLACE[1:]}; "
        "runpy.run_path('setup.py')"
    )
    return ("-c", code) if cuda else IN_PLACE


@pytest.mark.slow
def test_wheel_has_runtime_of_pages_that_npm_fetches_once(project: Project) -> None:
    for count in (1, 2):
        wheel, output = project.wheel(build="none")
        assert "building without" not in output
        names = zipfile.ZipFile(wheel).namelist()
        folder = "talkinghead/exporters/static/onnxruntime"
        assert f"{folder}/LICENSE" in names and f"{folder}/ort-wasm-simd-threaded.asyncify.wasm" in names
        assert not (project.folder / "node_modules").exists()
        assert (project.tools / "npm_calls").read_text().count("ci --ignore-scripts") == 1, count
    (project.folder / "package-lock.json").write_text("{}")  # another version
    project.wheel(build="none")
    assert (project.tools / "npm_calls").read_text().count("ci --ignore-scripts") == 2


@pytest.mark.parametrize("lacks", ["network", "npm", "package-lock.json"])
def test_wheel_without_runtime_of_pages_is_built_and_warns(project: Project, lacks: str) -> None:
    environment = {}
    if lacks == "network":
        (project.tools / "offline").touch()
    elif lacks == "npm":
        environment["PATH"] = ""
    else:
        (project.folder / lacks).unlink()
    wheel, output = project.wheel(build="none", **environment)
    (line,) = [line for line in output.splitlines() if line.strip().startswith("talkinghead: ")]
    reasons = {
        "network": "npm failed (npm error network)",
        "npm": "npm was not found; sudo apt install npm",
        "package-lock.json": "package-lock.json is missing",
    }
    assert line.strip() == f"talkinghead: building without the runtime of exported pages: {reasons[lacks]}"
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".wasm")]
