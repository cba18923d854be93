import os
import socket
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from conftest import RedSquare, draw_video
from support.dataset_helpers import FACES, FRAMES, draw_videos, lines
from support.faulty_detectors import Slow
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.process_video import VideoProcessor, VideoTask, file_stamp
from talkinghead.dataset.quality_filters import Filters
from talkinghead.errors import TalkingheadError
from talkinghead.media.video import VideoReader
from talkinghead.system.file_hash import sha256


def test_processor_reports_warnings_once(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw_videos(tmp_path, 1)[0]
    task = VideoTask(path, sha256(path), "p", stamp=file_stamp(path), clips=tmp_path / "clips")
    read = sys.modules["talkinghead.dataset.process_video"].read_faces

    def warning(*arguments: Any, **options: Any) -> Any:
        for _ in range(2):
            sys.modules["talkinghead.data.load"].log.warning("%s: unusual", path.name)
        return read(*arguments, **options)

    monkeypatch.setattr("talkinghead.dataset.process_video.read_faces", warning)
    result = VideoProcessor(red_square, 16, Filters(), tmp_path)(task, lambda: None)
    assert result.record["notes"] == ["unusual"]
    assert (result.clips, result.frames, result.num_bytes) == (1, FRAMES, (tmp_path / "clips").stat().st_size)


def test_changed_file_waits_for_next_run(tmp_path: Path, red_square: RedSquare) -> None:
    path, other = draw_videos(tmp_path, 2)
    processor = VideoProcessor(red_square, 16, Filters(), tmp_path)
    task = VideoTask(path, sha256(path), "p", stamp=file_stamp(path), clips=tmp_path / "clips")
    os.utime(path, (1, 1))
    assert processor(task, lambda: None).clips == 1  # its content is unchanged
    path.write_bytes(other.read_bytes())
    changed = processor(task, lambda: None)
    assert (
        changed.source_changed
        and not changed.clips
        and changed.reason.startswith("the file changed or vanished")
    )
    path.unlink()
    assert processor(task, lambda: None).source_changed
    # and for the whole run: seen when it was hashed, gone when it is examined
    paths = draw_videos(tmp_path / "videos", 2)

    def vanishing(items: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        for item in items:
            paths[1].unlink(missing_ok=True)
            yield item

    draw_video(tmp_path / "videos/0.mp4", FACES * 20)  # so that the second is hashed first and examined after
    first = prepare(paths, tmp_path / "data", 16, Slow(), workers=1, progress=vanishing)
    assert [(path.stem, reason[:28]) for path, reason in first.rejected] == [
        ("1", "the file changed or vanished")
    ]
    assert lines(tmp_path / "data")[1]["sha256"] is None
    draw_videos(tmp_path / "again", 2)[1].rename(paths[1])
    assert prepare(paths, tmp_path / "data", 16, red_square, workers=1).added == (paths[1],)


def test_processor_memory_independent_of_video_length(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = VideoReader.__iter__
    # copies, for what the decoder allocates itself is not traced
    monkeypatch.setattr(VideoReader, "__iter__", lambda reader: (frame.copy() for frame in decoded(reader)))
    peaks = []
    processor = VideoProcessor(red_square, 64, Filters(), tmp_path)
    for frames in (80, 280):
        path = draw_video(tmp_path / f"{frames}.mp4", [FACES[number % 10] for number in range(frames)])
        task = VideoTask(path, sha256(path), "p", stamp=file_stamp(path), clips=tmp_path / "clips")
        tracemalloc.start()
        assert processor(task, lambda: None).frames == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 200 more frames are 11 MiB, their landmarks 0.1
    assert peaks[1] - peaks[0] < 2**20


def test_processor_full_disk_raises_dataset_error(tmp_path: Path, red_square: RedSquare) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("a full disk is tried where there is /dev/full")
    path = draw_videos(tmp_path, 1)[0]
    clips = tmp_path / "clips"
    # the processor writes under a name of its own first
    Path(f"{clips}.{socket.gethostname()}-{os.getpid()}").symlink_to("/dev/full")
    task = VideoTask(path, sha256(path), "p", stamp=file_stamp(path), clips=clips)
    with pytest.raises(
        TalkingheadError,
        match=f"^{tmp_path}: cannot be written to .No space left on device.; free some space",
    ):
        VideoProcessor(red_square, 64, Filters(), tmp_path)(task, lambda: None)
    assert sorted(tmp_path.iterdir()) == [path]
