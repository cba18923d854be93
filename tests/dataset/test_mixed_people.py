"""Warnings of people whose clips look like two people."""

import hashlib
import json
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare
from support.dataset_helpers import draw_videos
from talkinghead import Clip
from talkinghead.data.crop import Crop
from talkinghead.data.load import read_clip
from talkinghead.dataset import merge_parts, mixed_people, prepare
from talkinghead.dataset.mixed_people import MAX_CLIPS, warn_of_mixed_people
from talkinghead.dataset.report import REPORT
from talkinghead.dataset.shard_reader import ClipInfo, ClipPlaces, ShardClip, read_shard
from talkinghead.dataset.shard_writer import ShardWriter

SIDE = 128


@pytest.fixture(scope="module")
def faces(carphone: Path) -> dict[str, Clip]:
    """Return a clip of a man in a car, and the picture of an astronaut."""
    pictures = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    man = read_clip(carphone, SIDE, "network", limit=40)
    return {"man": man, "astronaut": read_clip(pictures.astronaut(), SIDE, "network")}


def write_data(folder: Path, faces: dict[str, Clip], people: dict[str, list[str]]) -> Path:
    """Write clips of one frame in shards of two, and the report; of each person the faces in the shots of
    each file, such as "man astronaut".
    """
    lines: list[dict[str, object]] = [{"version": 1}]
    with ShardWriter(folder) as writer:
        for person, number, names in [(p, n, of_file) for p in people for n, of_file in enumerate(people[p])]:
            file, shots = f"{person}{number}.mp4", list[dict[str, object]]()
            for part, name in enumerate(names.split()):
                info = ClipInfo(
                    name=file,
                    sha256=hashlib.sha256(file.encode()).hexdigest(),
                    person=person,
                    fps=25.0,
                    frame_size=(SIDE, SIDE),
                    crop=Crop(0, 0, SIDE),
                    frames=(0,),
                    size=SIDE,
                    detector="network",
                    part=part,
                )
                face = faces[name]
                frame = 9 * (number + part) % len(face.frames)
                writer.write(info, face.track.landmarks[frame][None], [np.asarray(face.frames[frame])])
                shots.append({"clip": info.key, "kept": 1})
            lines.append(
                {"file": file, "sha256": info.sha256, "person": person, "verdict": "taken"}
                | {"shard": writer.shard, "shots": shots}
            )
            if writer.clips >= 2:
                writer.finish()
    (folder / REPORT).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_person_of_two_faces_warns(
    faces: dict[str, Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people = {"bob": ["man"] * 3, "mixed": ["man", "man", "astronaut"], "ann": ["astronaut"]}
    data = write_data(tmp_path / "data", faces, people)
    warn_of_mixed_people(data, people)
    [message] = caplog.messages
    expected = f"{data}: person mixed looks like different people in mixed0.mp4 and mixed2.mp4 (distance "
    assert message.startswith(expected) and "\n" not in message
    assert message.endswith("; name the people by folders or --people, and prepare into another folder")


@pytest.mark.parametrize("files", [["man astronaut"], ["man", "man astronaut"]])
def test_two_faces_in_one_file_name_it_once(
    files: list[str], faces: dict[str, Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_data(tmp_path / "data", faces, {"bob": files})
    warn_of_mixed_people(data, ["bob"])
    [message] = caplog.messages
    file = f"bob{len(files) - 1}.mp4"
    assert f"person bob looks like different people in shots of one file, {file} (distance " in message
    assert message.count(".mp4") == 1 and "; cut it into a video of each person, or leave it out" in message


def test_only_named_people_are_compared(
    faces: dict[str, Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = ["man", "astronaut"]
    data = write_data(tmp_path / "data", faces, {"bob": mixed, "ann": mixed})
    warn_of_mixed_people(data, {"ann"})
    assert [message.split()[2] for message in caplog.messages] == ["ann"]


class RecordedProgress:
    """Progress that records its calls, and how many of some objects are alive at each item.

    Attributes:
        objects: references to them.
        calls: description, total and number of items of each call.
        alive: the most that were alive.
    """

    def __init__(self) -> None:
        self.objects: list[weakref.ref[ShardClip]] = []
        self.calls: list[tuple[str, int | None, int]] = []
        self.alive = 0

    def __call__(self, iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterator[Any]:
        count = 0
        for item in iterable:
            count += 1
            self.alive = max(self.alive, sum(reference() is not None for reference in self.objects))
            yield item
        self.calls.append((desc, total, count))


def test_few_clips_are_compared_and_those_of_one_shard_are_held(
    faces: dict[str, Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = RecordedProgress()

    def read(shard: Path) -> Iterator[tuple[ClipPlaces, ShardClip]]:
        for places, clip in read_shard(shard):
            progress.objects.append(weakref.ref(clip))
            yield places, clip

    monkeypatch.setattr(mixed_people, "read_shard", read)
    people = {"bob": ["man"] * 9, "ann": ["man"], "eve": ["man"] * 2}
    warn_of_mixed_people(write_data(tmp_path / "data", faces, people), people, progress)
    assert progress.calls == [("comparing people", MAX_CLIPS + 2, MAX_CLIPS + 2)]
    assert len(progress.objects) > 6 and progress.alive <= 3  # a shard has two


def test_nothing_to_compare_shows_no_progress(faces: dict[str, Clip], tmp_path: Path) -> None:
    progress = RecordedProgress()
    warn_of_mixed_people(write_data(tmp_path / "data", faces, {"ann": ["man"]}), ["ann"], progress)
    assert progress.calls == []


def test_damaged_shard_of_earlier_run_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos, data = draw_videos(tmp_path / "bob", 4), tmp_path / "data"
    people = {video.name: "bob" for video in videos}
    prepare.prepare(videos[:2], data, 16, RedSquare(), people, workers=1)
    [shard] = data.glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:-1024])
    result = prepare.prepare(videos, data, 16, RedSquare(), people, workers=1)
    assert result.added == tuple(videos[2:])
    [message] = [message for message in caplog.messages if "compared" in message]
    assert message.startswith(f"{shard}: cannot be read as a shard (it is cut short")
    assert message.endswith("; not all of its clips were compared")


def test_people_of_added_clips_are_compared_and_not_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, set[str]]] = []
    progress = RecordedProgress()

    def record(folder: Path, people: set[str], shown_by: object) -> None:
        assert shown_by is progress
        compared.append((folder.name, people))

    for module in (prepare, merge_parts):
        monkeypatch.setattr(module, "warn_of_mixed_people", record)
    videos = draw_videos(tmp_path / "videos", 3)
    for part in ("1/2", "2/2"):
        prepare.prepare(videos[:2], tmp_path / "parts", 16, RedSquare(), workers=1, part=part)
    assert compared == []
    for _ in range(2):
        merge_parts.merge_parts(tmp_path / "parts", tmp_path / "merged", progress)
        prepare.prepare(videos[:2], tmp_path / "whole", 16, RedSquare(), workers=1, progress=progress)
    assert compared == [("merged", {"0", "1"}), ("whole", {"0", "1"})]
    prepare.prepare(videos, tmp_path / "whole", 16, RedSquare(), workers=1, progress=progress)
    assert compared[2:] == [("whole", {"2"})]
