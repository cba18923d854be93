import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_video
from talkinghead.data.prepare import MIN_FRAMES, prepare
from talkinghead.data.shards import ShardWriter, read_index
from talkinghead.errors import TalkingheadError

FACES = [(40 + 2 * (n % 10), 30, 60) for n in range(MIN_FRAMES)]


def draw_videos(folder: Path, count: int, frames: int = MIN_FRAMES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [draw_video(folder / f"{number}.mp4", FACES[:frames], shade=number) for number in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_videos_become_clips(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    report = prepare(paths, tmp_path / "data", 64, red_square, people={"1.mp4": "anna"})
    assert (report.taken, report.rejected, report.present) == (tuple(paths), (), ())
    clips = read_index(tmp_path / "data")
    assert [(clip.info.name, clip.person, len(clip), clip.size) for clip in clips] == [
        ("0.mp4", "0", MIN_FRAMES, 64),
        ("1.mp4", "anna", MIN_FRAMES, 64),
        ("2.mp4", "2", MIN_FRAMES, 64),
    ]
    # the landmarks are those of the stored picture
    for index in (0, MIN_FRAMES - 1):
        found = red_square(clips[0].frames([index])[0])
        assert found is not None
        assert np.abs(found[4] - clips[0].landmarks[index, 4]).max() < 1
    assert json.loads((tmp_path / "data/dataset.json").read_text()) == {
        "version": 1,
        "size": 64,
        "detector": "red-square",
        "clips": 3,
        "frames": 3 * MIN_FRAMES,
        "people": 3,
    }
    assert (tmp_path / "data/rejected.tsv").read_text() == "file\treason\n"


def test_frames_without_a_face_keep_their_numbers(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "gaps.mp4", [None, *FACES[:9], None, None, *FACES[9:], None])
    prepare([video], tmp_path / "data", 64, red_square)
    clip = read_index(tmp_path / "data")[0]
    assert clip.info.frames == (*range(1, 10), *range(12, 12 + MIN_FRAMES - 9))
    assert (clip.info.frame_size, clip.fps, clip.info.detector) == ((120, 160), 25, "red-square")


def test_the_rejected_are_listed_with_reasons(tmp_path: Path, red_square: RedSquare) -> None:
    videos = tmp_path / "videos"
    good = draw_videos(videos, 1)[0]
    (videos / "1 same.mp4").write_bytes(good.read_bytes())
    draw_video(videos / "2 short.mp4", [None, *FACES[1:]])
    draw_video(videos / "3 small.mp4", [(20, 20, 40)] * MIN_FRAMES)
    draw_video(videos / "4 nobody.mp4", [None] * 3)
    (videos / "5 cut.mp4").write_bytes(good.read_bytes()[:1000])
    (videos / "6 empty.mp4").touch()
    (videos / "notes.txt").write_text("no video by its name")
    report = prepare([videos], tmp_path / "data", 64, red_square)
    assert report.taken == (good,)
    reasons = [line.split("\t") for line in (tmp_path / "data/rejected.tsv").read_text().splitlines()]
    assert reasons == [["file", "reason"], *([str(path), reason] for path, reason in report.rejected)]
    expected = [
        ("1 same.mp4", "is already there as 0.mp4, person 0"),
        ("2 short.mp4", "shows a face in 15 of its 16 frames, expected at least 16"),
        ("3 small.mp4", "its face is 40 pixels large, expected at least 48"),
        ("4 nobody.mp4", "no face was found in any of its 3 pictures"),
        ("5 cut.mp4", "name another"),
        ("6 empty.mp4", "cannot be read as a video"),
    ]
    assert len(report.rejected) == len(expected)
    for (path, reason), (name, part) in zip(report.rejected, expected, strict=True):
        assert path.name == name
        assert part in reason
    assert len(read_index(tmp_path / "data")) == 1


def test_a_folder_in_natural_order(tmp_path: Path, red_square: RedSquare) -> None:
    draw_videos(tmp_path / "videos", 11)
    report = prepare([tmp_path / "videos"], tmp_path / "data", 16, red_square)
    assert [path.name for path in report.taken] == [f"{number}.mp4" for number in range(11)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no videos given, expected at least one"),
        (["gone.mp4"], r"gone\.mp4: no such file; name a video or a folder of videos"),
        (["folder"], r"folder: holds no videos, expected files that end in .*\.mp4"),
        (["empty.mp4"], r"none of 1 videos could be used; the first: .*empty\.mp4: cannot be read as a video"),
    ],
)
def test_nothing_to_prepare_leaves_nothing(tmp_path: Path, given: list[str], message: str, red_square: RedSquare) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(TalkingheadError, match=message):
        prepare([tmp_path / name for name in given], tmp_path / "data", 64, red_square)
    assert not (tmp_path / "data").exists()


def test_an_output_that_cannot_be_written_is_no_fault_of_the_videos(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 2)
    (tmp_path / "file").touch()
    with pytest.raises(TalkingheadError, match=f"^{tmp_path}/file: cannot be written to"):
        prepare(paths, tmp_path / "file", 64, red_square)


def test_a_second_run_adds_what_is_new(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    prepare(paths[:2], tmp_path / "data", 64, red_square)
    before = contents(tmp_path / "data")

    class Unused(RedSquare):
        def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
            raise AssertionError("a video that is there was looked at again")

    report = prepare(paths[:2], tmp_path / "data", 64, Unused())
    assert (report.taken, report.present, report.rejected) == ((), tuple(paths[:2]), ())
    assert contents(tmp_path / "data") == before
    report = prepare(paths, tmp_path / "data", 64, red_square)
    assert (report.taken, report.present) == ((paths[2],), tuple(paths[:2]))
    assert [clip.info.name for clip in read_index(tmp_path / "data")] == ["0.mp4", "1.mp4", "2.mp4"]


def test_clips_that_do_not_fit_together_are_refused(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 1)
    prepare(paths, tmp_path / "data", 64, red_square)
    before = contents(tmp_path / "data")
    with pytest.raises(TalkingheadError, match="holds clips of size 64 by red-square, expected size 32 by red-square"):
        prepare(paths, tmp_path / "data", 32, red_square)
    # another person for what is there would be a silent mistake
    assert (
        "person 0"
        in prepare([*paths, *draw_videos(tmp_path / "more", 2)], tmp_path / "data", 64, red_square, {"0.mp4": "x"}).rejected[0][1]
    )
    assert all(contents(tmp_path / "data")[name] == data for name, data in before.items() if name.endswith(".tar"))


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkinghead.data.prepare.ShardWriter", lambda out: ShardWriter(out, shard_size=2))
    paths = draw_videos(tmp_path / "videos", 5)
    prepare(paths, tmp_path / "whole", 16, red_square)

    def interrupting(videos: Iterable[Any], total: int | None, what: str) -> Iterable[Any]:
        for number, video in enumerate(videos):
            if number == 3:
                raise KeyboardInterrupt
            yield video

    with pytest.raises(KeyboardInterrupt):
        prepare(paths, tmp_path / "data", 16, red_square, progress=interrupting)
    assert list(contents(tmp_path / "data")) == ["shard-000000.tar"]
    report = prepare(paths, tmp_path / "data", 16, red_square)
    assert (len(report.present), len(report.taken)) == (2, 3)
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


KILLED = """
import sys
from conftest import RedSquare
from talkinghead.data import prepare as module
from talkinghead.data.shards import ShardWriter
module.ShardWriter = lambda out: ShardWriter(out, shard_size=2)
module.prepare([sys.argv[1]], sys.argv[2], 16, RedSquare())
"""


def test_a_killed_run_leaves_whole_shards(tmp_path: Path, red_square: RedSquare) -> None:
    draw_videos(tmp_path / "videos", 12)
    out = tmp_path / "data"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "videos"), str(out)], env=environment) as process:
        while process.poll() is None and not (out / ".shard-000001.tar.part").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert not (out / "dataset.json").exists()
    whole = len(read_index(out))
    assert whole >= 2
    report = prepare([tmp_path / "videos"], out, 16, red_square)
    assert (len(report.present), len(report.taken)) == (whole, 12 - whole)
    assert len(read_index(out)) == 12
    assert not list(out.glob(".*"))


def test_memory_does_not_grow_with_a_video(tmp_path: Path, red_square: RedSquare) -> None:
    peaks = []
    for frames in (40, 240):
        video = draw_video(tmp_path / f"{frames}.mp4", [FACES[number % 10] for number in range(frames)])
        gc.collect()
        tracemalloc.start()
        prepare([video], tmp_path / str(frames), 64, red_square)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 200 more frames are 11 MiB, their landmarks 0.1
    assert peaks[1] - peaks[0] < 2**20
