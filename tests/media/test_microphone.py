"""Tests of the sound of a microphone, with made-up sound cards."""

from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep

import av
import numpy as np
import pytest

from support.sound_cards import Card, plug_in
from talkinghead.errors import TalkingheadError
from talkinghead.media.frame_sink import open_sink
from talkinghead.media.microphone import RATE, Microphone, SoundBuffer

PIECE = 1024


def fill(buffer: SoundBuffer, seconds: float, card_rate: float, late: np.ndarray | None = None) -> None:
    """Add sound whose samples are the time at which they were made, by a sound card of another clock."""
    for number in range(int(seconds * card_rate / PIECE)):
        sample_times = (np.arange(PIECE) + number * PIECE) / card_rate
        delay = 0.0 if late is None else float(late[number % len(late)])
        buffer.add(sample_times.astype(np.float32), (number + 1) * PIECE / card_rate + delay)


def worst_error(buffer: SoundBuffer, start: float, end: float) -> float:
    """Return the largest difference, in seconds, between when sound was made and where it is."""
    places = np.arange(round(start * RATE), round(end * RATE))
    sample_times = buffer.read(int(places[0]), int(places[-1]) + 1)
    return float(np.abs(sample_times - places / RATE).max())


@pytest.mark.parametrize("card_rate", [RATE, RATE * 1.0005, RATE * 0.9995])
def test_sound_of_drifting_card_stays_in_step(card_rate: float) -> None:
    buffer = SoundBuffer()
    fill(buffer, 60, card_rate)  # 30 ms apart at the end without correction
    assert worst_error(buffer, 52, 59.5) < 0.01


def test_late_pieces_are_not_taken_for_gaps() -> None:
    buffer = SoundBuffer()
    late = np.zeros(200)
    late[100:120] = 0.4 - np.arange(20) * 0.02  # a thread that was held up, and then takes all at once
    fill(buffer, 20, RATE, late)
    assert worst_error(buffer, 12, 19) < 0.02


def test_missing_sound_is_silent() -> None:
    buffer = SoundBuffer()
    buffer.add(np.full(RATE, 0.5, np.float32), 1.0)
    buffer.add(np.full(RATE, 0.25, np.float32), 5.0)
    sound = buffer.read(0, 6 * RATE)
    assert [float(sound[int((second + 0.5) * RATE)]) for second in range(6)] == [0.5, 0, 0, 0, 0.25, 0]
    assert buffer.end == 5.0


def test_memory_of_sound_is_bounded() -> None:
    buffer = SoundBuffer()
    fill(buffer, 60, RATE)
    assert sum(len(samples) for _, samples in buffer._pieces) < 11 * RATE
    assert not buffer.read(0, RATE).any()  # what is no longer kept is silent


def test_recording_has_sound_in_step_with_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = Card()
    assert plug_in(monkeypatch, card) == []
    out, fps, seconds = tmp_path / "out.mp4", 25, 2.5
    with Microphone() as source:
        sleep(0.3)  # it listens before the recording starts
        zero = perf_counter()
        with open_sink(out, fps, (32, 32), sound=source.sound_from(lambda: zero)) as sink:
            for number in range(round(seconds * fps)):
                sink.show(np.zeros((32, 32, 3), np.uint8), number / fps)
                sleep(max(0.0, zero + number / fps - perf_counter()))
    assert card.is_closed
    with av.open(str(out)) as container:
        pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    sound = np.concatenate(pieces)
    assert abs(len(sound) / RATE - seconds) < 0.05
    loud = np.flatnonzero(np.abs(sound) > 0.3) / RATE
    beep = np.ceil(zero) - zero  # the first full second after the start
    assert abs(loud[loud > beep - 0.2][0] - beep) < 0.03


def test_microphone_that_goes_away_reports_user_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in(monkeypatch, Card(pieces=3))
    says = "microphone default: stopped giving sound .*No such device.*; plug it in again"
    with pytest.raises(TalkingheadError, match=says), Microphone() as source:
        sleep(0.3)
        source.sound_until(1.0)


@pytest.mark.parametrize(
    "system, name, opened",
    [
        ("linux", "default", ("default", "alsa")),
        ("linux", "hw:1", ("hw:1", "alsa")),
        ("darwin", "default", (":0", "avfoundation")),
        ("win32", "Desk", ("audio=Desk", "dshow")),
    ],
)
def test_microphone_name_follows_operating_system(
    system: str, name: str, opened: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plug_in(monkeypatch, Card())
    monkeypatch.setattr("sys.platform", system)
    Microphone(name)
    assert asked == [opened]


def test_missing_microphone_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, av.error.FileNotFoundError(2, "No such file or directory"))
    with pytest.raises(TalkingheadError, match=r"microphone default: cannot be opened \(No such file or dir"):
        Microphone()


def test_device_without_sound_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    card.streams.audio.clear()
    plug_in(monkeypatch, card)
    with pytest.raises(TalkingheadError, match="microphone default: gives no sound; name another"):
        Microphone()
    assert card.is_closed


def test_sound_of_no_frames_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, Card())
    with Microphone() as source, av.open(str(tmp_path / "x.mp4"), "w") as container:
        container.add_stream("mpeg4", rate=25)
        track = source.sound_from(perf_counter)(container, ExitStack())
        assert track is not None
        track.finish()
