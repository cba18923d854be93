"""TOML files: read with the standard library, or tomli before Python 3.11; written for values of options."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import TalkingheadError, require, shorten

MAX_BYTES = 1 << 20
"""Size limit of a file that somebody writes by hand."""


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        TalkingheadError: it is missing, too large or no TOML.
    """
    toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "app")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TalkingheadError(f"{path}: cannot be read ({reason}); name a TOML file") from error
    if len(data) > MAX_BYTES:
        raise TalkingheadError(f"{path}: has more than {MAX_BYTES >> 20} MB; name a TOML file of settings")
    try:
        return toml.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TalkingheadError(f"{path}: is not TOML ({shorten(error)}); correct it") from error


def format_toml(value: Any) -> str:
    """Return a flag, number, text, or sequence of them as TOML.

    Raises:
        TalkingheadError: a text has bytes that are no Unicode.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(format_toml, value))}]"
    text = str(value)
    if not text.isascii() and text.encode("utf-8", "replace").decode("utf-8") != text:
        raise TalkingheadError(
            f"{shorten(text)}: is not Unicode and cannot be written to TOML; rename the file"
        )
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
