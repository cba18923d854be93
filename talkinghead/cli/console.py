"""Output of the command line: notes and the outcome on stdout, progress and log messages on stderr.

The only module that imports tqdm. All text goes through `StandardStream.write_line` or `one_line`, which
escape what a terminal would obey, since much of it comes from files.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import one_line, require
from .standard_streams import StandardStream

SHOWN_METRICS = ("content", "pixel", "score_gap", "episodes_per_second")
"""Metrics of a step that its progress bar shows."""


class _LogHandler(logging.Handler):
    """Handler that passes messages to a function."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())


class Console:
    """Output of a command. Within its context, the package's log messages are printed.

    Args:
        quiet: print neither notes nor progress, nor the outcome as text.
        as_json: print the outcome as JSON, and no notes, so that stdout holds JSON alone.
        verbose: print the package's debug messages too, such as how long each stage took.
        out, err: streams to print to.
    """

    def __init__(
        self,
        quiet: bool = False,
        as_json: bool = False,
        verbose: bool = False,
        out: StandardStream | None = None,
        err: StandardStream | None = None,
    ) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._level = logging.DEBUG if verbose else logging.INFO
        self._out, self._err = out or StandardStream("stdout"), err or StandardStream("stderr")
        self._bars: list[Any] = []
        self._logger = logging.getLogger(__package__.partition(".")[0])
        self._handler = _LogHandler(self._write_log)
        self._logged: set[str] = set()

    def __enter__(self) -> "Console":
        self._logger_state = self._logger.level, self._logger.propagate
        self._logger.addHandler(self._handler)
        self._logger.setLevel(self._level)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
        level, self._logger.propagate = self._logger_state
        self._logger.setLevel(level)
        self.close_bars()

    def print(self, text: str) -> None:
        """Print a note, above the bars."""
        if self.quiet or self.as_json:
            return
        bars = [bar for bar in self._bars if not bar.disable]  # closed bars are disabled
        for bar in bars:
            bar.clear()
        self._out.write_line(text)
        for bar in bars:
            bar.refresh()

    def result(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Print the outcome, as JSON or as lines."""
        self.close_bars()
        if self.as_json:
            self._out.write(json.dumps(values, indent=2) + "\n")
        else:
            for line in lines:
                self.print(line)

    def document(self, values: Mapping[str, Any], text: str) -> None:
        """Print the outcome, as JSON or as a text of the package, which keeps its lines."""
        if self.as_json:
            self.result(values, [])
        else:
            self._out.write(text)

    def progress(self, iterable: Iterable[Any], /, *, desc: str, total: int | None = None) -> Iterable[Any]:
        """Return the iterable, wrapped in a progress bar."""
        return iterable if self.quiet else self.open_bar(iterable=iterable, total=total, desc=desc)

    def step_progress(self, description: str, total: int | None = None) -> "StepProgress":
        """Return a callback (step, steps, metrics) that moves a progress bar and shows some metrics.

        With the total number of steps the bar appears now, else at its start or at the first step.
        """
        return StepProgress(self, description, total)

    def close_bars(self) -> None:
        """Close unfinished bars, so that what is printed next starts on its own line."""
        while self._bars:
            self._bars.pop().close()

    def _write_log(self, text: str) -> None:
        text = one_line(text)
        if self.quiet or text in self._logged:  # a file that is opened twice logs the same message twice
            return
        self._logged.add(text)
        if self._bars:
            require("tqdm", "app").tqdm.write(text, file=self._err)
        else:
            self._err.write_line(text)

    def open_bar(self, desc: str, **settings: Any) -> Any:
        """Return a new progress bar, of `tqdm`; arguments as it takes them."""
        bar = require("tqdm", "app").tqdm(desc=one_line(desc), file=self._err, dynamic_ncols=True, **settings)
        self._bars.append(bar)
        return bar


class StepProgress:
    """Callback of training steps that moves a progress bar.

    Args:
        console: where the bar is shown.
        description: of the bar.
        total: number of steps, with which the bar appears now.
    """

    def __init__(self, console: Console, description: str, total: int | None = None) -> None:
        self._console, self._description = console, description
        self._bar: Any = None
        if total:
            self.start(0, total)

    def start(self, step: int, steps: int) -> None:
        """Show the bar of a run of which `step` of `steps` are done."""
        if self._bar is None and step < steps and not self._console.quiet:
            self._bar = self._console.open_bar(total=steps, initial=step, desc=self._description)

    def __call__(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Move the bar to a step, and show some metrics."""
        self.start(step - 1, steps)
        if self._bar is None:
            return
        texts = {name: f"{value:.3g}" for name, value in metrics.items() if name in SHOWN_METRICS}
        self._bar.set_postfix(texts, refresh=False)
        self._bar.update(step - self._bar.n)
        if step == steps:
            self._bar.close()
