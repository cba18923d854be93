"""Silence libraries that print or warn of their own accord."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Discard what C code writes to the stderr of the process."""
    if sys.__stderr__ is None:  # stderr was closed at the start: descriptor 2 may belong to any file
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # the process has no descriptor 2
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextmanager
def suppress_warnings(logger_name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Ignore Python warnings, and log records of one logger below a level.

    Args:
        logger_name: for example "torch".
        level: the lowest level that is still logged.
    """
    logger = logging.getLogger(logger_name)
    previous_level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(level)
        try:
            yield
        finally:
            logger.setLevel(previous_level)
