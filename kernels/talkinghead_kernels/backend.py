"""Which implementation of an op runs, and why.

Automatic: on CUDA "cuda" where it is built, else "triton", else "reference"; on CPU "cpp" where it is built, else "reference". That is
looked up for each kernel, as an extension may lack some. Whatever the choice, float64 is run by the reference.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from . import native

NAMES = ("reference", "cpp", "cuda", "triton")
FAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNELS = {
    "adain": ("adain_forward", "adain_backward"),
    "power_iteration_": ("power_iteration_",),
    "normalise": ("normalise_forward", "normalise_backward"),
    "attention": ("attention_forward", "attention_backward"),
    "winograd": ("winograd_forward",),
    "draw_landmarks": ("draw_landmarks",),
    "landmark_motion": ("landmark_motion",),
    "warp": ("warp_forward", "warp_backward"),  # of Triton the first alone: its gradient is the reference's
}
"""What each op with native kernels runs on."""
_AUTOMATIC = {"cpu": ("cpp",), "cuda": ("cuda", "triton")}
_chosen: ContextVar[str | None] = ContextVar("talkinghead_kernels_backend", default=None)


@cache
def _reasons() -> dict[str, str | None]:
    return {
        "reference": None,
        "cpp": native.missing("cpu"),
        "cuda": native.missing("cuda") or (None if torch.cuda.is_available() else "torch sees no CUDA device"),
        "triton": _no_triton(),
    }


def _no_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not (torch.cuda.is_available() or interpreted()):
        return "torch sees no CUDA device (TRITON_INTERPRET=1 interprets the kernels, slowly)"
    return None


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def backends() -> dict[str, str | None]:
    """Every backend's name with None where it can run, else the reason why it cannot."""
    return dict(_reasons())


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on one backend. Compiled code follows it without compiling again.

    The choice belongs to the context it is made in, as `contextvars` has it: another thread chooses for itself.

    Raises:
        ValueError: no such backend.
        RuntimeError: the backend cannot run here; the message says why.
    """
    if name not in NAMES:
        raise ValueError(f"use_backend: name must be one of {', '.join(NAMES)}, got {name!r}")
    reason = _reasons()[name]
    if reason:
        raise RuntimeError(f"use_backend: {name} cannot run: {reason}")
    with again(name):
        yield


def current() -> str | None:
    """What `use_backend` chose in this context; None is automatic."""
    return _chosen.get()


@contextmanager
def again(name: str | None) -> Iterator[None]:
    """The choice `current` gave, made again; for a backward pass, which may run in another thread."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def automatic(device: str, op: str | None = None) -> str:
    """The backend that runs a kernel on a device type where nothing is chosen; without a kernel's name, the first that can run at all."""
    able = (name for name in _AUTOMATIC.get(device, ()) if (_reasons()[name] if op is None else _missing(op, name)) is None)
    return next(able, "reference")


def kernel(op: str, tensor: Tensor) -> Callable[..., Any] | None:
    """The kernel that is to run `op` on tensors like this one, or None for the reference.

    Raises:
        RuntimeError: the chosen backend does not run on the tensor's device, or has no such kernel.
    """
    device = tensor.device.type
    name = _chosen.get() or automatic(device, op)
    if name == "reference" or tensor.dtype not in FAST_DTYPES:
        return None
    return _kernel(op, name, device)


@cache
def _kernel(op: str, name: str, device: str) -> Callable[..., Any]:
    runs_on = {"cpp": ("cpu",), "cuda": ("cuda",), "triton": ("cpu",) if interpreted() else ("cuda",)}[name]
    if device not in runs_on:
        raise RuntimeError(f"{op}: backend {name} runs on {runs_on[0]}, the tensors are on {device}; move them or choose another backend")
    reason = _missing(op, name)
    if reason:
        raise RuntimeError(f"{op}: backend {name} cannot run it: {reason}")
    return getattr(_triton(), op) if name == "triton" else getattr(torch.ops.talkinghead_native, op).default


@cache
def _missing(op: str, name: str) -> str | None:
    """Why a backend cannot run a kernel; None where it can."""
    reason = _reasons()[name]
    if reason or name == "reference":
        return reason
    if name != "triton":
        return native.missing({"cpp": "cpu"}.get(name, name), op)
    try:
        return None if hasattr(_triton(), op) else f"there is no Triton kernel {op}"
    except ImportError as error:
        return f"triton does not import: {error}"


def _triton() -> Any:
    return importlib.import_module(f"{__package__}.triton_kernels")


def report() -> dict[str, dict[str, Any]]:
    """What is installed and what would run; plain values, for JSON.

    Returns:
        `versions` and `devices` by name; `backends` and, for every op, `ops`: backend -> "available" or why it is not; `runs`: for every
        type of device that is there, op -> the backend that runs it where none is chosen.
    """
    ops = {
        op: {name: next(filter(None, (_missing(kernel, name) for kernel in kernels)), "available") for name in NAMES}
        for op, kernels in KERNELS.items()
    }
    types = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    runs = {
        device: {op: "/".join(dict.fromkeys(automatic(device, kernel) for kernel in kernels)) for op, kernels in KERNELS.items()}
        for device in types
    }
    devices = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    devices |= {f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return {
        "versions": {
            "talkinghead": _version("talkinghead", "not installed, run from its sources"),
            "torch": torch.__version__,
            "triton": _version("triton", "not installed"),
        },
        "devices": devices,
        "backends": {name: reason or "available" for name, reason in backends().items()},
        "ops": ops,
        "runs": runs,
    }


def _version(distribution: str, otherwise: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return otherwise


def lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """What `report` found out about the ops: a row an op, a column a backend; below, why a backend that is available lacks an op."""
    rows = [["op", *NAMES, *(f"runs on {device}" for device in found["runs"])]]
    for op, states in found["ops"].items():
        able = ("yes" if states[name] == "available" else "-" for name in NAMES)
        rows.append([op, *able, *(runs[op] for runs in found["runs"].values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return table + [
        f"{name} has no {op}: {reason}"
        for op, states in found["ops"].items()
        for name, reason in states.items()
        if reason not in ("available", found["backends"][name])
    ]
