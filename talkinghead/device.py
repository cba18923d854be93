"""Where networks run."""

import torch

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
