"""Made-up sound cards, in place of microphones."""

from collections.abc import Iterator
from time import perf_counter, sleep
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from talkinghead.media import microphone
from talkinghead.media.microphone import RATE

PIECE = 1024


class Card:
    """Sound card that beeps in real time: 0.1 s of a tone at each full second of `perf_counter`."""

    def __init__(self, pieces: int = 10**9) -> None:
        self.streams, self._pieces, self.is_closed = SimpleNamespace(audio=[object()]), pieces, False

    def decode(self, audio: int) -> Iterator[Any]:
        position = round(perf_counter() * RATE)
        for _ in range(self._pieces):
            places = position + np.arange(PIECE)
            position += PIECE
            sleep(max(0.0, position / RATE - perf_counter()))
            tone = np.sin(places * (2 * np.pi * 880 / RATE)) * (places % RATE < RATE // 10)
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="flt", layout="mono")
            frame.sample_rate = RATE
            yield frame
        raise av.error.OSError(19, "No such device")

    def close(self) -> None:
        self.is_closed = True


def plug_in(monkeypatch: pytest.MonkeyPatch, card: Any) -> list[tuple[str, str]]:
    """Let every microphone be a sound card, or refuse with an error; return how they are opened."""
    opened: list[tuple[str, str]] = []

    def open_device(name: str, format: str) -> Any:
        opened.append((name, format))
        if isinstance(card, Exception):
            raise card
        return card

    fake = SimpleNamespace(
        open=open_device, error=av.error, AudioResampler=av.AudioResampler, AudioFrame=av.AudioFrame
    )
    monkeypatch.setattr(microphone, "av", lambda: fake)
    return opened
