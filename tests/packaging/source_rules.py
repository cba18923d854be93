"""List where sources break the rules of CONTRIBUTING.md.

    python tests/packaging/source_rules.py [PATH...]

Names and docstrings in plain English, functions of at most 60 lines, files of less than 400, calls with at
most four positional arguments. test_architecture.py runs every rule over the whole project.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("talkinghead", "kernels/talkinghead_kernels")
FOLDERS = (*PACKAGES, "tests", "bench", "examples", "setup.py")
NATIVE_FOLDERS = ("csrc", "tests/cuda_emulator")
MAX_FILE_LINES = 399
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL_ARGUMENTS = 4

BANNED_IDENTIFIERS = frozenset(
    [
        "again",
        "beside",
        "drawn",
        "each",
        "found",
        "given",
        "heard",
        "it",
        "lacking",
        "made",
        "nothing",
        "said",
        "shown",
        "somebody",
        "straw",
        "taken",
        "told",
        "wanted",
        "whom",
    ]
)
"""Participles, pronouns and adverbs that do not say what a value is or what a function does."""
BANNED_FIRST_WORDS = frozenset(
    [
        "that",
        "these",
        "this",
        "those",
        "what",
        "when",
        "where",
        "whether",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "how",
        "as",
        "by",
        "for",
        "from",
        "in",
        "into",
        "of",
        "on",
        "per",
        "through",
        "under",
        "with",
        "without",
        "each",
        "every",
        "everything",
        "nothing",
        "some",
    ]
)
"""Words that start no docstring: functions start with a verb, modules and classes with a noun."""
BANNED_FIRST_WORDS_OF_FUNCTIONS = BANNED_FIRST_WORDS | frozenset(
    ["a", "an", "its", "one", "the", "their", "two"]
)
VARIADIC = frozenset(
    [
        "max",
        "min",
        "print",
        "zip",
        "chain",
        "product",
        "partial",
        "map",
        "Path",
        "join",
        "namedtuple",
        "TypeVar",
        "Literal",
        "hypot",
    ]
)
"""Functions that take any number of values."""


def python_files(*folders: str) -> Iterator[Path]:
    """Yield the Python files of folders, relative to the root of the project."""
    for folder in folders or FOLDERS:
        path = ROOT / folder
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def _place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def long_files(path: Path, _: ast.Module) -> Iterator[str]:
    """Yield a file of too many lines."""
    count = len(path.read_text(encoding="utf-8").splitlines())
    if count > MAX_FILE_LINES:
        yield f"{_place(path, 1)}: {count} lines, expected at most {MAX_FILE_LINES}"


def long_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield functions of too many lines, decorators not counted."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                place = _place(path, node.lineno)
                yield f"{place}: {node.name} has {count} lines, expected at most {MAX_FUNCTION_LINES}"


def banned_identifiers(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield names of functions, classes, arguments, attributes and variables that are banned words."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.attr]
        elif isinstance(node, ast.alias) and node.asname:
            names = [node.asname]
        for name in names:
            if name.strip("_").lower() in BANNED_IDENTIFIERS:
                yield f"{_place(path, getattr(node, 'lineno', 1))}: the name {name!r} says too little"


def docstring_fragments(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield docstrings that start with no verb (of functions) or no noun (of modules and classes)."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        text = ast.get_docstring(node)
        if not text:
            continue
        first = text.split()[0].strip(".,:;'\"`").lower()
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _is_property(node)
        if first in (BANNED_FIRST_WORDS_OF_FUNCTIONS if function else BANNED_FIRST_WORDS):
            line = 1 if isinstance(node, ast.Module) else node.lineno
            yield f"{_place(path, line)}: a docstring starts with {first!r}: {text.splitlines()[0][:60]}"


def attribute_fragments(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield texts below constants and attributes that start with no noun."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for before, text in pairwise(body if isinstance(body, list) else []):
            if not isinstance(before, (ast.Assign, ast.AnnAssign)) or not isinstance(text, ast.Expr):
                continue
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                words = text.value.value.split() or [""]
                if words[0].strip(".,:;'\"`").lower() in BANNED_FIRST_WORDS:
                    yield f"{_place(path, text.lineno)}: a description starts with {words[0]!r}"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = [ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list]
    return any(
        name in ("property", "cached_property", "fixture") or name.startswith("fixture(") for name in names
    )


def positional_arguments(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield calls of functions of the project with too many arguments that are not named."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(isinstance(argument, ast.Starred) for argument in node.args):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if len(node.args) > MAX_POSITIONAL_ARGUMENTS and name not in VARIADIC:
            yield f"{_place(path, node.lineno)}: {name} is called with {len(node.args)} positional arguments"


RULES: dict[str, tuple[Callable[[Path, ast.Module], Iterator[str]], tuple[str, ...]]] = {
    "long files": (long_files, FOLDERS),
    "long functions": (long_functions, PACKAGES),
    "banned identifiers": (banned_identifiers, FOLDERS),
    "docstring fragments": (docstring_fragments, FOLDERS),
    "attribute fragments": (attribute_fragments, FOLDERS),
    "positional arguments": (positional_arguments, ("talkinghead",)),
}
"""Rules and the folders that they hold for."""


def violations(rule: str, *paths: str) -> list[str]:
    """Return violations of a rule, each as "file:line: problem", of all its folders or of some paths."""
    check, folders = RULES[rule]
    chosen = [
        path
        for path in python_files(*folders)
        if not paths or any(path.is_relative_to(ROOT / one) for one in paths)
    ]
    return [line for path in chosen for line in check(path, ast.parse(path.read_text(encoding="utf-8")))]


def main() -> int:
    """Print every violation in the paths of the command line."""
    lines = [line for rule in RULES for line in violations(rule, *sys.argv[1:])]
    print(*lines, f"{len(lines)} violations", sep="\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
