"""Types, registers and operands of PTX as C++."""

import re

from .ptx_module import Kernel, Module, split_operands

TYPES = {
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f32": "float",
    "f64": "double",
    "f16": "uint16_t",
    "bf16": "uint16_t",
    "f16x2": "uint32_t",
    "bf16x2": "uint32_t",
    "pred": "bool",
}
REGISTERS = TYPES | {f"s{bits}": f"uint{bits}_t" for bits in (8, 16, 32, 64)}
SPECIAL = {
    **{
        f"%{name}.{axis}": f"services->{field}[{index}]"
        for name, field in (
            ("tid", "thread"),
            ("ntid", "block_size"),
            ("ctaid", "block"),
            ("nctaid", "grid_size"),
        )
        for index, axis in enumerate("xyz")
    },
    "%cluster_ctarank": "services->cluster_rank()",
    "%cluster_nctarank": "services->cluster_size()",
    "%laneid": "services->lane()",
}
ORDERED = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
OR_NAN = {"neu": ("", "!="), "ltu": ("!", ">="), "leu": ("!", ">"), "gtu": ("!", "<="), "geu": ("!", "<")}
WIDE = {"s16": "int32_t", "u16": "uint32_t", "s32": "int64_t", "u32": "uint64_t"}
HALVES = {"b32": ("uint16_t", 16), "b64": ("uint32_t", 32)}
NARROW = {"bf16": "bfloat16", "f16": "half"}


class Operands:
    """The meaning of names in a kernel of a module."""

    def __init__(self, module: Module, kernel: Kernel):
        self.module, self.kernel = module, kernel
        self.shared = dict.fromkeys(module.dynamic_shared, 1) | {
            name: 2 + i for i, name in enumerate(kernel.shared)
        }

    def value(self, operand: str, kind: str) -> str:
        """Return an operand as a C++ expression of the type `kind`."""
        if operand in SPECIAL:
            return f"{kind}({SPECIAL[operand]})"
        if operand.startswith("!%"):
            return f"!{variable(operand[1:])}"
        if operand.startswith("%"):
            return f"as<{kind}>({variable(operand)})"
        if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", operand):
            return f"as<{kind}>(0x{match[1]}u)"
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", operand):
            return f"{kind}({operand.rstrip('U')}{'ull' if operand.startswith('0x') else 'll'})"
        if operand in self.shared:
            return f"{kind}({self.shared[operand] << 24}u)"
        if operand in self.module.constants:
            return f"{kind}(uint64_t({variable(operand)}))"
        if operand in self.kernel.parameters:
            return f"{kind}(uint64_t(parameters[{self.kernel.parameters[operand]}]))"
        raise ValueError(operand)

    def address(self, operand: str, space: str) -> str:
        """Return the address of [base + offset] of a state space as a number."""
        match = re.fullmatch(r"\[\s*([^\s+]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if match is None:
            raise ValueError(operand)
        base, offset = match[1], int(match[2] or 0)
        if space == "shared":
            return f"in_shared({self.value(base, 'uint32_t')} + uint32_t({offset}))"
        return f"{self.value(base, 'uint64_t')} + ({offset})"


def variable(name: str) -> str:
    """Return the C++ name of a register, a label or a constant."""
    return name.replace("%", "R_").replace("$", "_")


def store(register: str, value: str) -> str:
    """Return a statement that writes a register; `_` discards the value."""
    return f"(void)({value});" if register == "_" else f"set({variable(register)}, {value});"


def elements(operand: str) -> list[str]:
    """Return the registers of {%r1, %r2}, or the single register."""
    return split_operands(operand[1:-1]) if operand.startswith("{") else [operand]
