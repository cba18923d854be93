"""Translations of the instructions of PTX to C++, used by ptx_translate.py."""

from collections.abc import Callable

from .ptx_module import Instruction
from .ptx_operands import HALVES, NARROW, OR_NAN, ORDERED, TYPES, WIDE, Operands, elements, store, variable

IGNORED = ("membar", "fence", "griddepcontrol", "prefetch")

Translator = Callable[[Operands, Instruction], str]
INSTRUCTIONS: dict[str, Translator] = {name: lambda _, i: ";" for name in IGNORED}


def instruction(*names: str) -> Callable[[Translator], Translator]:
    """Register the function that translates these instructions."""

    def register(translator: Translator) -> Translator:
        INSTRUCTIONS.update(dict.fromkeys(names, translator))
        return translator

    return register


def _values(t: Operands, i: Instruction, first: int = 1) -> tuple[str, list[str]]:
    """Return the C++ type, and the operands from `first` on as values of it."""
    kind = TYPES[i.parts[-1]]
    return kind, [t.value(operand, kind) for operand in i.operands[first:]]


def _is_float(i: Instruction) -> bool:
    return i.parts[-1] in ("f32", "f64")


def _narrow(t: Operands, i: Instruction, formula: str) -> str:
    """Translate arithmetic of one or two 16-bit floats: in float32, then rounded."""
    kind = NARROW[i.parts[-1].removesuffix("x2")]
    values = [t.value(operand, TYPES[i.parts[-1]]) for operand in i.operands[1:]]

    def half(shift: int) -> str:
        wide = [f"from_{kind}(uint16_t({value} >> {shift}))" for value in values]
        return f"to_{kind}({formula.format(*wide)})"

    return store(
        i.operands[0],
        f"uint32_t({half(0)} | uint32_t({half(16)}) << 16)" if i.parts[-1].endswith("x2") else half(0),
    )


# ---- control


@instruction("ret", "exit")
def _return(t: Operands, i: Instruction) -> str:
    return "return;"


@instruction("bra")
def _branch(t: Operands, i: Instruction) -> str:
    return f"goto {variable(i.operands[0])};"


@instruction("bar", "barrier")
def _barrier(t: Operands, i: Instruction) -> str:
    if i.parts[1] == "cluster":
        return f"services->cluster_{ {'arrive': 'arrive', 'wait': 'wait'}[i.parts[2]] }({i.line});"
    if i.parts[1] == "warp":
        return f"services->ballot({t.value(i.operands[0], 'uint32_t')}, true, {i.line});"
    if i.parts[1] != "sync" or i.operands != ("0",):
        raise ValueError("a barrier of some of the block's threads")
    return f"services->sync_threads({i.line});"


# ---- arithmetic

_PLAIN = {"add": "add", "sub": "subtract", "div": "divide", "rem": "remainder"}
_SIGNS = {"add": "+", "sub": "-", "mul": "*"}


@instruction("add", "sub", "div", "rem")
def _binary(t: Operands, i: Instruction) -> str:
    if i.parts[-1].startswith(("f16", "bf16")):
        return _narrow(t, i, f"{{}} {_SIGNS[i.parts[0]]} {{}}")
    kind, (a, b) = _values(t, i)
    return store(i.operands[0], f"{_PLAIN[i.parts[0]]}<{kind}>({a}, {b})")


@instruction("mul")
def _multiply(t: Operands, i: Instruction) -> str:
    if i.parts[-1].startswith(("f16", "bf16")):
        return _narrow(t, i, "{} * {}")
    kind, (a, b) = _values(t, i)
    if "wide" in i.parts:
        wide = WIDE[i.parts[-1]]
        return store(i.operands[0], f"multiply<{wide}>({a}, {b})")
    return store(i.operands[0], f"multiply{'_high' * ('hi' in i.parts)}<{kind}>({a}, {b})")


@instruction("mad")
def _multiply_add(t: Operands, i: Instruction) -> str:
    kind, (a, b, _) = _values(t, i)
    if "hi" in i.parts:
        raise ValueError("mad.hi")
    result = WIDE[i.parts[-1]] if "wide" in i.parts else kind
    return store(
        i.operands[0], f"add<{result}>(multiply<{result}>({a}, {b}), {t.value(i.operands[3], result)})"
    )


