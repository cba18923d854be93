"""Precisions of weights and feature maps: their dtypes, and which of them a device can run."""

import logging

import torch
from talkinghead_kernels.cpu_features import cpu_features

from ..constants import PRECISIONS
from ..errors import TalkingheadError
from ..system.device import bfloat16_is_faster, has_bfloat16

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_precision(device: torch.device, precision: str) -> str:
    """Return the precision that will run on a device.

    Args:
        device: where the network is to run.
        precision: one of `PRECISIONS`, or "auto": bf16 where the device is faster with it, else fp32. A CPU
            that lacks the instructions falls back to fp32, with one line in the log.

    Raises:
        TalkingheadError: there is no precision of this name.
    """
    if precision != "auto" and precision not in PRECISIONS:
        choices = ", ".join(("auto", *PRECISIONS))
        raise TalkingheadError(f"precision {precision!r}: is unknown; choose one of {choices}")
    if precision == "auto":
        return "bf16" if bfloat16_is_faster(device) else "fp32"
    if device.type != "cpu":
        return precision
    supported = {
        "fp32": True,
        "bf16": has_bfloat16(),
        "fp16": bool(cpu_features() & {"avx512_fp16", "amx_fp16"}),
    }
    if not supported[precision]:
        log.warning("precision %s: this CPU has no instructions for it; fp32 is used", precision)
        return "fp32"
    return precision
