"""Calls that only the fuzz makes; they run in children of the sandbox."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support import sandbox_calls
from support.centre_detector import FACE_POINTS, CentreDetector


def _reopen(folder: str, *videos: str) -> None:
    """Add to a data set, and check that it is unchanged after an error, and can be read after success."""
    from talkinghead.dataset.prepare import prepare
    from talkinghead.errors import TalkingheadError

    def contents() -> dict[str, bytes]:
        return {
            path.name: path.read_bytes() for path in Path(folder).iterdir() if path.stat().st_size < 1 << 24
        }

    before = contents()
    try:
        prepare(videos, folder, size=32, detector=CentreDetector(), workers=1)
    except TalkingheadError:
        assert contents() == before, "the refused data set was changed"
        raise
    sandbox_calls.CALLS["draw"](folder)


def _run_bench(module: str, *arguments: str) -> None:
    """Run a command of the bench."""
    sys.argv = [f"bench.{module}", *arguments]
    importlib.import_module(f"bench.{module}").main()


def _read_measurement(path: str) -> None:
    from talkinghead.evaluation.measurement_store import read_measurement

    text, values = read_measurement(Path(path))
    assert isinstance(text, str) and isinstance(values, dict)


def _read_weights(path: str) -> None:
    from talkinghead.pretrained.perceptual import read_state

    assert all(tensor.numel() >= 0 for tensor in read_state(path).values())


def _open_engine(path: str, person: str) -> None:
    """Open an engine and render a frame."""
    from talkinghead import load_person
    from talkinghead.engines.load import open_engine

    frames = open_engine(path, load_person(person)).run(FACE_POINTS[None].astype(np.float32) / 2 + 0.5)
    assert frames.shape == (1, 32, 32, 3)


CALLS: dict[str, Callable[..., None]] = {
    "bench": _run_bench,
    "engine": _open_engine,
    "evaluated": _read_measurement,
    "reopen": _reopen,
    "weights": _read_weights,
}
