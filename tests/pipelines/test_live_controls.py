"""Tests of what the keys of a live window do, and of several people and faces."""

from pathlib import Path

import av
import numpy as np
import pytest

import talkinghead.pipelines.live as live
from conftest import RedSquare, draw_video
from support.live_helpers import COUNT, FACES, FPS, SIZE, FakeEngine, RecordingSink, record_frames, run_to_end
from support.red_square_person import red_square_person
from support.sound_cards import Card, plug_in
from support.videos_with_sound import sounding_video
from talkinghead.errors import TalkingheadError
from talkinghead.media.frame_source import SourceFrame
from talkinghead.media.microphone import RATE
from talkinghead.media.video import VideoReader
from talkinghead.model import Person
from talkinghead.pipelines.live_person import LiveCast, LivePerson


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person()


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return draw_video(tmp_path / "drive.mp4", FACES, fps=FPS)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordingSink:
    return record_frames(monkeypatch)


def drive_with_keys(person: Person, drive: Path, sink: RecordingSink, keys: dict[int, str]) -> np.ndarray:
    """Drive a person by all frames, with keys pressed after some of them; return the shades that were shown,
    which grow as the face moves to the right.
    """
    sink.keys = keys
    run_to_end(person, FakeEngine(), drive, realtime=False, retarget="off")
    assert len(sink.shades) == COUNT and not sink.keys
    return np.array(sink.shades)


def test_key_m_mirrors_driver(person: Person, drive: Path, recorded: RecordingSink) -> None:
    shades = drive_with_keys(person, drive, recorded, {10: "M"})
    assert shades[9] > shades[0] and shades[30] < shades[20]  # a face in a mirror moves the other way


def test_key_space_pauses_until_pressed_again(person: Person, drive: Path, recorded: RecordingSink) -> None:
    shades = drive_with_keys(person, drive, recorded, {10: " ", 25: "x "})
    assert shades[16:25].tolist() == [shades[16]] * 9 and shades[9] > shades[0] and shades[-1] > shades[16]


def test_key_c_takes_next_face_to_be_at_rest(person: Person, drive: Path, recorded: RecordingSink) -> None:
    shades = drive_with_keys(person, drive, recorded, {20: "c"})
    moved = np.diff(shades.astype(int))
    assert moved.min() < -5 and (moved < -5).sum() == 1  # back to where it started, once
    assert shades[20 + int(np.argmin(moved[20:])) + 1] == pytest.approx(shades[0], abs=3)


def test_key_r_records_to_new_file(
    person: Person, drive: Path, recorded: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    messages: list[str] = []
    recorded.keys = {5: "r", 15: "r", 20: "rr", 30: "r"}  # the second is empty, the third ends with the run
    run_to_end(person, FakeEngine(), drive, realtime=False, retarget="off", log=messages.append)
    first, last = sorted(tmp_path.glob("talkinghead_*.mp4"))
    assert [len(list(VideoReader(path))) for path in (first, last)] == [10, COUNT - 30]
    frame_shades = [round(float(frame.mean())) for frame in VideoReader(first)]
    assert frame_shades == pytest.approx(recorded.shades[5:15], abs=3)
    with av.open(str(first)) as container:
        assert "synthesised" in container.metadata["comment"]
    lines = [message for message in messages if "recor" in message]
    assert len(lines) == 5 and lines[0] == f"{first.name}: recording; r ends it"
    assert lines[1] == f"{first.name}: recorded"


def test_key_n_shows_next_person_driven_by_same_driver(drive: Path) -> None:
    engines = [FakeEngine(), FakeEngine()]
    person = red_square_person()
    people = [
        LivePerson(person, engine=engine, detector=RedSquare(), retarget="off")  # type: ignore[arg-type]
        for engine in engines
    ]
    cast = LiveCast(people)
    find, render = cast.stages.values()
    points = []
    for number, frame in enumerate(VideoReader(drive)):
        if number == 20:
            assert cast.show_next() == 1
        driven = find(SourceFrame(frame, number / FPS, 0.0))
        render(driven)
        points.append(driven[1][1])
    assert [len(engine.inputs) for engine in engines] == [1 + 20, 1 + COUNT - 20]
    steps = np.abs(np.diff([one[:, 0].mean() for one in points]))
    assert steps[19] < 2 * np.median(steps) + 1e-6  # the face goes on where it was
    assert cast.show_next() == 0


def test_live_video_has_sound_of_source(person: Person, tmp_path: Path) -> None:
    drive = sounding_video(tmp_path / "drive.mp4", "aac", seconds=2)
    out = tmp_path / "out.mp4"
    report = run_to_end(person, FakeEngine(), drive, out, realtime=False, seconds=1.0)
    with av.open(str(out)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        rate = container.streams.audio[0].rate
    frames = VideoReader(out)
    assert samples / rate == pytest.approx(len(list(frames)) / float(frames.fps), abs=0.1)
    assert report.ended == "seconds" and samples


def test_recording_by_key_has_sound_of_microphone_alone(
    person: Person, recorded: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    card = Card()
    plug_in(monkeypatch, card)
    drive = sounding_video(tmp_path / "drive.mp4", "aac", seconds=2)
    lengths = []
    for name in (None, "default"):
        recorded.keys = {len(recorded.times) + 10: "r", len(recorded.times) + 40: "r"}
        run_to_end(person, FakeEngine(), drive, microphone=name)
        [path] = tmp_path.glob("talkinghead_*.mp4")
        with av.open(str(path)) as container:
            frames = container.streams.video[0].frames
            sound = [frame.samples for frame in container.decode(audio=0)] if container.streams.audio else []
        lengths.append((sum(sound) / RATE, frames / 25))
        path.unlink()
    assert lengths[0][0] == 0 and card.is_closed
    assert lengths[1][0] == pytest.approx(lengths[1][1], abs=0.1) and lengths[1][1] > 0.5


# several people, several faces, and mistakes


def test_several_people_need_no_engine(person: Person) -> None:
    says = "engine: renders one person, and several were given; give one, or no engine"
    with pytest.raises(TalkingheadError, match=says):
        live.live([person, person], "x.mp4", engine=FakeEngine())  # type: ignore[arg-type]
    with pytest.raises(TalkingheadError, match="person: none was given; give at least one"):
        live.live([], "x.mp4")


def test_people_of_several_sizes_report_user_error(person: Person) -> None:
    large = FakeEngine()
    large.size = 2 * SIZE
    people = [
        LivePerson(person, engine=engine, retarget="off")  # type: ignore[arg-type]
        for engine in (FakeEngine(), large)
    ]
    with pytest.raises(TalkingheadError, match="persons: have frames of 64x64, 128x128, and one"):
        LiveCast(people)


@pytest.mark.parametrize("face", [0, True, 1.5])
def test_wrong_face_reports_user_error(person: Person, face: int) -> None:
    with pytest.raises(TalkingheadError, match="^face "):
        live.live(person, "x.mp4", face=face)