@instruction("fma")
def _fused(t: Operands, i: Instruction) -> str:
    if not _is_float(i):
        return _narrow(t, i, "float(double({}) * {} + {})")
    _, values = _values(t, i)
    return store(i.operands[0], f"std::fma({', '.join(values)})")


@instruction("rcp", "sqrt", "rsqrt", "ex2", "lg2", "abs", "neg", "not", "popc", "clz")
def _unary(t: Operands, i: Instruction) -> str:
    kind, (a,) = _values(t, i)
    formulas = {
        "rcp": f"{kind}(1) / {a}",
        "sqrt": f"std::sqrt({a})",
        "rsqrt": f"{kind}(1) / std::sqrt({a})",
        "ex2": f"std::exp2({a})",
        "lg2": f"std::log2({a})",
        "abs": f"std::abs({a})",
        "neg": f"-{a}" if _is_float(i) else f"subtract<{kind}>(0, {a})",
        "not": f"!{a}" if kind == "bool" else f"{kind}(~{a})",
        "popc": f"uint32_t(std::popcount({a}))",
        "clz": f"uint32_t(std::countl_zero({a}))",
    }
    return store(i.operands[0], formulas[i.parts[0]])


@instruction("min", "max")
def _extreme(t: Operands, i: Instruction) -> str:
    kind, (a, b) = _values(t, i)
    if _is_float(i):
        return store(i.operands[0], f"{i.parts[0]}imum<{kind}>({a}, {b}, {str('NaN' in i.parts).lower()})")
    return store(i.operands[0], f"std::{i.parts[0]}<{kind}>({a}, {b})")


@instruction("and", "or", "xor")
def _bitwise(t: Operands, i: Instruction) -> str:
    kind, (a, b) = _values(t, i)
    return store(i.operands[0], f"{kind}({a} { {'and': '&', 'or': '|', 'xor': '^'}[i.parts[0]] } {b})")


@instruction("shl", "shr")
def _shift(t: Operands, i: Instruction) -> str:
    kind, (a, _) = _values(t, i)
    side = {"shl": "left", "shr": "right"}[i.parts[0]]
    return store(i.operands[0], f"shift_{side}<{kind}>({a}, {t.value(i.operands[2], 'uint32_t')})")


@instruction("shf", "prmt", "lop3")
def _words(t: Operands, i: Instruction) -> str:
    _, values = _values(t, i)
    if i.parts[0] == "shf":
        flags = [str("l" in i.parts).lower(), str("wrap" in i.parts).lower()]
        return store(i.operands[0], f"funnel_shift({', '.join(flags + values)})")
    if i.parts[0] == "prmt" and len(i.parts) > 2:
        raise ValueError("a mode of prmt")
    return store(
        i.operands[0],
        f"{ {'prmt': 'permute_bytes', 'lop3': 'three_inputs'}[i.parts[0]] }({', '.join(values)})",
    )


@instruction("bfe")
def _field(t: Operands, i: Instruction) -> str:
    kind, (a, *_) = _values(t, i)
    first, count = (t.value(operand, "uint32_t") for operand in i.operands[2:])
    return store(i.operands[0], f"bit_field<{kind}>({a}, {first}, {count})")


# ---- comparing and moving


@instruction("setp")
def _compare(t: Operands, i: Instruction) -> str:
    kind, comparison = TYPES[i.parts[-1]], i.parts[1]
    a, b = (t.value(operand, kind) for operand in i.operands[1:3])
    if comparison in ORDERED:
        # unlike C++'s, PTX's `ne` is false of NaN
        neither = f" && {a} == {a} && {b} == {b}" if comparison == "ne" and _is_float(i) else ""
        truth = f"({a} {ORDERED[comparison]} {b}{neither})"
    elif comparison in ("nan", "num"):
        truth = f"({'!' * (comparison == 'num')}({a} != {a} || {b} != {b}))"
    elif comparison == "equ":
        truth = f"!({a} < {b} || {a} > {b})"
    else:
        negated, sign = OR_NAN[comparison]
        truth = f"{negated}({a} {sign} {b})"
    if len(i.operands) == 4:
        joined = {"and": "&&", "or": "||", "xor": "!="}[i.parts[2]]
        truth = f"({truth}) {joined} ({t.value(i.operands[3], 'bool')})"
    if "|" in i.operands[0]:
        raise ValueError("two predicates")
    return store(i.operands[0], truth)


