"""Cases of the bench: their definition, check and measurement."""

import ctypes
import datetime
import math
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from talkinghead_kernels import backends, resample, use_backend
from talkinghead_kernels.backend import NAMES, default_backend
from torch import Tensor

from bench.lib.timing import Budget, Times, peak_bytes, time_interleaved, time_interleaved_on_gpu

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOORS = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""Relative error that every provider may have, even where the baseline is more exact."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A computation, and the implementations that are measured on it.

    Attributes:
        op, direction: what is computed; rows of one op and direction make a table.
        layer, batch, dtype, memory_format: of the input.
        bytes_moved: bytes that must be read and written.
        expected: the result in float32, by the reference on the same rounded inputs.
        providers: functions that return that result as one tensor or several; "baseline" is PyTorch's, the
            names of backends are implementations of this project.
        bounds: functions whose time bounds the case but whose result differs, such as a copy.
        flops: operations that it needs; 0 where memory bandwidth is the bound.
        tolerance: relative error that is allowed in any case.
        wall_clock: whether a call is timed from its start until the GPU has finished it, for work that cannot
            be captured in a CUDA graph.
    """

    op: str
    direction: str
    layer: str
    batch: int
    dtype: torch.dtype
    bytes_moved: int
    expected: Sequence[Tensor]
    providers: Mapping[str, Run]
    bounds: Mapping[str, Run] = field(default_factory=dict)
    memory_format: str = "nchw"
    flops: int = 0
    tolerance: float | None = None
    wall_clock: bool = False


def measure(case: Case, budget: Budget) -> dict[str, Any]:
    """Check every provider, then time all of them interleaved.

    The reference is timed only where no other backend of this project can run.

    Returns:
        A row of the results.

    Raises:
        AssertionError: a provider's result is wrong; nothing was timed.
    """
    errors, missing = check(case)
    functions = {
        name: run for name, run in (*case.providers.items(), *case.bounds.items()) if name not in missing
    }
    if any(name in functions for name in NAMES if name != "reference"):
        functions.pop("reference", None)
    flushed: Mapping[str, Times] = {}
    if DEVICE == "cuda" and not case.wall_clock:
        times, flushed = time_interleaved_on_gpu(functions, budget)
    else:
        times = time_interleaved(
            {name: partial(_run_and_synchronize, run) for name, run in functions.items()}, budget
        )
    measured = {}
    for name, run in functions.items():
        measurement: dict[str, Any] = {
            "seconds": times[name].median,
            "spread": times[name].spread,
            "rounds": len(times[name].samples),
        }
        if name in flushed:
            measurement |= {"flushed_seconds": flushed[name].median, "flushed_spread": flushed[name].spread}
        measured[name] = (
            measurement
            | {"peak_bytes": peak_bytes(run, DEVICE)}
            | ({"error": errors[name]} if name in errors else {})
        )
    return {
        "op": case.op,
        "direction": case.direction,
        "layer": case.layer,
        "batch": case.batch,
        "dtype": str(case.dtype).removeprefix("torch."),
        "memory_format": case.memory_format,
        "moved": case.bytes_moved,
        "flops": case.flops,
        "ours": default_backend(DEVICE)
        if default_backend(DEVICE) in functions
        else "ours"
        if "ours" in functions
        else "reference",
        "times": measured,
        "missing": missing,
        "samples": {name: list(times[name].samples) for name in functions},
    }


def _run_and_synchronize(run: Run) -> None:
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def check(case: Case) -> tuple[dict[str, float], dict[str, str]]:
    """Return the relative error of every provider that runs, and the reasons why others cannot run.

    Raises:
        AssertionError: an error is more than twice that of the baseline.
    """
    errors, missing = {}, {}
    for name, run in case.providers.items():
        try:
            errors[name] = error(run(), case.expected)
        except NotImplementedError as reason:
            missing[name] = str(reason).splitlines()[0]
    limit = max(case.tolerance or 0.0, 2 * errors["baseline"], FLOORS[case.dtype])
    wrong = {name: value for name, value in errors.items() if not value <= limit}
    assert not wrong, (
        f"{case.op} {case.direction} {case.layer} {case.dtype}: relative errors {wrong}, expected at most "
        f"{limit:.2g}; not timed"
    )
    return errors, missing


def error(results: Any, expected: Sequence[Tensor]) -> float:
    """Return the largest ||result - expected|| / ||expected|| of several tensors, NaN if a result has one."""
    results = (results,) if isinstance(results, Tensor) else results
    assert len(results) == len(expected), f"{len(results)} results, {len(expected)} expected"
    errors = []
    for result, target in zip(results, expected, strict=True):
        assert result.shape == target.shape, f"shape {list(result.shape)}, {list(target.shape)} expected"
        wide = target.detach().double()
        errors.append(float((result.detach().double() - wide).norm() / wide.norm().clamp_min(1e-30)))
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def by_backend(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Run]:
    """Return one call of the function for each backend that can run on the device."""

    def run(name: str) -> Any:
        with use_backend(name):
            return function(*args, **kwargs)

    names = ("reference", "cpp") if DEVICE == "cpu" else ("reference", "cuda", "triton")
    return {name: partial(run, name) for name in names if backends()[name] is None}


def compiled(function: Callable[..., Any], dynamic: bool = False, frozen: bool = False) -> Callable[..., Any]:
    """Return the function compiled by torch.compile.

    On a GPU the mode is max-autotune without CUDA graphs, since the bench captures every provider in a graph.

    Args:
        function: a function, or a module.
        dynamic: compile once for all shapes.
        frozen: on a CPU, treat weights as constants that are packed once; for a module in inference.
    """
    torch.compiler.reset()
    if DEVICE == "cpu" and frozen:
        return torch.compile(function, dynamic=dynamic, options={"freezing": True})
    return torch.compile(
        function, dynamic=dynamic, mode="max-autotune-no-cudagraphs" if DEVICE == "cuda" else None
    )


def gradients(outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Run:
    """Return a function that runs the backward pass alone and can be called repeatedly."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def size(*tensors: Tensor) -> int:
    """Return the total bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory, since new pages can cost more time than an op."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h of glibc
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def machine() -> dict[str, Any]:
    """Return the device, the versions and the commit of a run."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    def git(*words: str) -> str:
        result = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=False)
        return result.stdout.strip()

    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else cpu,
        "class": resample.device_class(torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": {
            name: version(name)
            for name in ("torch", "triton", "pytest-benchmark", "opencv-python", "onnxruntime", "openvino")
        }
        | {"python": platform.python_version(), "cuda": torch.version.cuda},
        "commit": git("rev-parse", "HEAD") or None,
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": str(datetime.date.today()),
        "backends": {name: reason or "runs" for name, reason in backends().items()},
    }


def short(device: str) -> str:
    """Return the name of a device for file names: "Intel(R) Xeon(R) Processor" becomes intel_xeon."""
    return "_".join(re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|processor", " ", device.lower())))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
