"""What a case of the bench is, and how it is checked and measured."""

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
from talkinghead_kernels.backend import NAMES, automatic
from torch import Tensor

from bench.timing import Budget, Times, peak_bytes, take_turns, take_turns_on_gpu

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOORS = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""Relative errors that no provider is blamed for, however exact stock happens to be."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One thing to compute, and who computes it.

    Attributes:
        op, direction: what is computed; rows with both alike make a table.
        layer, batch, dtype, memory_format: of which input.
        moved: bytes that must be read and written.
        expected: the result in float32, by the reference on the same rounded inputs.
        providers: functions that give that result as one tensor or several; "stock" is torch's, the names of backends are ours.
        yardsticks: functions that bound it and give something else, such as a copy.
        flops: operations it must do; 0 where bytes are what counts.
        tolerance: relative error that is allowed in any case.
        by_the_clock: whether a call is timed from its start until the GPU has done all of it: for what no CUDA graph can hold.
    """

    op: str
    direction: str
    layer: str
    batch: int
    dtype: torch.dtype
    moved: int
    expected: Sequence[Tensor]
    providers: Mapping[str, Run]
    yardsticks: Mapping[str, Run] = field(default_factory=dict)
    memory_format: str = "nchw"
    flops: int = 0
    tolerance: float | None = None
    by_the_clock: bool = False


def measure(case: Case, budget: Budget) -> dict[str, Any]:
    """Check every provider, then time all in turn: of ours, the reference only where nothing else of ours can run.

    Returns:
        a row of the results.

    Raises:
        AssertionError: a provider is wrong; nothing was timed.
    """
    errors, missing = check(case)
    functions = {name: run for name, run in (*case.providers.items(), *case.yardsticks.items()) if name not in missing}
    if any(name in functions for name in NAMES if name != "reference"):
        functions.pop("reference", None)
    flushed: Mapping[str, Times] = {}
    if DEVICE == "cuda" and not case.by_the_clock:
        times, flushed = take_turns_on_gpu(functions, budget)
    else:
        times = take_turns({name: partial(_finished, run) for name, run in functions.items()}, budget)
    measured = {}
    for name, run in functions.items():
        found: dict[str, Any] = {"seconds": times[name].median, "spread": times[name].spread, "rounds": len(times[name].samples)}
        if name in flushed:
            found |= {"flushed_seconds": flushed[name].median, "flushed_spread": flushed[name].spread}
        measured[name] = found | {"peak_bytes": peak_bytes(run, DEVICE)} | ({"error": errors[name]} if name in errors else {})
    return {
        "op": case.op,
        "direction": case.direction,
        "layer": case.layer,
        "batch": case.batch,
        "dtype": str(case.dtype).removeprefix("torch."),
        "memory_format": case.memory_format,
        "moved": case.moved,
        "flops": case.flops,
        "ours": automatic(DEVICE) if automatic(DEVICE) in functions else "ours" if "ours" in functions else "reference",
        "times": measured,
        "missing": missing,
        "samples": {name: list(times[name].samples) for name in functions},
    }


def _finished(run: Run) -> None:
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def check(case: Case) -> tuple[dict[str, float], dict[str, str]]:
    """Relative error of every provider, at most twice that of stock; and why some cannot run."""
    errors, missing = {}, {}
    for name, run in case.providers.items():
        try:
            errors[name] = error(run(), case.expected)
        except NotImplementedError as reason:
            missing[name] = str(reason).splitlines()[0]
    limit = max(case.tolerance or 0.0, 2 * errors["stock"], FLOORS[case.dtype])
    wrong = {name: each for name, each in errors.items() if not each <= limit}
    assert not wrong, f"{case.op} {case.direction} {case.layer} {case.dtype}: relative errors {wrong}, {limit:.2g} is allowed; not timed"
    return errors, missing


def error(results: Any, expected: Sequence[Tensor]) -> float:
    """The largest ||result - expected|| / ||expected|| of several tensors; NaN where a result holds one."""
    results = (results,) if isinstance(results, Tensor) else results
    assert len(results) == len(expected), f"{len(results)} results, {len(expected)} expected"
    each = []
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape, f"shape {list(result.shape)}, {list(wanted.shape)} expected"
        wide = wanted.detach().double()
        each.append(float((result.detach().double() - wide).norm() / wide.norm().clamp_min(1e-30)))
    return math.nan if any(map(math.isnan, each)) else max(each)


def by_backend(function: Callable[..., Any], *args: Any, **named: Any) -> dict[str, Run]:
    """The function once for every backend that can run on the device."""

    def run(name: str) -> Any:
        with use_backend(name):
            return function(*args, **named)

    wanted = ("reference", "cpp") if DEVICE == "cpu" else ("reference", "cuda", "triton")
    return {name: partial(run, name) for name in wanted if backends()[name] is None}


def compiled(function: Callable[..., Any], dynamic: bool = False, frozen: bool = False) -> Callable[..., Any]:
    """torch.compile of one shape, or of all; on a GPU as max-autotune, in the graph that all are captured in instead of one of its own.

    Args:
        frozen: on a CPU, weights are constants that are packed once; for a module in inference.
    """
    torch.compiler.reset()
    if DEVICE == "cpu" and frozen:
        return torch.compile(function, dynamic=dynamic, options={"freezing": True})
    return torch.compile(function, dynamic=dynamic, mode="max-autotune-no-cudagraphs" if DEVICE == "cuda" else None)


def gradients(outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Run:
    """The backward pass alone, as often as it is called."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def size(*tensors: Tensor) -> int:
    """Bytes of tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, so that no provider happens to meet fresh pages, which cost more than many an op."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h of glibc
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def machine() -> dict[str, Any]:
    """Where and of what the results are."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=False)
        return done.stdout.strip()

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else cpu,
        "class": resample.device_class(torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "triton", "pytest-benchmark", "opencv-python", "onnxruntime", "openvino")}
        | {"python": platform.python_version(), "cuda": torch.version.cuda},
        "commit": git("rev-parse", "HEAD") or None,
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": str(datetime.date.today()),
        "backends": {name: reason or "runs" for name, reason in backends().items()},
    }


def short(device: str) -> str:
    """The name of a device as file names have it: "Intel(R) Xeon(R) Processor" is intel_xeon."""
    return "_".join(re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)|processor", " ", device.lower())))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