@instruction("selp")
def _select(t: Operands, i: Instruction) -> str:
    kind = TYPES[i.parts[-1]]
    a, b = (t.value(operand, kind) for operand in i.operands[1:3])
    return store(i.operands[0], f"{t.value(i.operands[3], 'bool')} ? {a} : {b}")


@instruction("mov")
def _move(t: Operands, i: Instruction) -> str:
    kind = TYPES[i.parts[-1]]
    to, source = i.operands
    if to.startswith("{"):
        half, bits = HALVES[i.parts[-1]]
        parts = "".join(
            store(name, f"{half}(whole >> {bits * k})") for k, name in enumerate(elements(to)) if name != "_"
        )
        return f"{{ const {kind} whole = {t.value(source, kind)}; {parts} }}"
    if source.startswith("{"):
        half, bits = HALVES[i.parts[-1]]
        return store(
            to,
            " | ".join(
                f"{kind}({t.value(name, half)}) << {bits * k}" for k, name in enumerate(elements(source))
            ),
        )
    return store(to, t.value(source, kind))


_ROUNDED = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}


@instruction("cvt")
def _convert(t: Operands, i: Instruction) -> str:
    to, source = i.parts[-2:]
    a = t.value(i.operands[1], TYPES[source])
    if "sat" in i.parts:
        raise ValueError("a saturated conversion")
    if to in ("bf16x2", "f16x2"):  # the first source is the upper half
        kind = NARROW[to.removesuffix("x2")]
        high, low = (f"to_{kind}({t.value(operand, 'float')})" for operand in i.operands[1:])
        return store(i.operands[0], f"uint32_t({low} | uint32_t({high}) << 16)")
    if to in NARROW:
        return store(i.operands[0], f"to_{NARROW[to]}({a})") if source == "f32" else _unknown()
    if source in NARROW:
        return store(i.operands[0], f"from_{NARROW[source]}({a})") if to == "f32" else _unknown()
    if source == "f32" and to != "f64":
        rounded = next(f"{function}({a})" for mode, function in _ROUNDED.items() if mode in i.parts)
        return store(i.operands[0], rounded if to == "f32" else f"to_integer<{TYPES[to]}>({rounded})")
    if source == "f64":
        return _unknown()
    return store(i.operands[0], f"{TYPES[to]}({a})")


def _unknown() -> str:
    raise ValueError("a conversion")


# ---- memory


def _space(i: Instruction) -> str:
    return next(
        (part.split("::")[0] for part in i.parts if part.startswith(("shared", "param", "global"))), "generic"
    )


@instruction("cvta")
def _generic(t: Operands, i: Instruction) -> str:
    if "to" in i.parts and "shared" in i.parts:
        raise ValueError("a generic address in shared memory")
    address = t.value(i.operands[1], "uint64_t")
    return store(i.operands[0], f"in_shared(uint32_t({address}))" if _space(i) == "shared" else address)


@instruction("ld", "st")
def _memory(t: Operands, i: Instruction) -> str:
    loads = i.parts[0] == "ld"
    to, source = i.operands
    kind, registers = TYPES[i.parts[-1]], elements(to if loads else source)
    count = next((int(part[1:]) for part in i.parts if part in ("v2", "v4", "v8")), 1)
    if len(registers) != count:
        raise ValueError("registers")
    vector = f"Vector<{kind}, {count}>"
    address = t.address(source if loads else to, _space(i))
    if loads:
        parts = "".join(store(name, f"loaded.values[{k}]") for k, name in enumerate(registers) if name != "_")
        return f"{{ const auto loaded = memory<{vector}>({address}); {parts} }}"
    values = ", ".join(t.value(name, kind) for name in registers)
    return f"memory<{vector}>({address}) = {vector}{{{{{values}}}}};"


