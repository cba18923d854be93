"""TensorRT's Python bindings: which of the two there are is used, what its log says, and which GPU an engine is for.

`tensorrt` and `tensorrt_rtx` have one API. TensorRT chooses among kernels by timing them, on the GPU that the engine is for; TensorRT-RTX
compiles for a target that need not be there, and finishes on the GPU that runs it.
"""

import re
from functools import cache
from types import ModuleType
from typing import Any

from ..errors import TalkingheadError, require

BUILDERS = ("tensorrt", "tensorrt_rtx")
_OLDEST = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 3)}
_PORTABLE = "sm_80+"
"""What TensorRT-RTX builds for when it is told no target."""


def open_tensorrt(builder: str | None = None) -> ModuleType:
    """The bindings: `builder`, one of `BUILDERS`; by default tensorrt where that is installed, else tensorrt_rtx.

    Raises:
        TalkingheadError: it is not installed, or older than what is used here.
    """
    module = _find(builder)
    name = module.__name__
    oldest = _OLDEST[name]
    if tuple(int(each) for each in re.findall(r"\d+", module.__version__)[:2]) < oldest:
        wanted = ".".join(map(str, oldest))
        raise TalkingheadError(f"{name} {module.__version__}: is too old, {wanted} or newer was expected; pip install --upgrade it")
    return module


def _find(builder: str | None) -> ModuleType:
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
            raise TalkingheadError(f"{error}, or 'talkinghead[tensorrt-rtx]', which knows no Hopper") from error


def emptied_log(trt: Any) -> Any:
    """The logger that keeps what TensorRT says, in lists `errors` and `warnings`, with nothing in them; the rest is dropped.

    TensorRT knows one logger in a process: another is ignored while anything lives that was made with the first.
    """
    log = _log(trt.ILogger)
    log.errors.clear()
    log.warnings.clear()
    return log


@cache
def _log(logger: Any) -> Any:
    class Log(logger):
        def __init__(self) -> None:
            logger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (logger.INTERNAL_ERROR, logger.ERROR):
                self.errors.append(message)
            elif severity == logger.WARNING:
                self.warnings.append(message)

    return Log()


def first(complaints: list[str]) -> str:
    """The first of a log's complaints, without the places in its source, at most 200 characters."""
    return re.sub(r"\s+", " ", complaints[0]).strip()[:200] if complaints else "it does not say why"


def capability(target: str) -> tuple[int, int]:
    """ "sm_120" as (12, 0).

    Raises:
        TalkingheadError: it is no target.
    """
    found = re.fullmatch(r"sm_(\d+)(\d)\+?", target)
    if not found:
        raise TalkingheadError(f"target {target!r}: expected one such as sm_89 or sm_120, a GPU's compute capability without its dot")
    return int(found[1]), int(found[2])


def runs_on(target: str, gpu: str) -> bool:
    """Whether an engine for a target runs on a GPU, both like "sm_86"; "sm_80+" runs on all from there on."""
    return capability(gpu) >= capability(target) if target.endswith("+") else gpu == target


def choose_target(wanted: str | None, gpu: str | None) -> tuple[Any, str]:
    """The bindings to build with, and the target.

    Args:
        wanted: target that the caller names; by default this machine's GPU, and where there is none all that TensorRT-RTX knows.
        gpu: this machine's.

    Raises:
        TalkingheadError: what builds for it is not installed, or there is nothing.
    """
    target = wanted or gpu or _PORTABLE
    capability(target)
    trt = open_tensorrt()
    if not builds_anywhere(trt) and target != gpu:
        trt = open_tensorrt("tensorrt_rtx")
    if builds_anywhere(trt) and target != _PORTABLE and target not in _targets(trt):
        known = ", ".join(_targets(trt))
        raise TalkingheadError(
            f"{trt.__name__} {trt.__version__}: builds for {known}, not for {target}; for such a GPU pip install 'talkinghead[tensorrt]'"
        )
    return trt, target


def builds_anywhere(trt: Any) -> bool:
    """Whether it builds for GPUs that are not there."""
    return hasattr(trt, "ComputeCapability")


def set_target(trt: Any, config: Any, target: str) -> None:
    """Make a builder's configuration one for the target."""
    if builds_anywhere(trt) and target != _PORTABLE:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_targets(trt)[target], 0)


def _targets(trt: Any) -> dict[str, Any]:
    known = trt.ComputeCapability.__members__
    return {f"sm_{name[2:]}": member for name, member in known.items() if re.fullmatch(r"SM\d+", name)}
