"""The data set of drawn people: bytes, people, landmarks, interruption, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, whose heads are drawn here, is not installed")

from talkinghead.cli import main
from talkinghead.corpus import book
from talkinghead.data.crop import crop_around
from talkinghead.data.episodes import EpisodeSource
from talkinghead.data.shards import ShardClip, read_index
from talkinghead.errors import TalkingheadError
from talkinghead.synthetic import dataset
from talkinghead.synthetic.dataset import synthesise
from talkinghead.synthetic.head import load_head
from talkinghead.synthetic.person import draw_person


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, two clips each of 6 frames of 64x64, by one process."""
    out = tmp_path_factory.mktemp("drawn") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "in_order", here)
        made = synthesise(3, 2, out, 64, seed=7, frames_each=6)
    assert (made.made, made.present, made.clips, made.frames) == (3, 0, 6, 36)
    return out


def here(work, jobs, workers):  # type: ignore[no-untyped-def]
    """In place of `in_order`: in this process."""
    for label, job in jobs:
        yield label, work(job, lambda: None)


def clips_of(drawn: Path) -> dict[str, list[ShardClip]]:
    people: dict[str, list[ShardClip]] = {}
    for clip in read_index(drawn):
        people.setdefault(clip.person, []).append(clip)
    return people


def test_training_reads_it(drawn: Path) -> None:
    people = clips_of(drawn)
    assert [len(clips) for clips in people.values()] == [2, 2, 2]
    clip = people["synthetic-7-000001"][1]
    assert clip.fps == 25 and clip.info.detector == "mesh" and clip.info.part == 2 and clip.info.frame_size == (640, 640)
    assert clip.frames(range(6)).shape == (6, 64, 64, 3)
    episodes = EpisodeSource(drawn, 64, shots=4, batch=2, videos=1, seed=0).draw(0)
    assert tuple(episodes.frames.shape) == (2, 5, 3, 64, 64)


def test_the_crop_is_that_of_a_real_video(drawn: Path) -> None:
    for clip in read_index(drawn):
        crop = clip.info.crop
        in_frame = clip.landmarks * (crop.side / clip.size) + [crop.x, crop.y]
        again = crop_around(in_frame)
        assert np.allclose([again.x, again.y, again.side], [crop.x, crop.y, crop.side], atol=0.01)


def test_it_says_where_it_comes_from(drawn: Path) -> None:
    lines = [json.loads(line) for line in (drawn / "report.jsonl").read_text().splitlines()]
    summary = json.loads((drawn / "dataset.json").read_text())
    for said in (lines[0], summary):
        assert said["detector"] == "mesh" and "CC0-1.0" in said["credit"] and said["seed"] == 7
    assert [shot["clip"] for line in lines[1:] for shot in line["shots"]] == [clip.key for clip in read_index(drawn)]
    assert (drawn / "sheet.png").stat().st_size > 10_000


def test_a_person_looks_alike_in_all_clips_and_unlike_others(drawn: Path) -> None:
    head = load_head()
    people = [draw_person(head, 7, number) for number in range(3)]
    assert np.array_equal(people[1].vertices, draw_person(head, 7, 1).vertices)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(people[one].vertices - people[other].vertices, axis=1).mean() > 0.002
        assert people[one].hair.tolist() != people[other].hair.tolist()
    # light and place differ between the clips of a person, and shapes do not: the proportions of faces seen from the front
    corners = [[clip.frames([0])[0][:6, :6].mean() for clip in clips] for clips in clips_of(drawn).values()]
    assert np.abs(np.diff(corners, axis=1)).max() > 8


def test_strangers_are_plainly_different() -> None:
    head = load_head()
    people = [draw_person(head, 1, number) for number in range(60)]
    assert len({person.style for person in people}) >= 8
    assert len({person.facial_hair for person in people}) >= 4
    assert 5 < sum(person.glasses > 0 for person in people) < 30
    assert np.ptp([person.tone for person in people]) > 0.7
    shapes = np.stack([person.vertices[(head.part == 0) & (head.template[:, 1] < 0.02)] for person in people])
    apart = np.linalg.norm(shapes[:, None] - shapes[None], axis=3).mean(axis=2) + np.eye(len(shapes))
    assert apart.min() > 0.0015  # metres, over the face


