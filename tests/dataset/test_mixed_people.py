"""Warnings of people whose clips look like two people."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare
from support.dataset_helpers import draw_videos
from talkinghead import Clip
from talkinghead.data.crop import Crop
from talkinghead.data.load import read_clip
from talkinghead.dataset import merge_parts, prepare
from talkinghead.dataset.mixed_people import MAX_CLIPS, warn_of_mixed_people
from talkinghead.dataset.report import REPORT
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter

SIDE = 128


@pytest.fixture(scope="module")
def faces(carphone: Path) -> dict[str, Clip]:
    """Return a clip of a man in a car, and the picture of an astronaut."""
    pictures = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    man = read_clip(carphone, SIDE, "network", limit=40)
    return {"man": man, "astronaut": read_clip(pictures.astronaut(), SIDE, "network")}


def write_data(folder: Path, faces: dict[str, Clip], people: dict[str, list[str]]) -> Path:
    """Write clips of one frame for each person, in shards of two, and the report."""
    lines: list[dict[str, object]] = [{"version": 1}]
    with ShardWriter(folder, 2) as writer:
        for person, names in people.items():
            for number, name in enumerate(names):
                file = f"{person}{number}.mp4"
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
                )
                lines.append(
                    {"file": file, "sha256": info.sha256, "person": person, "verdict": "taken"}
                    | {"shard": writer.shard, "shots": [{"clip": info.key, "kept": 1}]}
                )
                face = faces[name]
                frame = 9 * number % len(face.frames)
                writer.write(info, face.track.landmarks[frame][None], [np.asarray(face.frames[frame])])
    (folder / REPORT).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_person_of_two_faces_warns(
    faces: dict[str, Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people = {"bob": ["man"] * 3, "mixed": ["man", "man", "astronaut"], "ann": ["astronaut"]}
    data = write_data(tmp_path / "data", faces, people)
    warn_of_mixed_people(data)
    [message] = caplog.messages
    expected = f"{data}: person mixed looks like different people in mixed0.mp4 and mixed2.mp4 (distance "
    assert message.startswith(expected) and "\n" not in message


def test_few_clips_of_a_person_are_compared(
    faces: dict[str, Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Clip] = []
    monkeypatch.setattr("talkinghead.dataset.mixed_people.looks_like_two_people", compared.append)
    warn_of_mixed_people(write_data(tmp_path / "data", faces, {"bob": ["man"] * 9, "ann": ["man"]}))
    assert [(clip.name, len(clip.frames)) for clip in compared] == [("bob", MAX_CLIPS)]


def test_data_is_compared_when_clips_were_added_and_not_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    for module in (prepare, merge_parts):
        monkeypatch.setattr(module, "warn_of_mixed_people", lambda folder: compared.append(folder.name))
    draw_videos(tmp_path / "videos", 2)
    for part in ("1/2", "2/2"):
        prepare.prepare(tmp_path / "videos", tmp_path / "parts", 16, RedSquare(), workers=1, part=part)
    assert compared == []
    for _ in range(2):
        merge_parts.merge_parts(tmp_path / "parts", tmp_path / "merged")
        prepare.prepare(tmp_path / "videos", tmp_path / "whole", 16, RedSquare(), workers=1)
    assert compared == ["merged", "whole"]
