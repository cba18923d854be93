"""What the command line prints: notes and outcome on stdout, progress on stderr. The only module that imports tqdm."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import require


class Console:
    """Where a verb says what it does.

    Args:
        quiet: print neither notes nor progress, nor the outcome as text.
        as_json: print the outcome as JSON, and no notes, so that stdout holds JSON alone.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._bars: list[Any] = []

    def say(self, text: str) -> None:
        """A note for people."""
        if not (self.quiet or self.as_json):
            print(text, flush=True)

    def result(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        """The outcome, as JSON or as lines."""
        if self.as_json:
            print(json.dumps(values, indent=2))
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

    def close(self) -> None:
        """End bars that were cut short, so that what is printed next has a line of its own."""
        for bar in self._bars:
            bar.close()

    def _bar(self, **settings: Any) -> Any:
        bar = require("tqdm", "app").tqdm(dynamic_ncols=True, **settings)
        self._bars.append(bar)
        return bar


_SHOWN = ("content", "pixel", "score_gap", "episodes_per_second")
