"""Reports of a running job to the server: progress, pictures on the way, warnings."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from ..errors import one_line

_MIN_INTERVAL_S = 0.15  # between two reports of progress


class Send(Protocol):
    """Function that sends fields and bytes to the server."""

    def __call__(self, fields: dict[str, Any], payload: bytes = b"") -> None: ...


class JobReport:
    """Reports of one job; `progress` is a `Progress` of the package.

    Args:
        send: sends fields, and bytes, to the server.
    """

    def __init__(self, send: Send) -> None:
        self.send = send
        self._sent_at = 0.0

    def progress(self, iterable: Iterable[Any], /, *, desc: str, total: int | None = None) -> Iterator[Any]:
        """Yield the items, and report how many of them are done."""
        for number, item in enumerate(iterable):
            self.advance(desc, number, total)
            yield item

    def advance(self, desc: str, done: int, total: int | None, at_once: bool = False) -> None:
        """Report that so many of a total are done, some times a second."""
        now = monotonic()
        if at_once or now - self._sent_at >= _MIN_INTERVAL_S:
            self._sent_at = now
            self.send({"progress": {"text": desc.partition(" of ")[0], "done": done, "total": total}})

    def preview(self, path: Path) -> None:
        """Report that a picture of the result so far was written."""
        self.send({"preview": path.name})

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Report warnings that the package logs within the block."""
        handler = _WarningHandler(self)
        logger = logging.getLogger(__package__.partition(".")[0])
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _WarningHandler(logging.Handler):
    def __init__(self, report: JobReport) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.send({"note": one_line(record.getMessage())})
