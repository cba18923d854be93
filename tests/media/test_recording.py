"""Tests of recording live video, some with a killed process."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.media.recording import record_video
from talkinghead.media.video import VideoReader

SIZE = (32, 48)
KILLED = """
import os, signal, sys
import numpy as np
from talkinghead.media.frame_sink import open_sink
with open_sink(sys.argv[1], 25, (32, 48), {"comment": "synthesised"}) as sink:
    for number in range(60):
        sink.show(np.full((32, 48, 3), 4 * number, np.uint8), number / 25)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def grey(shade: int) -> np.ndarray:
    return np.full((*SIZE, 3), shade, np.uint8)


def record(path: Path, frames: int, first: int = 0) -> None:
    with record_video(path, 25, SIZE, {"comment": "synthesised"}) as video:
        for number in range(frames):
            video.write(grey(first + 4 * number))


def boxes(path: Path) -> list[str]:
    """Return the names of an mp4's top-level boxes, in order."""
    data, position, names = path.read_bytes(), 0, []
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return names


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_killed_recording_plays(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out.mp4"], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.mp4",
        "out.part.mp4",
    ]  # and nothing that is hidden
    assert (tmp_path / "out.mp4").read_bytes() == b"before"
    frames = list(VideoReader(tmp_path / "out.part.mp4"))
    assert 60 - 13 <= len(frames) <= 60  # half a second is lost at most
    assert all(abs(float(frame.mean()) - 4 * number) < 6 for number, frame in enumerate(frames))
    with av.open(str(tmp_path / "out.part.mp4")) as container:
        assert container.metadata["comment"] == "synthesised"


def test_finished_recording_is_plain_mp4(tmp_path: Path) -> None:
    record(tmp_path / "out.mp4", 60)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    names = boxes(tmp_path / "out.mp4")
    assert "moof" not in names and names.index("moov") < names.index("mdat")
    reader = VideoReader(tmp_path / "out.mp4")
    frames = list(reader)
    assert (reader.fps, reader.size, len(frames)) == (25, SIZE, 60)
    assert all(abs(float(frame.mean()) - 4 * number) < 6 for number, frame in enumerate(frames))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == "synthesised"


def test_recording_that_fails_keeps_its_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(TalkingheadError, match="unplugged"),
        record_video(tmp_path / "out.mp4", 25, SIZE) as video,
    ):
        for number in range(20):
            video.write(grey(4 * number))
        raise TalkingheadError("webcam: unplugged")
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"]
    assert len(list(VideoReader(tmp_path / "out.part.mp4"))) == 20
    assert caplog.messages == [
        f"{tmp_path / 'out.part.mp4'}: the recording failed; this file holds the frames until then"
    ]


def test_recording_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(TalkingheadError, match="has no frames; write at least one"),
        record_video(tmp_path / "out.mp4", 25, SIZE),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_earlier_part_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.part.mp4").write_bytes(b"of a recording that was killed")
    record(tmp_path / "out.mp4", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.part.mp4"]
    assert (tmp_path / "out.part.mp4").read_bytes() == b"of a recording that was killed"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("folder.mp4", "it is a folder"),
        ("file/out.mp4", "cannot write here"),
        ("out.avi", "only mp4 is written"),
    ],
)
def test_recording_to_bad_path_reports_user_error(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(TalkingheadError, match=problem), record_video(tmp_path / name, 25, SIZE) as video:
        pytest.fail(f"{video} was opened")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 60 kB, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_recording(tmp_path: Path, small_files: None) -> None:
    random = np.random.default_rng(0)
    says = r"out\.mp4: writing failed \(File too large\); free some space or name another place"
    with pytest.raises(TalkingheadError, match=says), record_video(tmp_path / "out.mp4", 25, SIZE) as video:
        for _ in range(200):
            video.write(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"]
    assert len(list(VideoReader(tmp_path / "out.part.mp4"))) >= 5
