"""Types of arguments: numbers in a range, and which types take any text."""

import argparse
from collections.abc import Callable
from typing import Any

from .path_arguments import FolderType


def int_in_range(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argument type: an integer of at least `low`, and at most `high`."""

    def parse(text: str) -> int:
        if not _is_in_range(text, low, high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {_range_text(low, high)}")
        return int(text)

    return parse


class IntList:
    """Argument type: comma-separated integers in a range, sorted, without duplicates."""

    def __init__(self, low: int, high: int | None = None) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> tuple[int, ...]:
        """Parse the integers."""
        parts = [part.strip() for part in text.split(",")]
        if not all(_is_in_range(part, self._low, self._high) for part in parts):
            numbers = f"whole numbers {_range_text(self._low, self._high)}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of {numbers}")
        return tuple(sorted({int(part) for part in parts}))


def _is_in_range(text: str, low: int, high: int | None) -> bool:
    return text.isdecimal() and int(text) >= low and (high is None or int(text) <= high)


def _range_text(low: int, high: int | None) -> str:
    return f"of {low} or more" if high is None else f"from {low} to {high}"


def parse_float(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = parse_float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def takes_text(kind: Any) -> bool:
    """Return whether an argument of a type is a text, such as a path, and no number."""
    is_text_class = isinstance(kind, type) and issubclass(kind, str)
    return kind is None or is_text_class or isinstance(kind, FolderType)
