"""Variables that torchrun sets in the processes that it starts, read without torch."""

import os


def is_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the number of this process among those of all machines; 0 without torchrun."""
    return int(os.environ["RANK"]) if is_launched() else 0


def local_rank() -> int:
    """Return the number of this process among those of its machine; 0 without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else 0
