"""What the user is told when something is wrong: one line, what, where, what was expected, what to do."""

import importlib
from types import ModuleType


class TalkingheadError(ValueError):
    """Bad input or a missing part. The message is one line; the command line prints it and exits with 2."""


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
