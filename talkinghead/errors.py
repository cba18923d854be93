"""What the user is told when something is wrong: one line, what, where, what was expected, what to do."""

import importlib
from types import ModuleType

MAX_CHARACTERS = 2000
"""Of a message; a longer one loses its middle."""


class TalkingheadError(ValueError):
    """Bad input or a missing part. The message is one line; the command line prints it and exits with 2."""

    def __init__(self, message: str) -> None:
        text = one_line(message)
        if len(text) > MAX_CHARACTERS:  # what a file says of itself may be a part of it
            text = f"{text[: MAX_CHARACTERS // 2]} ... {text[-MAX_CHARACTERS // 4 :]}"
        super().__init__(text)


def one_line(text: str) -> str:
    """The text with what does not print, such as a newline in a file's name, escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def shorten(value: object, length: int = 80) -> str:
    """Return a value of somebody else's as text that is short enough to be a part of a line."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which `pip install` brings it.

    Args:
        module: the import name, such as ``"av"``.
        extra: the extra of this distribution that holds it, such as ``"app"``.

    Raises:
        TalkingheadError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TalkingheadError(f"{module} is needed here and cannot be imported ({error}): pip install 'talkinghead[{extra}]'") from error
