"""Preparing videos into a new data set."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_video, drawn_frame
from support.dataset_helpers import FACES, FRAMES, agree, contents, draw_videos, lines
from support.faulty_detectors import Failing, Pair, Unused
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.prepare_result import Cost
from talkinghead.dataset.quality_filters import Filters
from talkinghead.dataset.shard_reader import read_index
from talkinghead.errors import TalkingheadError
from talkinghead.media.video import write_video
from talkinghead.system import process_pool
from talkinghead.system.file_hash import sha256


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_CLIPS", 2)


def test_prepare_takes_people_as_mapping_or_table(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 1)
    table = tmp_path / "people.tsv"
    table.write_text("file\tperson\n0.mp4\tanna\n")
    for number, people in enumerate((str(table), table, {"0.mp4": "anna"})):
        out = tmp_path / str(number)
        prepare(paths, out, 64, red_square, people=people, workers=1)
        assert [clip.person for clip in read_index(out)] == ["anna"]
    with pytest.raises(TalkingheadError, match="people: got list; give a mapping such as .*, or the path"):
        prepare(paths, tmp_path / "none", 64, red_square, people=["anna"], workers=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["flat", "folders", "one video"])
def test_videos_of_unknown_people_are_logged(
    layout: str, tmp_path: Path, red_square: RedSquare, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="talkinghead")
    videos = tmp_path / "videos"
    for folder in ("ann", "bob") if layout == "folders" else (".",):
        (videos / folder).mkdir(parents=True)
        draw_videos(videos / folder, 1 if layout == "one video" else 2)
    prepare(videos, tmp_path / "data", 16, red_square, workers=1)
    logged = [message for message in caplog.messages if "--people" in message]
    expected = "2 videos count as 2 people, one for each file name; put the videos of"
    assert [message.startswith(expected) for message in logged] == [True] * (layout == "flat")


def test_prepare_writes_clips_and_report(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 3)
    report = prepare(paths, tmp_path / "data", 64, red_square, people={"1.mp4": "anna"}, workers=1)
    assert (report.added, report.rejected, report.present) == (tuple(paths), (), ())
    assert (report.layouts, report.people) == ({"file name": 2, "table of people": 1}, 3)
    clips = read_index(tmp_path / "data")
    assert [(clip.info.name, clip.person, len(clip), clip.size) for clip in clips] == [
        ("0.mp4", "0", FRAMES, 64),
        ("1.mp4", "anna", FRAMES, 64),
        ("2.mp4", "2", FRAMES, 64),
    ]
    # the landmarks are those of the stored picture
    for index in (0, FRAMES - 1):
        face = red_square(clips[0].frames([index])[0])
        assert face is not None
        assert np.abs(face[4] - clips[0].landmarks[index, 4]).max() < 1
    settings = {
        "version": 1,
        "size": 64,
        "detector": "red-square",
        "filters": {"min_face": 48.0, "min_frames": 16, "min_sharpness": 0.05, "second_face": 0.1},
        "crop": 2,
    }
    summary = {**settings, "clips": 3, "frames": 3 * FRAMES, "people": 3}
    assert json.loads((tmp_path / "data/dataset.json").read_text()) == summary
    assert json.loads((tmp_path / "data/report.jsonl").read_text().splitlines()[0]) == settings
    line = lines(tmp_path / "data")[1]
    sharpness = line["shots"][0].pop("sharpness")
    assert 0.1 < sharpness < 0.5
    assert line == {
        "file": str(paths[1]),
        "sha256": sha256(paths[1]),
        "bytes": paths[1].stat().st_size,
        "verdict": "taken",
        "person": "anna",
        "layout": "table of people",
        "frames": FRAMES,
        "fps": 25.0,
        "size": [120, 160],
        "faces": 1,
        "shots": [
            {
                "first": 0,
                "last": 15,
                "seen": 16,
                "kept": 16,
                "face": 60.0,
                "confidence": 1.0,
                "clip": clips[1].key,
            }
        ],
        "shard": "shard-000000.tar",
    }
    agree(tmp_path / "data")


def test_prepare_keeps_frame_numbers_around_gaps(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "gaps.mp4", [None, *FACES[:9], None, None, *FACES[9:], None])
    prepare([video], tmp_path / "data", 64, red_square, workers=1)
    clip = read_index(tmp_path / "data")[0]
    assert clip.info.frames == (*range(1, 10), *range(12, 12 + FRAMES - 9))
    assert (clip.info.frame_size, clip.fps, clip.info.detector) == ((120, 160), 25, "red-square")


def test_prepare_reports_rejected_files_with_reasons(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    good = draw_videos(folder, 1)[0]
    (folder / "1 same.mp4").write_bytes(good.read_bytes())
    draw_video(folder / "2 short.mp4", [None, *FACES[1:]])
    draw_video(folder / "3 small.mp4", [(20, 20, 40)] * FRAMES)
    draw_video(folder / "4 nobody.mp4", [None] * 3)
    (folder / "5 cut.mp4").write_bytes(good.read_bytes()[:200])
    (folder / "6 empty.mp4").touch()
    (folder / "7 gone.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(folder / "8 pipe.mp4")
    (folder / "notes.txt").write_text("no video by its name")
    (folder / "locked").mkdir()
    listdir = os.listdir
    monkeypatch.setattr(
        os,
        "listdir",
        lambda path: exec("raise PermissionError(13, 'No')") if "locked" in str(path) else listdir(path),
    )
    report = prepare([folder], tmp_path / "data", 64, red_square, workers=1)
    assert report.added == (good,)
    expected = [
        ("1 same.mp4", f"is the same file as {good}"),
        ("2 short.mp4", "shows a face in 15 of its 16 frames, expected at least 16"),
        ("3 small.mp4", "its face is 40 pixels large, expected at least 48"),
        ("4 nobody.mp4", "no face was found in any of its 3 frames"),
        ("5 cut.mp4", ""),
        ("6 empty.mp4", "cannot be read as a video"),
        ("7 gone.mp4", "is no file that can be read, expected a video"),
        ("8 pipe.mp4", "is no file that can be read, expected a video"),
        ("locked", "the folder cannot be read (No)"),
    ]
    reported = lines(tmp_path / "data")
    assert [(Path(line["file"]).name, line["verdict"]) for line in reported] == [
        ("0.mp4", "taken"),
        *((name, "rejected") for name, _ in expected),
    ]
    assert [(line["file"], line["reason"]) for line in reported[1:]] == [
        (str(path), reason) for path, reason in report.rejected
    ]
    for line, (_, part) in zip(reported[1:], expected, strict=True):
        assert line["reason"].startswith(part) and "\n" not in line["reason"]
        assert str(folder / "x")[:-1] not in line["reason"].removeprefix(f"is the same file as {good}"), (
            "the file is named twice"
        )
    assert [line["sha256"] is None for line in reported] == [False] * 7 + [True] * 3
    assert reported[3]["shots"] == [
        {
            "first": 0,
            "last": 15,
            "seen": 16,
            "kept": 16,
            "face": 40.0,
            "confidence": 1.0,
            "reason": reported[3]["reason"],
        }
    ]
    assert len(read_index(tmp_path / "data")) == 1


def test_prepare_filters_shots_separately(tmp_path: Path, red_square: RedSquare) -> None:
    path = tmp_path / "film.mp4"
    rng = np.random.default_rng(0)
    with write_video(path, 25, (120, 160)) as video:
        for shot, frames in enumerate((20, 10, 18)):  # of faces at other places before other walls
            background = np.kron(rng.integers(0, 150, (6, 8, 1)), np.ones((20, 20, 3))).astype(np.uint8)
            frame = drawn_frame((120, 160), (40 + 10 * shot, 32, 56))
            for _ in range(frames):
                video.write(np.where(frame[..., :1] > 170, frame, background))
    report = prepare([path], tmp_path / "data", 64, red_square, workers=1)
    assert report.added == (path,)
    [line] = lines(tmp_path / "data")
    assert [(shot["first"], shot["last"]) for shot in line["shots"]] == [(0, 19), (20, 29), (30, 47)]
    assert line["shots"][1]["reason"] == "shows a face in 10 of its 10 frames, expected at least 16"
    clips = read_index(tmp_path / "data")
    assert [(clip.info.part, clip.info.frames) for clip in clips] == [
        (1, tuple(range(20))),
        (3, tuple(range(30, 48))),
    ]
    assert [clip.key for clip in clips] == [line["shots"][0]["clip"], line["shots"][2]["clip"]]
    for clip in clips:
        face = red_square(clip.frames([5])[0])
        assert face is not None
        assert np.abs(face[4] - clip.landmarks[5, 4]).max() < 1.5
    # all of one video are in one shard, however many
    agree(tmp_path / "data")


def test_prepare_rejects_blurred_and_second_faces(tmp_path: Path, red_square: RedSquare) -> None:
    path = draw_videos(tmp_path, 1)[0]
    with pytest.raises(
        TalkingheadError, match=r"its face is blurred \(sharpness 0\.\d+\), expected at least 9"
    ):
        prepare([path], tmp_path / "a", 32, red_square, workers=1, filters=Filters(min_sharpness=9))
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a/report.jsonl"]
    with pytest.raises(
        TalkingheadError, match="a second face is close to it in 16 of its 16 frames, expected one person"
    ):
        prepare([path], tmp_path / "b", 32, Pair(), workers=1)
    assert lines(tmp_path / "b")[0]["faces"] == 2
    assert prepare([path], tmp_path / "c", 32, Pair(), workers=1, filters=Filters(second_face=1)).added == (
        path,
    )


def test_names_of_all_kinds(tmp_path: Path, red_square: RedSquare) -> None:
    names = ["with space", "ünïcode 人", "new\nline", os.fsdecode(b"not-utf8-\xff"), "dots.and..more"]
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, path in enumerate(draw_videos(tmp_path, len(names))):
        path.rename(folder / f"{names[number]}.mp4")
    report = prepare([folder], tmp_path / "data", 16, red_square, workers=2)
    assert {path.stem for path in report.added} == set(names)
    assert {os.fsencode(line["file"]) for line in lines(tmp_path / "data")} == {
        os.fsencode(folder / f"{name}.mp4") for name in names
    }
    assert {clip.person for clip in read_index(tmp_path / "data")} == set(names)
    assert (tmp_path / "data/report.jsonl").read_bytes().isascii()
    before = contents(tmp_path / "data")
    assert len(prepare([folder], tmp_path / "data", 16, Unused(), workers=1).present) == len(names)
    assert contents(tmp_path / "data") == before


def test_prepare_opens_detector_by_name(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "nobody.mp4", FACES)
    with pytest.raises(TalkingheadError, match="no face was found in any of its 16 frames"):
        prepare([video], tmp_path / "data", 16, "network", workers=1)
    assert json.loads((tmp_path / "data/report.jsonl").read_text().splitlines()[0])["detector"] == "network"
    with pytest.raises(TalkingheadError, match="no such detector"):
        prepare([video], tmp_path / "data", 16, "delib", workers=1)


def test_worker_failure_costs_one_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "DEFAULT_TIMEOUT_S", 6.0)
    monkeypatch.setattr(process_pool, "_TICK", 0.1)
    paths = draw_videos(tmp_path / "videos", 9)
    report = prepare(paths, tmp_path / "data", 16, Failing(), workers=2)
    assert [path.stem for path in report.added] == ["0", "2", "4", "6", "8"]
    assert [(path.stem, reason) for path, reason in report.rejected] == [
        ("1", "its reader crashed (signal 11)"),
        ("3", "its reader crashed (exit code 3)"),
        ("5", "its reader hung: no progress for 6 s"),
        ("7", "examining it failed (IndexError: of a library)"),
    ]
    assert [Path(line["file"]).stem for line in lines(tmp_path / "data")] == list("012345678")
    agree(tmp_path / "data")
    # they are known, and not tried again
    before = contents(tmp_path / "data")
    assert len(prepare(paths, tmp_path / "data", 16, Unused(), workers=2).rejected) == 4
    assert contents(tmp_path / "data") == before


def test_prepare_unwritable_output_reports_user_error(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_videos(tmp_path / "videos", 1)
    (tmp_path / "file").touch()
    with pytest.raises(TalkingheadError, match=f"^{tmp_path}/file: cannot be written to"):
        prepare(paths, tmp_path / "file", 64, red_square, workers=1)


def test_prepare_without_usable_video_writes_no_data(tmp_path: Path, red_square: RedSquare) -> None:
    with pytest.raises(TalkingheadError, match=r"gone\.mp4: no such file"):
        prepare([tmp_path / "gone.mp4"], tmp_path / "data", 64, red_square)
    assert not (tmp_path / "data").exists()

    class Here(RedSquare):
        """A detector of no module, which cannot be pickled."""

    with pytest.raises(
        TalkingheadError,
        match="cannot be handed to worker processes .*; give a detector that can be pickled, or its name",
    ):
        prepare(draw_videos(tmp_path, 1), tmp_path / "data", 64, Here(), workers=1)
    assert not (tmp_path / "data").exists()
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(
        TalkingheadError,
        match=r"^none of 1 videos could be used; the first: .*empty\.mp4: cannot be read as a video",
    ):
        prepare([tmp_path / "empty.mp4"], tmp_path / "data", 64, red_square, workers=1)
    # but for why
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["report.jsonl"]


def test_cost_lines_extrapolate_many_videos_to_voxceleb2() -> None:
    cost = Cost(videos=1000, seconds=2000.0, workers=4, frames=80_000, bytes=400_000_000)
    assert cost.lines() == [
        "1,800 videos an hour per core, 2.00 s each; 5,000 bytes a frame",
        "VoxCeleb2's 145,000 videos, if they were like these, of 80 good frames: 20 hours on 4 cores, 58 GB",
    ]
    few = Cost(videos=999, seconds=1998.0, workers=4, frames=80_000, bytes=400_000_000)
    assert few.lines() == ["1,800 videos an hour per core, 2.00 s each; 5,000 bytes a frame"]
    assert Cost(2, 4.0, 1, 0, 0).lines() == ["1,800 videos an hour per core, 2.00 s each"]
    assert Cost(0, 0.0, 1, 0, 0).lines() == []
