"""Where networks run, and in which arithmetic they are fast there."""

from functools import cache, partial
from time import perf_counter

import torch
import torch.nn.functional as F
from talkinghead_kernels.cpu_features import cpu_features

from .errors import TalkingheadError

DEVICES = ("cpu", "cuda", "auto")


def choose_device(name: str) -> torch.device:
    """ "cpu", "cuda" (also "cuda:1" and so on), or "auto": a GPU where torch sees one.

    Raises:
        TalkingheadError: torch knows no such device, or sees none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TalkingheadError(f"device {name!r}: torch knows none of this name; choose one of {', '.join(DEVICES)}") from error
    if device.type not in ("cpu", "cuda"):
        raise TalkingheadError(f"device {name!r}: networks run on cpu or cuda; choose one of {', '.join(DEVICES)}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = f"{torch.cuda.device_count()} GPUs" if torch.version.cuda else "no GPU, for it is a CPU build"
        raise TalkingheadError(f"device {name!r}: torch {torch.__version__} sees {seen}; choose cpu, or install a CUDA build")
    return device


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether networks are faster in bfloat16 than in float32: always on a GPU; on a CPU convolutions are measured, once a process.

    CPUs with instructions for bfloat16 are not alike: of two servers with AVX-512 and without AMX, one was 2.1 times as fast with it, the
    other 0.6 times. Half as fast again is asked for, since Winograd's convolution is there for float32 alone.
    """
    return device.type != "cpu" or (has_bfloat16() and _measured(torch.get_num_threads()) > 1.5)


def training_precision(device: torch.device, wanted: str) -> str:
    """What training computes in where "bf16" or "fp32" is wanted: "fp32" on a CPU that is not faster in bfloat16."""
    return "bf16" if wanted == "bf16" and bfloat16_is_faster(device) else "fp32"


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for it; otherwise it is emulated, several times slower."""
    return bool(cpu_features() & {"avx512_bf16", "amx_bf16"})


@cache
@torch.inference_mode()
def _measured(threads: int) -> float:
    """How many times as fast this CPU convolves in bfloat16 with so many threads: the best of some, taken in turn; 0.1 s."""
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    x, weight = (torch.zeros(shape).to(memory_format=torch.channels_last) for shape in ((1, 128, 48, 48), (128, 128, 3, 3)))
    runs = {dtype: partial(F.conv2d, x.to(dtype), weight.to(dtype), padding=1) for dtype in seconds}
    for _ in range(6):
        for dtype, run in runs.items():
            start = perf_counter()
            run()
            seconds[dtype] = min(seconds[dtype], perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]
