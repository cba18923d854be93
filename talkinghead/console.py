"""What the command line prints: notes and outcome on stdout, progress and what is logged on stderr. The only module that imports tqdm.

All text goes through `Stream.line` or `one_line`, for much of it came with files.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import one_line, require
from .streams import Stream


class _Notes(logging.Handler):
    """Gives what is logged to a function."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


class Console:
    """Where a verb says what it does. Inside its block, what the package logs is printed.

    Args:
        quiet: print neither notes nor progress, nor the outcome as text.
        as_json: print the outcome as JSON, and no notes, so that stdout holds JSON alone.
        out, err: where it is printed.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False, out: Stream | None = None, err: Stream | None = None) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._out, self._err = out or Stream("stdout"), err or Stream("stderr")
        self._bars: list[Any] = []
        self._log = logging.getLogger(__package__)
        self._notes = _Notes(self._note)
        self._said: set[str] = set()

    def __enter__(self) -> "Console":
        self._before = self._log.level, self._log.propagate
        self._log.addHandler(self._notes)
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self._notes)
        level, self._log.propagate = self._before
        self._log.setLevel(level)
        # bars that were cut short end, so that what is printed next has a line of its own
        for bar in self._bars:
            bar.close()

    def say(self, text: str) -> None:
        """A note for people."""
        if not (self.quiet or self.as_json):
            self._out.line(text)

    def result(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        """The outcome, as JSON or as lines."""
        if self.as_json:
            self._out.write(json.dumps(values, indent=2) + "\n")
        else:
            for line in lines:
                self.say(line)

    def progress(self, iterable: Iterable[Any], total: int | None = None, what: str = "") -> Iterable[Any]:
        """The iterable, with a bar that shows its advance."""
        return iterable if self.quiet else self._bar(iterable=iterable, total=total, desc=what)

    def counter(self, what: str) -> Callable[[int, int, Mapping[str, float]], None]:
        """A function that, called with (step, steps, figures), moves a bar there and shows some of the figures."""
        bar: Any = None

        def advance(step: int, steps: int, figures: Mapping[str, float]) -> None:
            nonlocal bar
            if self.quiet:
                return
            if bar is None:
                bar = self._bar(total=steps, initial=step - 1, desc=what)
            bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items() if name in _SHOWN}, refresh=False)
            bar.update(step - bar.n)
            if step == steps:
                bar.close()

        return advance

    def _note(self, text: str) -> None:
        text = one_line(text)
        if self.quiet or text in self._said:  # a file that is opened again says the same again
            return
        self._said.add(text)
        if self._bars:
            require("tqdm", "app").tqdm.write(text, file=self._err)
        else:
            self._err.line(text)

    def _bar(self, desc: str, **settings: Any) -> Any:
        bar = require("tqdm", "app").tqdm(desc=one_line(desc), file=self._err, dynamic_ncols=True, **settings)
        self._bars.append(bar)
        return bar


_SHOWN = ("content", "pixel", "score_gap", "episodes_per_second")