@instruction("atom", "red")
def _atomic(t: Operands, i: Instruction) -> str:
    kind = TYPES[i.parts[-1]]
    returns = i.parts[0] == "atom"
    change = next(part for part in i.parts if part in ("add", "min", "max", "exch", "inc", "and", "or"))
    formula = {
        "add": f"add<{kind}>(old, operand)",
        "min": "std::min(old, operand)",
        "max": "std::max(old, operand)",
        "exch": "operand",
        "inc": f"old >= operand ? {kind}(0) : {kind}(old + 1)",
        "and": f"{kind}(old & operand)",
        "or": f"{kind}(old | operand)",
    }[change]
    address, operand = i.operands[1:] if returns else i.operands
    code = (
        f"atomic<{kind}>({t.address(address, _space(i))}, [operand = {t.value(operand, kind)}](auto old) {{ "
        f"return {formula}; }})"
    )
    return store(i.operands[0] if returns else "_", code)


@instruction("mapa")
def _map_shared(t: Operands, i: Instruction) -> str:
    if i.name != "mapa.u64":
        raise ValueError("an address in shared memory")
    pointer, rank = t.value(i.operands[1], "uint64_t"), t.value(i.operands[2], "uint32_t")
    return store(
        i.operands[0], f"uint64_t(services->map_shared(reinterpret_cast<const void*>({pointer}), {rank}))"
    )


@instruction("ldmatrix", "stmatrix")
def _matrix(t: Operands, i: Instruction) -> str:
    loads = i.parts[0] == "ldmatrix"
    to, source = i.operands
    if "m8n8" not in i.parts or i.parts[-1] != "b16":
        raise ValueError("a layout")
    address, registers = t.address(source if loads else to, "shared"), elements(to if loads else source)
    which = [f"{k}, {str('trans' in i.parts).lower()}" for k in range(len(registers))]
    moved = [
        store(name, f"matrices.load({at})")
        if loads
        else f"matrices.store({at}, {t.value(name, 'uint32_t')});"
        for name, at in zip(registers, which, strict=True)
    ]
    # no lane goes on before all have read or written
    return (
        f"{{ const MatrixRows matrices({address}, {i.line}); {''.join(moved)} services->ballot(~0u, "
        f"true, {i.line}); }}"
    )


# ---- other threads of the warp


@instruction("shfl")
def _shuffle(t: Operands, i: Instruction) -> str:
    lane = {"bfly": "lane ^ b", "idx": "b & 31", "down": "lane + b", "up": "lane - b"}[i.parts[2]]
    register, _, flag = i.operands[0].partition("|")
    value, by, clamp, mask = (
        t.value(operand, kind)
        for operand, kind in zip(i.operands[1:], ("uint32_t", "int", "uint32_t", "uint32_t"), strict=True)
    )
    predicate = "0" if i.parts[2] == "up" else "31"
    moved = store(register, f"shuffle({mask}, {value}, {lane}, {i.line}, found)") + (
        store(flag, "found") if flag else ""
    )
    moved = f'if ({clamp} != {predicate}) services->fail("shfl.sync in a part of a warp"); {moved}'
    return f"{{ const int lane = services->lane(), b = {by}; {moved} }}"


@instruction("vote")
def _vote(t: Operands, i: Instruction) -> str:
    mask, bits = (
        t.value(i.operands[2], "uint32_t"),
        f"services->ballot({{}}, {t.value(i.operands[1], 'bool')}, {i.line})",
    )
    ballot = bits.format(mask)
    return store(
        i.operands[0], {"ballot": ballot, "any": f"{ballot} != 0", "all": f"{ballot} == {mask}"}[i.parts[2]]
    )


@instruction("redux")
def _reduce(t: Operands, i: Instruction) -> str:
    kind = TYPES[i.parts[-1]]
    both = {"add": f"add<{kind}>(a, b)", "min": "std::min(a, b)", "max": "std::max(a, b)"}[i.parts[2]]
    value, mask = t.value(i.operands[1], kind), t.value(i.operands[2], "uint32_t")
    return store(
        i.operands[0],
        f"reduce_warp<{kind}>({mask}, {value}, []({kind} a, {kind} b) {{ return {both}; }}, {i.line})",
    )
