"""Preparing into the folder of an existing data set."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_video
from support.dataset_helpers import FACES, FRAMES, agree, contents, draw_videos, lines
from support.faulty_detectors import Unused
from talkinghead.data.crop import Crop, crop_around
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.quality_filters import Filters
from talkinghead.dataset.shard_reader import read_index
from talkinghead.errors import TalkingheadError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_CLIPS", 2)


def test_second_run_adds_new_videos(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    wall = draw_video(tmp_path / "wall.mp4", [None] * FRAMES)
    prepare([*paths[:2], wall], tmp_path / "data", 64, red_square, workers=1)
    before = contents(tmp_path / "data")
    report = prepare([*paths[:2], wall], tmp_path / "data", 64, Unused(), workers=1)
    assert (report.added, report.present, [path for path, _ in report.rejected]) == (
        (),
        tuple(paths[:2]),
        [wall],
    )
    assert report.cost.lines() == []
    assert contents(tmp_path / "data") == before
    report = prepare(paths, tmp_path / "data", 64, red_square, workers=1)
    assert (report.added, report.present) == ((paths[2],), tuple(paths[:2]))
    assert [clip.info.name for clip in read_index(tmp_path / "data")] == ["0.mp4", "1.mp4", "2.mp4"]
    assert json.loads((tmp_path / "data/dataset.json").read_text())["clips"] == 3
    # moved, they are still known; and what was added is at the end of what was there
    moved = (tmp_path / "videos").rename(tmp_path / "moved")
    assert prepare([moved], tmp_path / "data", 64, Unused(), workers=1).present == tuple(
        moved / path.name for path in paths
    )
    assert (tmp_path / "data/report.jsonl").read_bytes().startswith(before["report.jsonl"])
    assert len(lines(tmp_path / "data")) == 4


def test_prepare_rejects_inconsistent_data_set(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 1)
    out = tmp_path / "data"
    prepare(paths, out, 64, red_square, workers=1)
    before = contents(out)

    def refused(match: str, *, size: int = 64, people: Any = None, filters: Any = None) -> None:
        with pytest.raises(TalkingheadError, match=f"{match}.*prepare into another folder"):
            prepare(paths, out, size, Unused(), people, 1, filters)
        assert contents(out) == before

    refused("was prepared with size 64, expected 32", size=32)
    refused("was prepared with min_frames 16, expected 9", filters=Filters(min_frames=9))
    refused(r"0\.mp4: is in .* as person 0, expected x", people={"0.mp4": "x"})
    shutil.copy(out / "shard-000000.tar", out / "shard-000003.tar")
    before = contents(out)
    refused("holds shard-000003.tar, of which its report.jsonl does not know")
    (out / "report.jsonl").unlink()  # as prepared by an older version
    before = contents(out)
    refused("holds shard-000000.tar, of which its report.jsonl does not know")
    (out / "report.jsonl").write_text('{"version": 1\n')
    before = contents(out)
    refused("line 1 cannot be read")


def test_remedy_of_damaged_shard_is_what_helps(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    prepare(paths, tmp_path / "data", 64, red_square, workers=1)
    shard = tmp_path / "data/shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    assert prepare(paths, tmp_path / "data", 64, Unused(), workers=1).present == tuple(paths)
    with pytest.raises(TalkingheadError, match="from a copy, or prepare the data into another folder$"):
        read_index(tmp_path / "data")
    prepare(paths, tmp_path / "other", 64, red_square, workers=1)
    shutil.copy(tmp_path / "other/shard-000000.tar", shard)
    for folder in ("other", "data"):
        assert len(read_index(tmp_path / folder)) == 3


def test_prepare_new_data_set_has_crops_of_convention_2(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(
        tmp_path / "videos", 2
    )  # at (40, 30), 78 x 60 pixels large: the square is larger than the frame of 120 x 160
    prepare(paths[:1], tmp_path / "data", 64, red_square, workers=1)
    prepare(paths, tmp_path / "data", 64, red_square, workers=1)
    for clip in read_index(tmp_path / "data"):
        assert clip.info.crop == Crop(19, 0, 120, 2)
        assert clip.info.valid(64) is None
    assert json.loads((tmp_path / "data/dataset.json").read_text())["crop"] == 2


def test_prepare_keeps_convention_1_of_old_data_set(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    prepare(paths[:2], tmp_path / "data", 64, red_square, workers=1, convention=1)
    before = contents(tmp_path / "data")
    for name in ("report.jsonl", "dataset.json"):  # as earlier versions wrote it
        assert b"crop" not in before[name]
    assert prepare(paths, tmp_path / "data", 64, red_square, workers=1).added == (paths[2],)
    after = contents(tmp_path / "data")
    assert after["shard-000000.tar"] == before["shard-000000.tar"] and after["report.jsonl"].startswith(
        before["report.jsonl"]
    )
    assert "crop" not in json.loads(after["dataset.json"])
    clips = read_index(tmp_path / "data")
    assert [clip.info.crop for clip in clips] == [crop_around(red_corners())] * 3
    assert all(clip.info.valid(64) is not None for clip in clips)


def test_prepare_keeps_convention_2_of_data_set(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 2)
    prepare(paths[:1], tmp_path / "data", 64, red_square, workers=1)
    prepare(paths, tmp_path / "data", 64, red_square, workers=1, convention=1)
    assert [clip.info.crop.convention for clip in read_index(tmp_path / "data")] == [2, 2]


def test_prepare_unknown_convention_raises(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 1)
    with pytest.raises(TalkingheadError, match="^convention 3: unknown, expected 1 or 2"):
        prepare(paths, tmp_path / "data", 64, red_square, workers=1, convention=3)
    assert not (tmp_path / "data").exists()
    # and in a data set of a later version
    prepare(paths, tmp_path / "data", 64, red_square, workers=1)
    report = tmp_path / "data/report.jsonl"
    report.write_text(report.read_text().replace('"crop": 2', '"crop": 3'))
    with pytest.raises(
        TalkingheadError, match="was prepared with crop 3, expected 2; prepare into another folder"
    ):
        prepare(paths, tmp_path / "data", 64, red_square, workers=1)


def red_corners() -> np.ndarray:
    """Return the corners [1, 4, 2] of the box around all faces of the videos."""
    left, top, side = FACES[0]
    right = max(face[0] for face in FACES) + side
    return np.array([[[left, top], [right, top], [right, top + side], [left, top + side]]])


def test_prepare_locks_data_set(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 2)

    abandoned = tmp_path / "data/.prepare/run/0.tar"  # by one that was killed
    abandoned.parent.mkdir(parents=True)
    abandoned.touch()

    def second(items: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        assert not abandoned.exists()
        with pytest.raises(TalkingheadError, match="another run is writing to it"):
            prepare(paths, tmp_path / "data", 16, red_square, workers=1)
        yield from items

    assert len(prepare(paths, tmp_path / "data", 16, red_square, workers=1, progress=second).added) == 2
    agree(tmp_path / "data")
