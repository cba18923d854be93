"""Tests of the two callbacks: what is accepted as one, and that they cannot be confused."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from tqdm import tqdm

from talkinghead.errors import TalkingheadError
from talkinghead.system.progress import ProgressCounter, check_callbacks, no_progress


def wrap(iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
    """Return the iterable unchanged."""
    return iterable


def count(step: int, steps: int, metrics: Mapping[str, float]) -> None:
    """Do nothing."""


@pytest.mark.parametrize("progress", [no_progress, wrap, tqdm])
@pytest.mark.parametrize("on_step", [None, count, print, lambda *arguments: None])
def test_callbacks_of_their_protocols_are_accepted(
    progress: Callable[..., Any], on_step: Callable[..., Any] | None
) -> None:
    check_callbacks(progress, on_step)


@pytest.mark.parametrize("progress", [count, 3, None, lambda items: items])
def test_progress_of_another_protocol_is_refused(progress: object) -> None:
    with pytest.raises(TalkingheadError, match=r"progress: .* cannot be called as progress\(iterable, desc"):
        check_callbacks(progress)


@pytest.mark.parametrize("on_step", [wrap, tqdm, 3, lambda step: None])
def test_on_step_of_another_protocol_is_refused(on_step: object) -> None:
    with pytest.raises(TalkingheadError, match=r"on_step: .* cannot be called as on_step\(step, steps, "):
        check_callbacks(on_step=on_step)


def test_no_progress_returns_the_same_items() -> None:
    assert list(no_progress([1, 2], desc="counting", total=2)) == [1, 2]


def test_counter_moves_progress_by_calls() -> None:
    events: list[object] = []

    def progress(iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        events.append((desc, total))
        for item in iterable:
            yield item
            events.append(item)
        events.append("end")

    counter = ProgressCounter(progress, "measuring", 3)
    assert events == [("measuring", 3)]  # shown before the first unit
    counter.add(2)
    assert events[1:] == [0, 1]
    counter.add(5)
    counter.add()
    assert events[1:] == [0, 1, 2, "end"]
