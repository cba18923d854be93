"""Videos to prepare, and checks of data sets, in a module that worker processes can import."""

import json
import shutil
from pathlib import Path
from typing import Any

from conftest import draw_video
from talkinghead.dataset.quality_filters import Filters
from talkinghead.dataset.shard_reader import read_index

FRAMES = Filters().min_frames
FACES = [(40 + 2 * (n % 10), 30, 60) for n in range(FRAMES)]


def draw_videos(folder: Path, count: int, frames: int = FRAMES) -> list[Path]:
    """Draw videos of a moving face, one shade each."""
    folder.mkdir(exist_ok=True)
    return [draw_video(folder / f"{number}.mp4", FACES[:frames], shade=number) for number in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, including hidden ones and those in subfolders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the report without the settings."""
    return [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()][1:]


def agree(out: Path) -> None:
    """Check that report and shards have the same clips in the same order, without other files."""
    reported = [shot["clip"] for line in lines(out) for shot in line.get("shots", []) if "clip" in shot]
    assert reported == [clip.key for clip in read_index(out)]
    assert {path.name for path in out.iterdir()} <= {
        "report.jsonl",
        "dataset.json",
        *(line.get("shard", "") for line in lines(out)),
    }


def draw_corpus(folder: Path) -> Path:
    """Draw nine videos, 0 to 8: 2 is a copy of 1, 4 is damaged and 6 shows no face."""
    draw_videos(folder, 9)
    shutil.copy(folder / "1.mp4", folder / "2.mp4")
    (folder / "4.mp4").write_bytes(b"no video" * 99)
    draw_video(folder / "6.mp4", [None] * FRAMES, shade=6)
    return folder
