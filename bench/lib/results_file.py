"""Read a JSON file of results and check its values, so that a damaged file is reported in one line."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkinghead.errors import TalkingheadError, shorten

MAX_BYTES = 64 << 20
_MAX_SHOWN = 60  # characters of a wrong value and of its place


@dataclass(frozen=True)
class Number:
    """A finite number within bounds; `nan` also allows NaN, which stands for no measurement."""

    low: float = 0.0
    high: float = 1e18
    integer: bool = False
    nan: bool = False


@dataclass(frozen=True)
class Optional:
    """A value that may be missing; with `null` it may also be null."""

    kind: Any
    null: bool = False


@dataclass(frozen=True)
class MappingOf:
    """Named values of one kind; at least `least` of them."""

    kind: Any
    least: int = 0


def read_results(path: Path, kind: Any) -> Any:
    """Return the values of a file.

    Args:
        path: the file.
        kind: what it must hold: a type, a `Number`, a dict of required names, a `MappingOf`, or a list: of
            one kind, or of one kind for each item.

    Raises:
        TalkingheadError: it cannot be read, or holds something else.
    """
    try:
        if not os.path.isfile(path):  # a pipe or a device might never end
            raise OSError("no regular file")
        if os.path.getsize(path) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES >> 20} MB")
        values = json.loads(path.read_text(encoding="utf-8"))
        _check(values, kind, "it")
    except (OSError, ValueError, RecursionError) as error:
        raise TalkingheadError(
            f"{path}: cannot be read as results ({error}); measure again, or name another file"
        ) from error
    return values


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn a TalkingheadError in the block into one line on stderr and exit code 2."""
    try:
        yield
    except TalkingheadError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _check(value: Any, kind: Any, where: str) -> None:
    if isinstance(kind, Optional):
        if value is not None or not kind.null:
            _check(value, kind.kind, where)
    elif isinstance(kind, Number):
        _check_number(value, kind, where)
    elif isinstance(kind, list):
        _expect(type(value) is list and len(kind) in (1, len(value)), value, where)
        for number, item in enumerate(value):
            _check(item, kind[0] if len(kind) == 1 else kind[number], f"{where}[{number}]")
    elif isinstance(kind, (dict, MappingOf)):
        _expect(type(value) is dict, value, where)
        named: Mapping[str, Any] = kind if isinstance(kind, dict) else dict.fromkeys(value, kind.kind)
        _expect(isinstance(kind, dict) or len(value) >= kind.least, value, where)
        for name, item in named.items():
            _check(name, str, f"a name in {where}")
            if name in value:
                _check(value[name], item, f"{where}.{name}")
            elif not isinstance(item, Optional):
                raise ValueError(f"{where} lacks {name}")
    else:
        _expect(type(value) is kind and (kind is not str or value.isprintable()), value, where)


def _check_number(value: Any, kind: Number, where: str) -> None:
    _expect(type(value) is int or (type(value) is float and not kind.integer), value, where)
    if not (kind.nan and value != value):
        _expect(kind.low <= value <= kind.high, value, where)


def _expect(right: bool, value: Any, where: str) -> None:
    if not right:
        raise ValueError(
            f"{where[-_MAX_SHOWN:]} is {shorten(repr(value), _MAX_SHOWN)}, which is not valid there"
        )
