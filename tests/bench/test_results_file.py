"""Tests of reading result files: damaged files end in one line, in every program of the bench."""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.experiments import likeness, paper_start, retarget  # noqa: E402
from bench.lib import plot, report  # noqa: E402
from bench.lib.results_file import MAX_BYTES, MappingOf, Number, Optional, read_results  # noqa: E402
from talkinghead.errors import TalkingheadError  # noqa: E402

RESULTS = ROOT / "bench" / "results"
PROGRAMS: dict[str, tuple[Any, list[str], Path]] = {
    "report": (report, ["IN"], RESULTS / "engines_amd_epyc.json"),
    "summary": (report, ["IN", "--summary"], RESULTS / "engines_amd_epyc.json"),
    "comparison": (report, ["IN", str(RESULTS / "engines_amd_epyc.json")], RESULTS / "engines_amd_epyc.json"),
    "plot": (plot, ["IN", "OUT"], RESULTS / "engines_amd_epyc.json"),
    "likeness": (likeness, ["--table", "IN"], RESULTS / "likeness_portrait.json"),
    "paper_start": (paper_start, ["--table", "IN"], RESULTS / "paper_start.json"),
    "retarget": (retarget, ["--table", "IN"], RESULTS / "retarget.json"),
}
WRONG: tuple[Any, ...] = (None, "x", -1, [], {}, [5], {"a": {}}, 1e400, float("nan"), 10**300, "\x1b[2J")


def run(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a program on a file and return its exit code."""
    module, arguments, _ = PROGRAMS[name]
    paths = {"IN": str(path), "OUT": str(path.parent / "bars.png")}
    monkeypatch.setattr(
        sys, "argv", [module.__name__, *(paths.get(argument, argument) for argument in arguments)]
    )
    try:
        module.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_program_reads_stored_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(PROGRAMS[name][2].read_bytes())
    assert run(name, path, monkeypatch) == 0
    assert "nan" not in capsys.readouterr().out


def list_entries(value: Any) -> list[tuple[Any, Any]]:
    """Return all containers with their keys; of a container's inner containers, which are alike, only two."""
    entries, inner = [], 0
    for key in value if isinstance(value, dict) else range(min(len(value), 2)):
        if isinstance(value[key], (dict, list)):
            inner += 1
            entries += [(value, key), *list_entries(value[key])] if inner <= 2 or key == "rows" else []
        else:
            entries.append((value, key))
    return entries


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "plot"])
def test_program_reports_wrong_value_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Allow any value where the program does not read it."""
    results = json.loads(PROGRAMS[name][2].read_text())
    path, refused, count = tmp_path / "in.json", 0, len(list_entries(results))
    for number in range(count):
        for wrong in ("gone", *WRONG[number % 3 :: 3]):
            values = copy.deepcopy(results)
            container, key = list_entries(values)[number]
            if wrong == "gone":
                del container[key]
            else:
                container[key] = wrong
            path.write_text(json.dumps(values))
            code = run(name, path, monkeypatch)
            output = capsys.readouterr()
            assert (
                code in (0, 2)
                and (code == 2) == (output.err.count("\n") == 1)
                and "\x1b" not in output.err + output.out
            )
            refused += code == 2
    assert refused > count / 4


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff\xfe", b"{}", b"[]", b"null", b'{"rows": 9' + b"9" * 5000 + b"}"]
)
def test_program_reports_damaged_file_in_one_line(
    name: str,
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(content)
    assert run(name, path, monkeypatch) == 2
    error = capsys.readouterr().err
    program = PROGRAMS[name][0].__name__
    assert error.startswith(f"{program}: error: {path}: cannot be read as results (")
    assert error.count("\n") == 1 and list(tmp_path.iterdir()) == [path]


def test_read_results_bounds_size(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(b"{}")
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(TalkingheadError, match=r"more than 64 MB"):
        read_results(path, {})
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TalkingheadError, match="no regular file"):
        read_results(path, {})


def test_read_results_checks_kinds(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    kind = {
        "a": Number(1, 5),
        "b": Optional(str),
        "c": MappingOf([int], least=1),
        "d": [Number(integer=True), str],
    }
    right = {"a": 2.5, "c": {"x": [1, 2]}, "d": [1, "y"], "more": None}
    path.write_text(json.dumps(right))
    assert read_results(path, kind) == right
    for wrong in (
        {"a": 6},
        {"a": True},
        {"b": None},
        {"c": {}},
        {"c": {"x": [1.5]}},
        {"d": [1.5, "y"]},
        {"d": [1]},
    ):
        path.write_text(json.dumps(right | wrong))
        with pytest.raises(TalkingheadError, match="which is not valid there"):
            read_results(path, kind)
