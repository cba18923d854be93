"""Parts that several jobs prepare, and their merge into the bytes that one run writes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from conftest import RedSquare, draw_video
from support.dataset_helpers import FRAMES, agree, contents, draw_corpus, draw_videos, lines
from support.faulty_detectors import Failing
from talkinghead.dataset import merge_parts as merging
from talkinghead.dataset import parts, writer
from talkinghead.dataset.discover import SourceVideo
from talkinghead.dataset.merge_parts import merge_parts
from talkinghead.dataset.parts import PART_FILE, Part, parse_part, read_part
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.shard_file import list_shards
from talkinghead.errors import TalkingheadError

COUNT = 3


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_CLIPS", 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw nine videos, of which three cannot be used; prepare them in one run and in parts."""
    folder = tmp_path_factory.mktemp("corpus")
    videos = draw_corpus(folder / "videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_CLIPS", 2)
        prepare([videos], folder / "data", 16, RedSquare(), workers=1)
        for number in range(1, COUNT + 1):
            prepare_part(folder, number)
    return folder


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """Copy the parts, so that a test can change them."""
    shutil.copytree(corpus / "parts", tmp_path / "parts")
    return tmp_path / "parts"


def prepare_part(folder: Path, number: int, count: int = COUNT, **settings: Any) -> None:
    prepare(
        [folder / "videos"],
        folder / "parts",
        16,
        RedSquare(),
        workers=1,
        part=f"{number}/{count}",
        **settings,
    )


def edit_record(folder: Path, **values: Any) -> None:
    """Change values in the record of a part."""
    path = folder / PART_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("total", [0, 1, 7, 9])
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_parts_share_all_items_evenly(total: int, count: int) -> None:
    selected = [Part(number, count).select(range(total)) for number in range(1, count + 1)]
    assert sorted(chain(*selected)) == list(range(total))
    sizes = {len(items) for items in selected}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "-1/3", "1/3/2", "1/0", "", 3, ("1", "3")])
def test_parse_part_rejects_what_is_no_part(text: object) -> None:
    with pytest.raises(TalkingheadError, match="is no part; write I/N, such as 1/8"):
        parse_part(text)
    assert parse_part("2/10") == Part(2, 10)


def test_merge_writes_shards_of_chosen_size(corpus: Path, tmp_path: Path) -> None:
    prepare([corpus / "videos"], tmp_path / "data", 16, RedSquare(), workers=1, shard_clips=4)
    numbers = [line["shard"][-5] for line in lines(tmp_path / "data") if "shard" in line]
    assert numbers == ["0", "0", "0", "0", "1", "1"]
    merge_parts(corpus / "parts", tmp_path / "merged", shard_clips=4)
    assert contents(tmp_path / "merged") == contents(tmp_path / "data")
    with pytest.raises(TalkingheadError, match="prepare: shards of 0 clips are none; choose 1 or more"):
        merge_parts(corpus / "parts", tmp_path / "none", shard_clips=0)


@pytest.mark.parametrize(
    "name, problem",
    [("parts", "holds 3 parts"), ("parts/part-2-of-3", "is one of several parts")],
)
def test_unmerged_parts_are_no_data_set(name: str, problem: str, copy: Path) -> None:
    for shard in copy.glob("part-2-of-3/shard-*.tar"):
        shard.unlink()
    with pytest.raises(TalkingheadError, match=f"{problem} of a data set; merge them first") as raised:
        list_shards(copy.parent / name)
    assert str(raised.value).endswith(f"talkinghead prepare --merge {copy} --out DATA")


def test_merge_has_bytes_of_one_run(corpus: Path, tmp_path: Path) -> None:
    result = merge_parts(corpus / "parts", tmp_path / "data")
    assert contents(tmp_path / "data") == contents(corpus / "data")
    assert [path.name for path in result.added] == ["0.mp4", "1.mp4", "3.mp4", "5.mp4", "7.mp4", "8.mp4"]
    assert [path.name for path, _ in result.rejected] == ["2.mp4", "4.mp4", "6.mp4"]
    agree(tmp_path / "data")
    # the copy of 1.mp4 is good in its own part, and rejected in the merge
    assert [line["verdict"] for line in lines(corpus / "parts/part-3-of-3")] == ["taken"] * 3
    # the merge of what was merged finds everything there
    assert len(merge_parts(corpus / "parts", tmp_path / "data").present) == 6
    assert contents(tmp_path / "data") == contents(corpus / "data")


def test_merge_into_folder_of_parts_keeps_them(corpus: Path, copy: Path) -> None:
    before = contents(copy)
    merge_parts(sorted(copy.iterdir()), copy)  # named one by one
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in after if name not in before} == contents(corpus / "data")


def test_merge_without_videos_needs_parts_only(corpus: Path, copy: Path, tmp_path: Path) -> None:
    videos = corpus / "videos"
    videos.rename(corpus / "elsewhere")
    try:
        merge_parts(copy, tmp_path / "data")
    finally:
        (corpus / "elsewhere").rename(videos)
    assert contents(tmp_path / "data") == contents(corpus / "data")


