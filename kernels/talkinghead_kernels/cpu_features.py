"""Which instruction sets this CPU has."""

import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTION_SETS = re.compile(r"sse4_[12]|avx.*|amx_.*|fma|f16c|bmi[12]")  # other flags change with the kernel


def cpu_features() -> frozenset[str]:
    """Return the names of this CPU's instruction sets as torch spells them, such as "avx512_bf16" and "amx_bf16".

    torch 2.10 cannot tell them; Linux spells those that matter here the same way. Elsewhere the set is then empty.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(filter(_INSTRUCTION_SETS.fullmatch, flags.split()))
