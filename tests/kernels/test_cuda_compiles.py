"""Compilation of every .cu file of csrc/ by nvcc, for every architecture."""

import functools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(path.name for path in (CSRC / "cuda").glob("*.cu"))
INCLUDE = Path(torch.__file__).parent / "include"
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
# optimised where the kernels' resources are read; elsewhere only that it compiles, which takes half the time
ARCHITECTURES = {
    "80": ["-Xcicc", "-O0", "-Xptxas", "-O0"],
    "90": ["-Xptxas", "-v"],
    "120": ["-Xcicc", "-O0", "-Xptxas", "-O0"],
}


def compiled(source: str, architecture: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        "nvcc",
        *FLAGS,
        f"-I{CSRC / 'include'}",
        f"-I{INCLUDE}",
        f"-I{INCLUDE}/torch/csrc/api/include",
        *ARCHITECTURES[architecture],
    ]
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    command += [target, "-cubin", str(CSRC / "cuda" / source)]
    return subprocess.run(
        [*command, "-o", str(folder / f"{source}.{architecture}.cubin")], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a function that compiles every source for an architecture once, as many at a time as cores."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    folder = tmp_path_factory.mktemp("cubins")

    @functools.cache
    def compile_all(architecture):
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            done = pool.map(lambda source: compiled(source, architecture, folder), SOURCES)
            return dict(zip(SOURCES, done, strict=True))

    return compile_all


def test_sources_exist():
    assert "adain.cu" in SOURCES


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_source_compiles(results, source, architecture):
    result = results(architecture)[source]
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr, result.stderr


@pytest.mark.slow
def test_adain_kernels_do_not_spill(results):
    messages = results("90")["adain.cu"].stderr
    kernels = re.findall(
        r"Compiling entry function '(\S+)'[^\n]*\n[^\n]*\n\s+(\d+) bytes stack frame, (\d+) bytes spill "
        r"stores",
        messages,
    )
    assert len(kernels) > 50
    assert [name for name, stack, spilled in kernels if (stack, spilled) != ("0", "0")] == []
