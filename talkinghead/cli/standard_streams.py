"""Standard output and standard error of long commands: a failed print never costs the work."""

import errno
import os
import sys
from typing import Any, TextIO

from ..errors import TalkingheadError, one_line


class ClosedPipe(Exception):
    """Reader of stdout that has closed it, as `head` does after its lines; not an error."""


class StandardStream:
    """Standard stream that drops all text after its first failed write; `check` reports it at the end.

    Characters that its encoding lacks are escaped. It serves as the file of a tqdm bar.

    Args:
        name: "stdout" or "stderr".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._problem: OSError | None = None

    def write_line(self, text: str) -> None:
        """Print one line; escape what a terminal would obey, since names and manifests come from others."""
        self.write(one_line(text) + "\n")

    def write(self, text: str) -> int:
        """Print a text unchanged, without buffering."""
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
        """Do nothing, since `write` does not buffer."""

    def check(self) -> None:
        """Check that all was printed.

        Raises:
            ClosedPipe: the reader has closed it.
            TalkingheadError: it could not be written, as on a full disk.
        """
        if isinstance(self._problem, BrokenPipeError):
            raise ClosedPipe
        if self._problem is not None:
            raise TalkingheadError(
                f"{self._name}: cannot be written to ({self._problem.strerror}); send it elsewhere, or add "
                "--quiet"
            )

    def __getattr__(self, name: str) -> Any:  # tqdm reads attributes of a file, such as encoding
        return getattr(getattr(sys, self._name), name)


def open_missing_descriptors() -> None:
    """Open the null device as each of the descriptors 0, 1 and 2 that the caller has closed.

    Otherwise the next file that is opened gets the number, and libraries print into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one


def _discard(stream: TextIO | None) -> None:
    """Redirect a stream's buffered text to the null device, or the interpreter would complain at its end."""
    for standard in (sys.__stdout__, sys.__stderr__):
        if standard is None or standard is not stream:
            continue
        null_device = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null_device, standard.fileno())
        except (OSError, ValueError):
            pass
        finally:
            os.close(null_device)
