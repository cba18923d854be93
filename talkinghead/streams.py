"""Standard output and standard error, as a command that works for minutes needs them: what cannot be printed never costs the work."""

import errno
import os
import sys
from typing import Any, TextIO

from .errors import TalkingheadError, one_line


class ClosedPipe(Exception):
    """Whoever read the output is gone, as `head` is when it has its lines; nothing is to be said of it."""


class Stream:
    """A standard stream. Once it cannot be written to, all further text is left out; `check` says so at the end.

    Characters that its encoding lacks are escaped. It serves as the file of a tqdm bar.

    Args:
        name: "stdout" or "stderr".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._problem: OSError | None = None

    def line(self, text: str) -> None:
        """Print one line, with everything in it escaped that a terminal would obey: names of files and manifests are others' words."""
        self.write(one_line(text) + "\n")

    def write(self, text: str) -> int:
        """Print a text as it is, at once."""
        stream: TextIO | None = getattr(sys, self._name)
        if self._problem is None:
            try:
                if stream is None or stream.closed:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                encoding = stream.encoding or "utf-8"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()
            except OSError as error:
                self._problem = error
                _discard(stream)
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is written is printed at once."""

    def check(self) -> None:
        """See that all was printed.

        Raises:
            ClosedPipe: the reader went away.
            TalkingheadError: it could not be written, as on a full disk.
        """
        if isinstance(self._problem, BrokenPipeError):
            raise ClosedPipe
        if self._problem is not None:
            raise TalkingheadError(f"{self._name}: cannot be written to ({self._problem.strerror}); send it elsewhere, or add --quiet")

    def __getattr__(self, name: str) -> Any:  # what tqdm asks of a file, such as its encoding and its number
        return getattr(getattr(sys, self._name), name)


def open_missing_descriptors() -> None:
    """Open the null device as each of the streams 0, 1 and 2 that the caller has closed.

    Otherwise the next file that is opened gets the number, and what libraries print goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one


def _discard(stream: TextIO | None) -> None:
    """Send what a stream still holds nowhere, or the interpreter would complain of it when it ends."""
    for own in (sys.__stdout__, sys.__stderr__):
        if own is None or own is not stream:
            continue
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, own.fileno())
        except (OSError, ValueError):
            pass
        finally:
            os.close(nowhere)
