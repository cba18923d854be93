"""Calls of the readers that only the fuzz tries; they run in the children of `alone.serve`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import alone


def _reopen(folder: str, *videos: str) -> None:
    """A data set that is added to; what was refused is as it was, and what was not is whole."""
    from talkinghead.corpus.prepare import prepare
    from talkinghead.errors import TalkingheadError

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.stat().st_size < 1 << 24}

    before = contents()
    try:
        prepare(videos, folder, size=32, detector=alone.Centre(), workers=1)
    except TalkingheadError:
        assert contents() == before, "what was refused was changed"
        raise
    alone.CALLS["draw"](folder)


def _bench(module: str, *arguments: str) -> None:
    """A command of the bench."""
    sys.argv = [f"bench.{module}", *arguments]
    importlib.import_module(f"bench.{module}").main()


def _evaluated(path: str) -> None:
    from talkinghead.evaluation.evaluate import _read as read_evaluated

    assert "figures" in read_evaluated(Path(path))


def _weights(path: str) -> None:
    from talkinghead.perceptual import read_state

    assert all(tensor.numel() >= 0 for tensor in read_state(path).values())


def _engine(path: str, person: str) -> None:
    """An engine that opens shows a frame."""
    from talkinghead import load_person
    from talkinghead.engines.formats import open_engine

    frames = open_engine(path, load_person(person)).run(alone.FACE[None].astype(np.float32) / 2 + 0.5)
    assert frames.shape == (1, 32, 32, 3)


CALLS: dict[str, Callable[..., None]] = {
    "bench": _bench,
    "engine": _engine,
    "evaluated": _evaluated,
    "reopen": _reopen,
    "weights": _weights,
}