def test_merge_keeps_empty_parts_and_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = draw_videos(tmp_path / "videos", 2)  # of which Failing crashes on the second
    detector = Failing()
    prepare(paths, tmp_path / "data", 16, detector, workers=1)
    for number in (1, 2, 3):
        result = prepare(paths, tmp_path / "parts", 16, detector, workers=1, part=f"{number}/3")
    assert read_part(tmp_path / "parts/part-3-of-3").complete
    assert result.lines() == [f"{tmp_path}/parts/part-3-of-3: 0 videos added, 0 were there, 0 rejected"]
    assert lines(tmp_path / "parts/part-2-of-3")[0]["reason"] == "its reader crashed (signal 11)"
    merge_parts(tmp_path / "parts", tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "data")


def test_merge_of_rejected_videos_reports_user_error(tmp_path: Path) -> None:
    paths = [draw_video(tmp_path / f"{number}.mp4", [None] * FRAMES, shade=number) for number in range(2)]
    for number in (1, 2):
        prepare(paths, tmp_path / "parts", 16, RedSquare(), workers=1, part=f"{number}/2")
    with pytest.raises(TalkingheadError, match="none of 2 videos could be used; the first: .*0.mp4: no face"):
        merge_parts(tmp_path / "parts", tmp_path / "data")


def test_part_of_changed_list_reports_user_error(corpus: Path, copy: Path) -> None:
    folder = copy.parent
    shutil.copytree(corpus / "videos", folder / "videos")
    with pytest.raises(TalkingheadError, match="part-1-of-3: is of another list of videos or people; remove"):
        prepare_part(folder, 1)
    with pytest.raises(
        TalkingheadError, match="part-1-of-3: was prepared with convention|size 16, expected 8"
    ):
        prepare([corpus / "videos"], copy, 8, RedSquare(), workers=1, part="1/3")
    assert contents(copy) == contents(corpus / "parts")


def lose_part(folder: Path) -> None:
    shutil.rmtree(folder / "part-1-of-3")


def lose_two_parts(folder: Path) -> None:
    shutil.rmtree(folder / "part-1-of-3")
    shutil.rmtree(folder / "part-3-of-3")


def copy_part(folder: Path) -> None:
    shutil.copytree(folder / "part-2-of-3", folder / "copy")


