"""Reads PTX, the text that nvcc and Triton give to the driver, into kernels of instructions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as `@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+8];`.

    Attributes:
        predicate: the register it depends on with "!" where it must be false, or "".
        parts: of the name, ("ld", "global", "v2", "f32").
        operands: as text, ("{%f1, %f2}", "[%rd1+8]").
        line: of the PTX.
    """

    predicate: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    line: int

    @property
    def name(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Registers:
    """Declared registers of one type; valid to the end of the scope."""

    type: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Brace:
    """Opens or closes a scope of registers."""

    text: str


Statement = Instruction | Registers | Label | Brace


@dataclass(frozen=True)
class Kernel:
    """A kernel of a module.

    Attributes:
        name: as it is mangled.
        parameters: where each stands.
        shared: bytes of each static variable in shared memory.
        body: statements in order.
    """

    name: str
    parameters: dict[str, int]
    shared: dict[str, int]
    body: list[Statement]


@dataclass(frozen=True)
class Module:
    """A file of PTX.

    Attributes:
        target: such as "sm_90a".
        dynamic_shared: names of what the launch sizes.
        constants: bytes of each array in global memory that has a value.
    """

    target: str
    kernels: list[Kernel] = field(default_factory=list)
    dynamic_shared: set[str] = field(default_factory=set)
    constants: dict[str, bytes] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The ptxVersion of cudaFuncGetAttributes: 90 for sm_90 and sm_90a."""
        return int(re.sub(r"\D", "", self.target))


def plain_names(text: str) -> str:
    """Return the text with anonymous namespaces in mangled names as written by g++.

    nvcc adds the file's name and numbers that vary.
    """
    pieces, end = [], 0
    for match in re.finditer(r"(\d+)(_GLOBAL__N_|_INTERNAL_)", text):
        if match.start() >= end:
            pieces += [
                text[end : match.start()],
                {"_GLOBAL__N_": "12_GLOBAL__N_1", "_INTERNAL_": "9_INTERNAL_"}[match[2]],
            ]
            end = match.start(2) + int(match[1])
    return "".join(pieces) + text[end:]


def without_target(text: str) -> str:
    """Return the text without what differs between equal code for two architectures."""
    text = re.sub(r"^//.*\n|^\.(version|target).*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"SM_\d+", "SM", plain_names(text))


def parse(text: str) -> Module:
    """Read a module.

    Raises:
        ValueError: it has something that the emulator does not know.
    """
    target = re.search(r"^\.target\s+(\w+)", text, re.MULTILINE)
    if target is None:
        raise ValueError("no .target: this is not PTX")
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^\s*\.(loc|file|pragma|section)\b[^\n]*", "", text, flags=re.MULTILINE)
    module = Module(target[1])
    for match in re.finditer(
        r"^\.(?:global|const)\s.*?\.b8\s+([\w$]+)\[\d+\]\s*=\s*\{([^}]*)\}", text, re.MULTILINE
    ):
        module.constants[match[1]] = bytes(map(int, match[2].split(",")))
    module.dynamic_shared.update(
        re.findall(r"^\.extern\s+\.shared\s.*?\.b8\s+([\w$]+)\[\s*\]", text, re.MULTILINE)
    )
    for match in re.finditer(
        r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
    ):
        if ".func" in match[3]:
            raise ValueError(f"{match[1]}: functions are not emulated")
        parameters = [
            re.sub(r"\[\d+\]", "", part).split()[-1] for part in match[2].split(",") if part.strip()
        ]
        line = text.count("\n", 0, match.start(4)) + 1
        shared: dict[str, int] = {}
        body = list(_statements(match[4], line, shared))
        module.kernels.append(
            Kernel(match[1], {name: at for at, name in enumerate(parameters)}, shared, body)
        )
    return module


def _statements(text: str, line: int, shared: dict[str, int]) -> Iterator[Statement]:
    for piece in text.split(";"):
        start = line + piece[: len(piece) - len(piece.lstrip())].count("\n")
        line += piece.count("\n")
        piece = piece.strip()
        while before := re.match(r"([{}])|([\w$]+):(?!:)", piece):  # neither ends with a semicolon
            yield Brace(before[1]) if before[1] else Label(before[2])
            piece = piece[before.end() :].strip()
        declared = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", piece, re.DOTALL)
        variable = re.fullmatch(r"\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[(\d+)\]", piece)
        if declared:
            yield Registers(
                declared[1], tuple(name for part in split_operands(declared[2]) for name in _numbered(part))
            )
        elif variable:
            shared[variable[1]] = int(variable[2])
        elif piece:
            match = re.fullmatch(r"(?:@(!?%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", piece, re.DOTALL)
            if match is None:
                raise ValueError(f"line {start}: {piece!r} is not emulated")
            yield Instruction(
                match[1] or "", tuple(match[2].split(".")), tuple(split_operands(match[3])), start
            )


def _numbered(declared: str) -> list[str]:
    many = re.fullmatch(r"(%\w+?)<(\d+)>", declared)
    return [f"{many[1]}{number}" for number in range(int(many[2]))] if many else [declared]


def split_operands(text: str) -> list[str]:
    """Split at the commas outside of {} and []."""
    return [part.strip() for part in re.findall(r"(?:[^,{\[]|\{[^}]*\}|\[[^\]]*\])+", text) if part.strip()]
