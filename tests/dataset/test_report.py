"""Invalid reports: a one-line error, and an unchanged data set."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from talkinghead.dataset.report import MAX_LINE_BYTES, REPORT, read_report
from talkinghead.dataset.writer import DatasetWriter
from talkinghead.errors import TalkingheadError

SETTINGS = {"version": 1, "size": 64, "detector": "network", "filters": {"min_face": 48.0}, "crop": 2}
ACCEPTED = {
    "file": "a.mp4",
    "sha256": "ab" * 32,
    "bytes": 5,
    "verdict": "taken",
    "person": "a",
    "shots": [{"kept": 16, "clip": "a-1"}, {"reason": "is blurred"}],
    "shard": "shard-000000.tar",
}
REJECTED = {
    "file": "b.mp4",
    "sha256": None,
    "bytes": 0,
    "verdict": "rejected",
    "reason": "is no video",
    "person": "b",
}
WRONG: tuple[Any, ...] = (None, True, 7, -0.5, "x", [], [[]], {}, {"a": 1}, float("nan"))


def data_set(folder: Path, *lines: Any) -> Path:
    """Write a folder with one shard, whose content is not read, and a report of these lines."""
    folder.mkdir(exist_ok=True)
    (folder / "shard-000000.tar").touch()
    (folder / REPORT).write_bytes(
        b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    )
    return folder


def rejection_message(folder: Path) -> str:
    before = (folder / REPORT).read_bytes()
    with pytest.raises(TalkingheadError) as error:
        DatasetWriter(folder, SETTINGS)
    assert (folder / REPORT).read_bytes() == before
    return str(error.value)


def test_writer_reads_complete_report(tmp_path: Path) -> None:
    book = DatasetWriter(data_set(tmp_path, SETTINGS, ACCEPTED, REJECTED), SETTINGS)
    assert (book.clips, book.frames, book.people) == (1, 16, {"a"})
    assert book.find("b.mp4", None) is not None


@pytest.mark.parametrize("field", ["file", "sha256", "verdict", "person", "shots", "shard"])
def test_writer_rejects_line_with_invalid_value(field: str, tmp_path: Path) -> None:
    for value in WRONG:
        if not (field == "sha256" and value is None) and not (field in ("file", "person") and value == "x"):
            message = rejection_message(data_set(tmp_path, SETTINGS, {**ACCEPTED, field: value}, REJECTED))
            assert f"{REPORT}: line 2 cannot be read" in message or "its report.jsonl" in message
    rejection_message(
        data_set(
            tmp_path, SETTINGS, {name: value for name, value in ACCEPTED.items() if name != field}, REJECTED
        )
    )


@pytest.mark.parametrize(
    "shot",
    [{"clip": "a-1"}, {"clip": 1, "kept": 2}, {"clip": "a-1", "kept": "2"}, {"clip": "a-1", "kept": -2}, 5],
)
def test_writer_rejects_invalid_shot(shot: Any, tmp_path: Path) -> None:
    assert "line 2 cannot be read" in rejection_message(
        data_set(tmp_path, SETTINGS, {**ACCEPTED, "shots": [shot]})
    )


@pytest.mark.parametrize("name", list(SETTINGS))
def test_writer_rejects_invalid_settings(name: str, tmp_path: Path) -> None:
    for value in (None, 0.5, "x", [], [5], {"a": 1}, "y" * 10_000):
        assert len(rejection_message(data_set(tmp_path, {**SETTINGS, name: value}, ACCEPTED))) < 400 + len(
            str(tmp_path)
        )


@pytest.mark.parametrize("line", [b"[" * 100_000, b"5", b"[]", b"\xff\xfe", b'{"file": ', b"9" * 5000, b""])
def test_writer_rejects_line_without_names(line: bytes, tmp_path: Path) -> None:
    assert "line 1 cannot be read" in rejection_message(data_set(tmp_path, line + b"\n", ACCEPTED))
    assert "line 2 cannot be read" in rejection_message(data_set(tmp_path, SETTINGS, line + b"\n", ACCEPTED))


def test_writer_rejects_endless_line(tmp_path: Path) -> None:
    data_set(tmp_path, SETTINGS, ACCEPTED)
    os.truncate(tmp_path / REPORT, 1 << 40)  # a hole, on no disk
    with pytest.raises(
        TalkingheadError, match=f"line 3 cannot be read .it has more than {MAX_LINE_BYTES} bytes"
    ):
        DatasetWriter(tmp_path, SETTINGS)
    assert (tmp_path / REPORT).stat().st_size == 1 << 40


def test_writer_rejects_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / REPORT)
    with pytest.raises(TalkingheadError, match="is no regular file"):
        list(read_report(tmp_path / REPORT))


def test_writer_removes_lines_of_unfinished_shard(tmp_path: Path) -> None:
    """Remove lines of the next shard, which a killed run never finished; any other shard is an error."""
    killed = {**ACCEPTED, "file": "c.mp4", "shard": "shard-000001.tar"}
    data_set(tmp_path, SETTINGS, ACCEPTED, killed, REJECTED)
    assert DatasetWriter(tmp_path, SETTINGS).find("c.mp4", "ab" * 32) is None
    assert (tmp_path / REPORT).read_bytes().count(b"\n") == 2
    assert "shard-900000.tar" in rejection_message(
        data_set(tmp_path, SETTINGS, ACCEPTED, {**killed, "shard": "shard-900000.tar"}, REJECTED)
    )
    # and nothing is cut away where the shards and the report do not fit together
    assert "holds shard-000000.tar, of which its report.jsonl does not know" in rejection_message(
        data_set(tmp_path, SETTINGS, killed, ACCEPTED)
    )
