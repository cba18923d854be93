"""Read a JSON file of results and check that it holds what its reader shows, so that damage ends in one line."""

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
_SHOWN = 60  # characters of a wrong value and of its place


@dataclass(frozen=True)
class Number:
    """A finite number within bounds; `nan` allows that there was none to measure."""

    low: float = 0.0
    high: float = 1e18
    whole: bool = False
    nan: bool = False


@dataclass(frozen=True)
class Optional:
    """A value that may be missing, or null if `null`."""

    kind: Any
    null: bool = False


@dataclass(frozen=True)
class Each:
    """Named values of one kind; `least` of them."""

    kind: Any
    least: int = 0


def read_results(path: Path, kind: Any) -> Any:
    """Return the values of a file.

    Args:
        path: the file.
        kind: what it must hold: a type, a `Number`, a dict of required names, an `Each`, or a list: of one kind, or of a kind for each.

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
        raise TalkingheadError(f"{path}: cannot be read as results ({error}); measure again, or name another file") from error
    return values


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End with exit code 2 and one line on stderr where a file of the user's is wrong."""
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
        for number, each in enumerate(value):
            _check(each, kind[0] if len(kind) == 1 else kind[number], f"{where}[{number}]")
    elif isinstance(kind, (dict, Each)):
        _expect(type(value) is dict, value, where)
        named: Mapping[str, Any] = kind if isinstance(kind, dict) else dict.fromkeys(value, kind.kind)
        _expect(isinstance(kind, dict) or len(value) >= kind.least, value, where)
        for name, each in named.items():
            _check(name, str, f"a name in {where}")
            if name in value:
                _check(value[name], each, f"{where}.{name}")
            elif not isinstance(each, Optional):
                raise ValueError(f"{where} lacks {name}")
    else:
        _expect(type(value) is kind and (kind is not str or value.isprintable()), value, where)


def _check_number(value: Any, kind: Number, where: str) -> None:
    _expect(type(value) is int or (type(value) is float and not kind.whole), value, where)
    if not (kind.nan and value != value):
        _expect(kind.low <= value <= kind.high, value, where)


def _expect(right: bool, value: Any, where: str) -> None:
    if not right:
        raise ValueError(f"{where[-_SHOWN:]} is {shorten(repr(value), _SHOWN)}; that does not belong there")
