"""TensorRT's Python bindings: the choice between the two of them, their log, and targets of an engine.

`tensorrt` and `tensorrt_rtx` have one API. TensorRT chooses among kernels by timing them, on the GPU that the
engine is for; TensorRT-RTX compiles for a target that need not be present, and finishes the kernels on the
GPU that runs them.
"""

import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import TalkingheadError, require

BUILDERS = ("tensorrt", "tensorrt_rtx")
_MIN_VERSIONS = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 3)}
_PORTABLE = "sm_80+"
"""Target that TensorRT-RTX builds for by default."""


def open_tensorrt(builder: str | None = None) -> ModuleType:
    """Import the bindings.

    Args:
        builder: one of `BUILDERS`; by default tensorrt where it is installed, else tensorrt_rtx.

    Raises:
        TalkingheadError: it is not installed, or older than the API used here.
    """
    module = _import_bindings(builder)
    name = module.__name__
    min_version = _MIN_VERSIONS[name]
    if tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:2]) < min_version:
        expected = ".".join(map(str, min_version))
        raise TalkingheadError(
            f"{name} {module.__version__}: is too old, expected {expected} or newer; pip install --upgrade it"
        )
    return module


def _import_bindings(builder: str | None) -> ModuleType:
    if builder == "tensorrt_rtx":
        return require("tensorrt_rtx", "tensorrt-rtx")
    if builder == "tensorrt":
        try:
            return require("tensorrt", "tensorrt")
        except TalkingheadError as error:
            raise TalkingheadError(f"{error}, or export again") from error
    try:
        return require("tensorrt", "tensorrt")
    except TalkingheadError as error:
        try:
            return require("tensorrt_rtx", "tensorrt-rtx")
        except TalkingheadError:
            raise TalkingheadError(
                f"{error}, or 'talkinghead[tensorrt-rtx]', which does not support Hopper"
            ) from error


def fresh_logger(trt: Any) -> Any:
    """Return the logger that collects TensorRT's messages in lists `errors` and `warnings`, both emptied.

    There is one logger in a process: TensorRT ignores another while any object lives that was created with
    the first. Messages of lower severity are dropped.
    """
    logger = _logger(trt.ILogger)
    logger.errors.clear()
    logger.warnings.clear()
    return logger


@cache
def _logger(logger_class: Any) -> Any:
    class Logger(logger_class):
        def __init__(self) -> None:
            logger_class.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (logger_class.INTERNAL_ERROR, logger_class.ERROR):
                self.errors.append(message)
            elif severity == logger_class.WARNING:
                self.warnings.append(message)

    return Logger()


def first_error(messages: list[str]) -> str:
    """Return the first of a logger's messages on one line, at most 200 characters."""
    return re.sub(r"\s+", " ", messages[0]).strip()[:200] if messages else "it does not say why"


def deserialize(runtime: Any, plan: bytes, path: Path, logger: Any) -> Any:
    """Return the engine in a file's bytes.

    Raises:
        TalkingheadError: TensorRT refuses it.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise TalkingheadError(
            f"{path}: TensorRT cannot load it ({first_error(logger.errors)}); update the GPU's driver, or "
            "export it again"
        )
    return engine


def parse_capability(target: str) -> tuple[int, int]:
    """Return the compute capability of a target: (12, 0) of "sm_120".

    Raises:
        TalkingheadError: it is no target.
    """
    match = re.fullmatch(r"sm_(\d+)(\d)\+?", target)
    if not match:
        raise TalkingheadError(
            f"target {target!r}: is no GPU's compute capability; write one without its dot, such as sm_89 or "
            "sm_120"
        )
    return int(match[1]), int(match[2])


def runs_on(target: str, gpu: str) -> bool:
    """Return whether an engine for a target runs on a GPU.

    Args:
        target: such as "sm_86"; "sm_80+" runs on every GPU from sm_80 on.
        gpu: such as "sm_86".
    """
    if target.endswith("+"):
        return parse_capability(gpu) >= parse_capability(target)
    return gpu == target


def choose_target(requested: str | None, gpu: str | None) -> tuple[Any, str]:
    """Return the bindings to build with, and the target.

    Args:
        requested: target that the caller names; by default this machine's GPU, or without one all GPUs that
            TensorRT-RTX supports.
        gpu: this machine's, or None.

    Raises:
        TalkingheadError: no bindings that build for the target are installed.
    """
    target = requested or gpu or _PORTABLE
    parse_capability(target)
    trt = open_tensorrt()
    if not can_cross_compile(trt) and target != gpu:
        trt = open_tensorrt("tensorrt_rtx")
    if can_cross_compile(trt) and target != _PORTABLE and target not in _targets(trt):
        known = ", ".join(_targets(trt))
        raise TalkingheadError(
            f"{trt.__name__} {trt.__version__}: builds for {known}, not for {target}; for such a GPU pip "
            "install 'talkinghead[tensorrt]'"
        )
    return trt, target


def can_cross_compile(trt: Any) -> bool:
    """Return whether bindings build for GPUs that are not present."""
    return hasattr(trt, "ComputeCapability")


def set_target(trt: Any, config: Any, target: str) -> None:
    """Set the target in a builder's configuration."""
    if can_cross_compile(trt) and target != _PORTABLE:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_targets(trt)[target], 0)


def _targets(trt: Any) -> dict[str, Any]:
    members = trt.ComputeCapability.__members__
    return {f"sm_{name[2:]}": member for name, member in members.items() if re.fullmatch(r"SM\d+", name)}