def test_any_number_of_workers_gives_the_same_bytes_and_more_people_are_added(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out, workers in ((one, 1), (two, 2)):
        synthesise(2, 1, out, 16, seed=7, workers=workers, frames_each=4)
    assert contents(one) == contents(two)
    more = synthesise(3, 1, one, 16, seed=7, workers=2, frames_each=4)
    assert (more.made, more.present) == (1, 2)
    assert [clip.person for clip in read_index(one)] == [f"synthetic-7-00000{number}" for number in range(3)]


def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys\n"
        "from talkinghead.corpus import book\n"
        "from talkinghead.synthetic import dataset\n"
        "if __name__ == '__main__':\n"
        "    book.SHARD_CLIPS = 1\n"
        "    dataset.synthesise(2, 1, sys.argv[1], 16, 7, 1, frames_each=6)\n"
    )
    script = tmp_path / "draw.py"
    script.write_text(program)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    monkeypatch.setattr(book, "SHARD_CLIPS", 1)
    monkeypatch.setattr(dataset, "in_order", here)
    synthesise(2, 1, whole, 16, 7, frames_each=6)
    with subprocess.Popen([sys.executable, str(script), str(cut)], env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 100
        while not list(cut.glob("shard-*.tar")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    left = [path.name for path in cut.glob("shard-*.tar")]
    assert len(left) == 1 and not (cut / "dataset.json").exists()
    subprocess.run([sys.executable, str(script), str(cut)], check=True, env=environment, timeout=120)
    assert contents(cut) == contents(whole)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--synthetic", "0"], "'0' is not a whole number of 1 or more"),
        (["--synthetic", "-3"], "'-3' is not a whole number of 1 or more"),
        (["--synthetic", "many"], "'many' is not a whole number"),
        (["--synthetic", "2", "--clips-each", "0"], "'0' is not a whole number of 1 or more"),
        (["--synthetic", "2", "--seed", "-1"], "seed -1, expected 0 or more"),
        (["clip.mp4", "--synthetic", "2"], "name one of the three kinds of source"),
        (["--synthetic", "2", "--people", "table.tsv"], "name one of the three kinds of source"),
        ([], "no videos given; name videos or folders of them, --synthetic PEOPLE or --portraits"),
    ],
)
def test_bad_input(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["prepare", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not out.exists()


def test_real_clips_are_not_added_to(face_shards: Path, drawn: Path, tmp_path: Path) -> None:
    before = contents(face_shards)
    with pytest.raises(ValueError, match=r"holds shard-000000.tar, of which its report.jsonl does not know.*another folder"):
        synthesise(1, 1, face_shards, 64)
    assert contents(face_shards) == before
    (tmp_path / "report.jsonl").write_text(json.dumps({"version": 1, "size": 64, "detector": "dlib", "filters": {"min_face": 60}}) + "\n")
    # the first line holds settings, which are compared before all else
    with pytest.raises(ValueError, match="was prepared with"):
        synthesise(1, 1, tmp_path, 64)
    with pytest.raises(ValueError, match="was prepared with seed 7, expected 8; prepare into another folder"):
        synthesise(3, 2, drawn, 64, seed=8, frames_each=6)


def test_without_anny_the_install_line_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from talkinghead.synthetic import raster

    raster.open_warp.cache_clear()
    load_head.cache_clear()
    for name in ("warp", "anny"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            raster.open_warp.cache_clear()
            assert main(["prepare", "--synthetic", "1", "--out", str(tmp_path / name), "--size", "16"]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and "pip install 'talkinghead[synthetic]'" in error
            assert not (tmp_path / name).exists()


def test_stride_takes_every_nth_frame_of_the_motion(tmp_path):
    whole, sparse = tmp_path / "whole", tmp_path / "sparse"
    synthesise(1, 1, whole, 16, seed=7, workers=1, frames_each=9)
    made = synthesise(1, 1, sparse, 16, seed=7, workers=1, frames_each=3, frame_stride=3)
    every, third = (read_index(folder)[0] for folder in (whole, sparse))
    assert (len(every), len(third), made.frames) == (9, 3, 3)
    assert third.fps == pytest.approx(every.fps / 3)
    # the crops differ, as they are around the frames that are there
    places = [clip.landmarks * (clip.info.crop.side / 16) + [clip.info.crop.x, clip.info.crop.y] for clip in (every, third)]
    np.testing.assert_allclose(places[0][::3], places[1], atol=0.05)


def test_stride_below_one_is_refused(tmp_path):
    with pytest.raises(TalkingheadError, match="frame stride 0, expected at least 1"):
        synthesise(1, 1, tmp_path, 16, frame_stride=0)
