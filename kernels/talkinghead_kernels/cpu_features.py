"""Which instruction sets this CPU has."""

from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


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
    return frozenset(flags.split())
