"""Read report.jsonl (see `talkinghead.dataset.writer`) line by line, and check every line."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import TalkingheadError, shorten

REPORT = "report.jsonl"
VERDICTS = ("taken", "rejected")
MAX_LINE_BYTES = 16 << 20
"""The line of a video of a hundred thousand shots is shorter."""


def read_report(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the values of every complete line, and the file's length up to the end of the line.

    The first line holds the settings, every other one describes a video. A last line without a line end was
    cut by an interruption and is skipped.

    Raises:
        TalkingheadError: the report is no regular file, or a line is not what `prepare` writes.
        OSError: the report cannot be read.
    """
    if not os.path.lexists(path):
        return
    if not os.path.isfile(path):  # a pipe or a device might never end
        raise TalkingheadError(
            f"{path}: is no regular file, expected the report of a data set; prepare into another folder"
        )
    with open(path, "rb") as file:
        number = 0
        while text := file.readline(MAX_LINE_BYTES):
            number += 1
            if not text.endswith(b"\n"):
                if len(text) == MAX_LINE_BYTES:
                    raise _unreadable(path, number, f"it has more than {MAX_LINE_BYTES} bytes")
                return
            try:
                line = _parse(text)
                problem = problem_of_settings(line) if number == 1 else _problem_of_video(line)
            except (ValueError, RecursionError) as error:
                raise _unreadable(path, number, str(error)) from error
            if problem:
                raise _unreadable(path, number, problem)
            yield line, file.tell()


def _unreadable(path: Path, number: int, problem: str) -> TalkingheadError:
    return TalkingheadError(
        f"{path}: line {number} cannot be read ({shorten(problem)}), expected it as prepare wrote it; "
        "prepare into another folder"
    )


def _parse(text: bytes) -> dict[str, Any]:
    line = json.loads(text)
    if type(line) is not dict:
        raise ValueError(f"{type(line).__name__} in place of named values")
    return line


def problem_of_settings(line: dict[str, Any]) -> str:
    """Return the problem of the settings of a data set; empty for valid ones."""
    if type(line.get("filters", {})) is not dict:
        return "its filters are no named values"
    if type(line.get("crop", 1)) is not int:
        return "its crop is no whole number"
    return ""


def _problem_of_video(line: dict[str, Any]) -> str:
    """Return the problem of a line about a video; empty for a valid line."""
    for name in ("file", "person"):
        if type(line.get(name)) is not str:
            return f"its {name} is missing or no text"
    digest = line.get("sha256", "")
    if digest is not None and not (type(digest) is str and re.fullmatch("[0-9a-f]{64}", digest)):
        return "its sha256 is missing or has not 64 hexadecimal digits"
    if line.get("verdict") not in VERDICTS:
        return f"its verdict is none of {', '.join(VERDICTS)}"
    if type(line.get("reason", "")) is not str:
        return "its reason is no text"
    shard = line.get("shard", "shard-000000.tar")
    if type(shard) is not str or not re.fullmatch(r"shard-\d{6,}\.tar", shard):
        return "its shard has no valid name"
    shots = line.get("shots", [])
    if type(shots) is not list or not all(type(shot) is dict for shot in shots):
        return "its shots are no list of named values"
    clips = [shot for shot in shots if "clip" in shot]
    if not all(
        type(shot["clip"]) is str and type(shot.get("kept")) is int and shot["kept"] >= 0 for shot in clips
    ):
        return "a shot lacks its clip's name or its number of frames"
    if (line["verdict"] == "taken") != ("shard" in line) or bool(clips) != ("shard" in line):
        return "its verdict, its shots and its shard do not fit together"
    return ""
