"""Errors for the user: one line with subject, problem and remedy."""

import importlib
import operator
import os
import re
from collections.abc import Iterable
from types import ModuleType

MAX_CHARACTERS = 2000
"""Limit of a message's length; a longer one loses its middle."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")
"""An address such as https://example.org/a.jpg, or what a Path makes of one; C:/a.jpg is none."""


class TalkingheadError(ValueError):
    """Bad input or a missing dependency.

    The message is one line; the command line prints it and exits with 2.

    Attributes:
        reported: of a run of several processes: whether another one prints the message. None where it is not
            known.
    """

    reported: bool | None = None

    def __init__(self, message: str) -> None:
        text = one_line(message)
        if len(text) > MAX_CHARACTERS:  # it may quote a file
            text = f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 4 :]}"
        super().__init__(text)


def one_line(text: str) -> str:
    """Escape characters that do not print, such as a newline in a file's name."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def quantity(count: int, noun: str) -> str:
    """Return a count with its noun, which gets an s unless the count is 1; several persons are people."""
    if noun == "person" and count != 1:
        return f"{count} people"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shorten(value: object, length: int = 80) -> str:
    """Return an untrusted value as text, cut after `length` characters so that it fits into a message."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" with the known word that is closest to a mistyped one, or no text."""
    from difflib import get_close_matches  # only for errors: its import takes time

    names = {name.lstrip("-"): name for name in known}  # dashes would make all options alike
    word = word.lstrip("-")
    longer = [name for name in names if len(word) > 1 and name.startswith(word)]
    close = longer or get_close_matches(word, names, n=1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def check_whole_number(name: str, value: object, minimum: int, example: int) -> None:
    """Check a number that a user gave.

    Raises:
        TalkingheadError: it is no whole number (a bool is none), or below the minimum.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise TalkingheadError(
            f"{name} {shorten(repr(value))}: is no whole number; give one, such as {example}"
        )
    if number < minimum:
        raise TalkingheadError(f"{name} {number}: is below {minimum}; give {minimum} or more")


def check_path(subject: str, path: object, example: str) -> None:
    """Check that a file to read is given by its path.

    Args:
        subject: of the message, such as "load_person".
        path: what a user gave.
        example: of a path.

    Raises:
        TalkingheadError: it is no path, or an address in the web.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TalkingheadError(
            f'{subject}: got {type(path).__name__}; give the path of a file, such as "{example}"'
        )
    check_local(path)


def check_local(path: str | os.PathLike[str]) -> None:
    """Check that a path is no address in the web.

    Raises:
        TalkingheadError: it is one.
    """
    address = _ADDRESS.match(os.fspath(path))
    if address and not os.path.exists(path):
        raise TalkingheadError(
            f"{address[1]}://{address[2]}: is an address, and only local files are read; download it first"
        )


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency; the error names the `pip install` that brings it.

    Args:
        module: the import name, such as ``"av"``.
        extra: the extra of this distribution that holds it, such as ``"app"``.

    Raises:
        TalkingheadError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TalkingheadError(
            f"{module} is needed here and cannot be imported ({error}); pip install 'talkinghead[{extra}]'"
        ) from error
