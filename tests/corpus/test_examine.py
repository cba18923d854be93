import os
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from data_sets import FACES, FRAMES, draw_videos, lines
from odd_detectors import Slow

from conftest import RedSquare, draw_video
from talkinghead.corpus.examine import Examiner, Job, state_of
from talkinghead.corpus.filters import Filters
from talkinghead.corpus.prepare import prepare
from talkinghead.errors import TalkingheadError
from talkinghead.files import sha256
from talkinghead.media.video import VideoReader


def test_warnings_are_in_the_report(tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_videos(tmp_path, 1)[0]
    job = Job(path, sha256(path), "p", state_of(path), tmp_path / "clips")
    read = sys.modules["talkinghead.corpus.examine"].read_faces

    def warning(*given: Any, **named: Any) -> Any:
        for _ in range(2):
            sys.modules["talkinghead.data.read"].log.warning("%s: it is odd", path.name)
        return read(*given, **named)

    monkeypatch.setattr("talkinghead.corpus.examine.read_faces", warning)
    found = Examiner(red_square, 16, Filters(), tmp_path)(job, lambda: None)
    assert found.record["notes"] == ["it is odd"]
    assert (found.clips, found.frames, found.bytes) == (1, FRAMES, (tmp_path / "clips").stat().st_size)


def test_a_file_that_changes_meanwhile_is_left_for_the_next_run(tmp_path: Path, red_square: RedSquare) -> None:
    path, other = draw_videos(tmp_path, 2)
    examine = Examiner(red_square, 16, Filters(), tmp_path)
    job = Job(path, sha256(path), "p", state_of(path), tmp_path / "clips")
    os.utime(path, (1, 1))
    assert examine(job, lambda: None).clips == 1  # its content is what it was
    path.write_bytes(other.read_bytes())
    changed = examine(job, lambda: None)
    assert changed.changed and not changed.clips and changed.reason.startswith("the file changed or vanished")
    path.unlink()
    assert examine(job, lambda: None).changed
    # and for the whole run: seen when it was hashed, gone when it is examined
    paths = draw_videos(tmp_path / "videos", 2)

    def vanishing(items: Iterable[Any], total: int | None, what: str) -> Iterable[Any]:
        for item in items:
            paths[1].unlink(missing_ok=True)
            yield item

    draw_video(tmp_path / "videos/0.mp4", FACES * 20)  # so that the second is hashed first and examined after
    first = prepare(paths, tmp_path / "data", 16, Slow(), workers=1, progress=vanishing)
    assert [(path.stem, reason[:28]) for path, reason in first.rejected] == [("1", "the file changed or vanished")]
    assert lines(tmp_path / "data")[1]["sha256"] is None
    draw_videos(tmp_path / "again", 2)[1].rename(paths[1])
    assert prepare(paths, tmp_path / "data", 16, red_square, workers=1).taken == (paths[1],)


def test_memory_does_not_grow_with_a_video(tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = VideoReader.__iter__
    # copies, for what the decoder allocates itself is not traced
    monkeypatch.setattr(VideoReader, "__iter__", lambda reader: (frame.copy() for frame in decoded(reader)))
    peaks = []
    examine = Examiner(red_square, 64, Filters(), tmp_path)
    for frames in (80, 280):
        path = draw_video(tmp_path / f"{frames}.mp4", [FACES[number % 10] for number in range(frames)])
        job = Job(path, sha256(path), "p", state_of(path), tmp_path / "clips")
        tracemalloc.start()
        assert examine(job, lambda: None).frames == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 200 more frames are 11 MiB, their landmarks 0.1
    assert peaks[1] - peaks[0] < 2**20


def test_a_full_disk_is_no_fault_of_the_video(tmp_path: Path, red_square: RedSquare) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("a full disk is tried where there is /dev/full")
    path = draw_videos(tmp_path, 1)[0]
    job = Job(path, sha256(path), "p", state_of(path), Path("/dev/full"))
    with pytest.raises(TalkingheadError, match=f"^{tmp_path}: cannot be written to .No space left on device.; free some space"):
        Examiner(red_square, 64, Filters(), tmp_path)(job, lambda: None)