def interrupt_part(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", complete=False)


def change_settings(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", settings={"size": 32})


def change_list(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", list_sha256="0" * 64)


def change_version(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", talkinghead="0.1")


def change_count(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", count=4)


def claim_parts(folder: Path) -> None:
    for path in folder.iterdir():
        edit_record(path, count=999_999_999)


def claim_videos(folder: Path) -> None:
    for path in folder.iterdir():
        edit_record(path, videos=999_999_999)


def claim_no_videos(folder: Path) -> None:
    for path in folder.iterdir():
        edit_record(path, videos=0)


def change_settings_of_all(folder: Path) -> None:
    for path in folder.iterdir():
        edit_record(path, settings={"version": 1, "size": 32})


def list_filters(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", settings={"filters": [1]})


def cut_record(folder: Path) -> None:
    (folder / "part-2-of-3" / PART_FILE).write_text('{"number": 2')


def rename_field(folder: Path) -> None:
    edit_record(folder / "part-2-of-3", colour="red")


def cut_report(folder: Path) -> None:
    report = folder / "part-2-of-3" / "report.jsonl"
    report.write_bytes(report.read_bytes()[:-5])


def lose_report(folder: Path) -> None:
    (folder / "part-2-of-3" / "report.jsonl").unlink()


def lose_shard(folder: Path) -> None:
    (folder / "part-2-of-3" / "shard-000000.tar").unlink()


def cut_shard(folder: Path) -> None:
    shard = folder / "part-2-of-3" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])


def exchange_shard(folder: Path) -> None:
    shutil.copy(folder / "part-1-of-3/shard-000000.tar", folder / "part-2-of-3/shard-000000.tar")


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lose_part, r"part 1/3 is missing; prepare it with --part 1/3, or name its folder too"),
        (lose_two_parts, r"part 1/3 and 1 other is missing; prepare it"),
        (copy_part, r"part 2/3 is there twice, in .*/copy and in .*/part-2-of-3; leave one of them out"),
        (interrupt_part, r"part-2-of-3: is not complete; wait for its job .* again with --part 2/3"),
        (change_settings, r"part-2-of-3: was prepared with other settings, as .*/part-1-of-3"),
        (change_list, r"part-2-of-3: is of another list of videos or people"),
        (change_version, r"part-2-of-3: was prepared by talkinghead 0.1, not "),
        (change_count, r"part-2-of-3: is one of 4 parts, not of 3"),
        (claim_parts, r"part 4/999999999 and 999999995 others is missing; prepare it"),
        (claim_videos, r"report.jsonl: tells of 3 videos, expected 333333333; remove the folder"),
        (claim_no_videos, r"part.json: cannot be read as the record of a part \(its numbers do not fit"),
        (change_settings_of_all, r"part-1-of-3/report.jsonl: has other settings than part.json; remove the"),
        (list_filters, r"part-2-of-3/part.json: cannot .* \(its filters are no named values\)"),
        (cut_record, r"part-2-of-3/part.json: cannot be read as the record of a part"),
        (rename_field, r"part-2-of-3/part.json: cannot be read as the record of a part"),
        (cut_report, r"part-2-of-3/report.jsonl: tells of 2 videos, expected 3; remove the folder"),
        (lose_report, r"part-2-of-3/report.jsonl: tells of 0 videos, expected 3; remove the folder"),
        (lose_shard, r"part-2-of-3/shard-000000.tar: cannot be read as a shard .*; remove the folder, and"),
        (cut_shard, r"part-2-of-3/shard-000000.tar: cannot be read as a shard .*; remove the folder, and"),
        (exchange_shard, r"part-2-of-3/shard-000000.tar: lacks the clip 1-"),
        (remove_all, r"parts: holds no parts; make them with: talkinghead prepare VIDEOS"),
    ],
)
def test_merge_of_wrong_parts_reports_user_error(damage: Any, message: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(TalkingheadError, match=message):
        merge_parts(copy, copy.parent / "data")
    assert not list((copy.parent / "data").glob("shard-*")) or damage in (cut_shard, exchange_shard)


def test_merge_into_part_reports_user_error(copy: Path) -> None:
    with pytest.raises(TalkingheadError, match="is the same file as the input .*part-1-of-3"):
        merge_parts(copy, copy / "part-1-of-3")


def test_merge_after_failure_resumes_with_same_bytes(
    corpus: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = copy / "part-3-of-3" / "shard-000001.tar"
    shard.rename(tmp_path / "hidden")
    out = tmp_path / "data"
    with pytest.raises(TalkingheadError, match="part-3-of-3/shard-000001.tar: cannot be read as a shard"):
        merge_parts(copy, out)
    assert len(list(out.glob("shard-*"))) == 2
    (tmp_path / "hidden").rename(shard)
    copied: list[str] = []
    real = merging._PartResults._result
    monkeypatch.setattr(
        merging._PartResults,
        "_result",
        lambda self, task: copied.append(task.path.name) or real(self, task),  # type: ignore[func-returns-value]
    )
    merge_parts(copy, out)
    assert contents(out) == contents(corpus / "data")
    assert copied == ["7.mp4", "8.mp4"]


KILLED = """
import os, sys
from talkinghead.dataset import writer
from talkinghead.dataset.merge_parts import merge_parts

writer.SHARD_CLIPS = 2
finish, calls = writer.ShardWriter.finish, 0


def kill_after_second_shard(self):
    global calls
    finish(self)
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), 9)


writer.ShardWriter.finish = kill_after_second_shard
merge_parts(sys.argv[1], sys.argv[2])
"""


def test_merge_after_kill_resumes_with_same_bytes(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    process = subprocess.run([sys.executable, "-c", KILLED, corpus / "parts", out], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(list(out.glob("shard-*"))) == 2 and (out / ".prepare").is_dir()
    merge_parts(corpus / "parts", out)
    assert contents(out) == contents(corpus / "data")


def test_interrupted_part_resumes_with_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_early(items: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        assert total == 3
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    shutil.copytree(corpus / "parts", tmp_path / "parts")
    (tmp_path / "videos").symlink_to(corpus / "videos")
    part = tmp_path / "parts" / "part-1-of-3"
    shutil.rmtree(part)
    monkeypatch.chdir(corpus)
    arguments = ([corpus / "videos"], tmp_path / "parts", 16, RedSquare())
    with pytest.raises(KeyboardInterrupt):
        prepare(*arguments, workers=1, part="1/3", progress=stop_early)
    assert not read_part(part).complete
    with pytest.raises(TalkingheadError, match="part-1-of-3: is not complete; wait for its job"):
        merge_parts(tmp_path / "parts", tmp_path / "data")
    prepare(*arguments, workers=1, part="1/3")
    assert contents(tmp_path / "parts") == contents(corpus / "parts")
    merge_parts(tmp_path / "parts", tmp_path / "data")
    assert contents(tmp_path / "data") == contents(corpus / "data")


def test_record_of_part_survives_reading(tmp_path: Path) -> None:
    record = parts.part_record(Part(2, 5), [SourceVideo(Path("a.mp4"), "a", "")], {"size": 16})
    with parts.recorded_part(tmp_path, record):
        assert read_part(tmp_path) == record
    assert read_part(tmp_path) == replace(record, complete=True)
    assert os.listdir(tmp_path) == [PART_FILE]
