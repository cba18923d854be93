"""Selection of the implementation that runs an op, and the reasons for it.

By default, CUDA tensors use "cuda" where it is built, else "triton", else "reference"; CPU tensors use "cpp"
where it is built, else "reference". The default is resolved for each kernel, because an extension may lack
some. float64 always runs on the reference.
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

from . import extension

NAMES = ("reference", "cpp", "cuda", "triton")
FAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNELS = {
    "adain": ("adain_forward", "adain_backward"),
    "power_iteration_": ("power_iteration_",),
    "normalise": ("normalise_forward", "normalise_backward"),
    "attention": ("attention_forward", "attention_backward"),
    "winograd": ("winograd_forward",),
    "conv_sequence": ("conv_sequence",),
    "inverted_residual": ("conv_sequence",),
    "soft_argmax": ("soft_argmax",),
    "warp_affine": ("warp_affine",),
    "draw_polylines": ("draw_polylines",),
    "landmark_motion": ("landmark_motion",),
    # Triton has warp_forward only; its gradient is computed by the reference
    "warp": ("warp_forward", "warp_backward"),
}
"""The native kernels of each op that has any."""
_DEFAULT_ORDER = {"cpu": ("cpp",), "cuda": ("cuda", "triton")}
_chosen: ContextVar[str | None] = ContextVar("talkinghead_kernels_backend", default=None)


@cache
def backend_status() -> dict[str, str | None]:
    """Return every backend's name with None where it can run, else the reason why it cannot."""
    return {
        "reference": None,
        "cpp": extension.unavailable_reason("cpu"),
        "cuda": extension.unavailable_reason("cuda")
        or (None if torch.cuda.is_available() else "torch sees no CUDA device"),
        "triton": _triton_unavailable_reason(),
    }


def _triton_unavailable_reason() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not (torch.cuda.is_available() or is_triton_interpreted()):
        return "torch sees no CUDA device (TRITON_INTERPRET=1 interprets the kernels, slowly)"
    return None


def is_triton_interpreted() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def backends() -> dict[str, str | None]:
    """Return every backend's name with None where it can run, else the reason why it cannot."""
    return dict(backend_status())


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on one backend. Compiled code follows it without recompiling.

    The choice is a context variable (`contextvars`): other threads are not affected.

    Raises:
        ValueError: there is no backend of this name.
        RuntimeError: the backend cannot run here; the message says why.
    """
    if name not in NAMES:
        raise ValueError(f"use_backend: name must be one of {', '.join(NAMES)}, got {name!r}")
    reason = backend_status()[name]
    if reason:
        raise RuntimeError(f"use_backend: {name} cannot run: {reason}")
    with restore_backend(name):
        yield


def current() -> str | None:
    """Return the backend chosen by `use_backend` in this context, or None for the default."""
    return _chosen.get()


@contextmanager
def restore_backend(name: str | None) -> Iterator[None]:
    """Restore a choice that `current` returned, for a backward pass that may run in another thread."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def default_backend(device: str, op: str | None = None) -> str:
    """Return the backend that runs a kernel on a device type where none is chosen.

    Without the name of a kernel, return the first backend that can run at all.
    """
    available = (
        name
        for name in _DEFAULT_ORDER.get(device, ())
        if (backend_status()[name] if op is None else unavailable_reason(op, name)) is None
    )
    return next(available, "reference")


def select_kernel(op: str, tensor: Tensor) -> Callable[..., Any] | None:
    """Return the kernel that runs `op` on tensors like this one, or None for the reference.

    Raises:
        RuntimeError: the chosen backend does not run on the tensor's device, or has no such kernel.
    """
    device = tensor.device.type
    name = _chosen.get() or default_backend(device, op)
    if name == "reference" or tensor.dtype not in FAST_DTYPES:
        return None
    return _load_kernel(op, name, device)


@cache
def _load_kernel(op: str, name: str, device: str) -> Callable[..., Any]:
    triton_device = "cpu" if is_triton_interpreted() else "cuda"
    expected = {"cpp": "cpu", "cuda": "cuda", "triton": triton_device}[name]
    if device != expected:
        raise RuntimeError(
            f"{op}: backend {name} runs on {expected}, the tensors are on {device}; move them or choose "
            "another backend"
        )
    reason = unavailable_reason(op, name)
    if reason:
        raise RuntimeError(f"{op}: backend {name} cannot run it: {reason}")
    return getattr(_triton(), op) if name == "triton" else getattr(torch.ops.talkinghead_native, op).default


@cache
def unavailable_reason(op: str, name: str) -> str | None:
    """Return why a backend cannot run a kernel, or None if it can."""
    reason = backend_status()[name]
    if reason or name == "reference":
        return reason
    if name != "triton":
        return extension.unavailable_reason({"cpp": "cpu"}.get(name, name), op)
    try:
        return None if hasattr(_triton(), op) else f"there is no Triton kernel {op}"
    except ImportError as error:
        return f"triton does not import: {error}"


def _triton() -> Any:
    return importlib.import_module(f"{__package__}.triton_kernels")


def report() -> dict[str, dict[str, Any]]:
    """Return what is installed and what would run, as plain values for JSON.

    Returns:
        `versions` and `devices` by name; `backends`: backend -> "available" or the reason why it is not;
        `ops`: the same for every op; `runs`: for every type of device present, op -> its default backend.
    """
    ops = {
        op: {
            name: next(filter(None, (unavailable_reason(kernel, name) for kernel in kernels)), "available")
            for name in NAMES
        }
        for op, kernels in KERNELS.items()
    }
    device_types = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    runs = {
        device: {
            op: "/".join(dict.fromkeys(default_backend(device, kernel) for kernel in kernels))
            for op, kernels in KERNELS.items()
        }
        for device in device_types
    }
    threads = torch.get_num_threads()
    threads_text = f"{threads} thread" if threads == 1 else f"{threads} threads"
    devices = {"cpu": f"{threads_text}, {torch.backends.cpu.get_cpu_capability()}"}
    devices |= {
        f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    }
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


def _version(distribution: str, default: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return default


def format_report(status: dict[str, dict[str, Any]]) -> list[str]:
    """Format the ops of a `report` as lines of a table: one row per op, one column per backend.

    The reasons why an available backend lacks an op follow the table.
    """
    rows = [["op", *NAMES, *(f"runs on {device}" for device in status["runs"])]]
    for op, states in status["ops"].items():
        marks = ("yes" if states[name] == "available" else "-" for name in NAMES)
        rows.append([op, *marks, *(runs[op] for runs in status["runs"].values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return table + [
        f"{name} has no {op}: {reason}"
        for op, states in status["ops"].items()
        for name, reason in states.items()
        if reason not in ("available", status["backends"][name])
    ]
