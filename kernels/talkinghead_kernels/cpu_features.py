"""The instruction sets of this CPU."""

import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
# Other flags of /proc/cpuinfo change with the version of Linux.
_INSTRUCTION_SETS = re.compile(r"sse4_[12]|avx.*|amx_.*|fma|f16c|bmi[12]")


def cpu_features() -> frozenset[str]:
    """Return the names of this CPU's instruction sets in torch's spelling, such as "avx512_bf16".

    torch 2.10 cannot list them; then they are read from Linux, which spells those that matter here the same
    way. On other systems the set is then empty.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(filter(_INSTRUCTION_SETS.fullmatch, flags.split()))
