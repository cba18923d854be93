"""The tables of docs/compatibility.md, and which versions a cell asks for."""

import json
import sys
import zipfile
from pathlib import Path

import matrix
import pytest
from packaging.requirements import Requirement

METADATA = """Metadata-Version: 2.4
Name: talkinghead
Requires-Dist: torch<2.16,>=2.10
Requires-Dist: av<20,>=17; extra == "app"
Requires-Dist: ruff<0.18,>=0.17; extra == "dev"
"""
CELL = {"python": "3.10", "end": "oldest", "date": "2026-11-29", "seconds": 61, "gigabytes": 7.5}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "talkinghead-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("talkinghead-0.1.0.dist-info/METADATA", METADATA)
    return path


def test_direct_requirements_are_those_of_the_extras_without_markers(wheel):
    assert matrix.direct(wheel, ("app",)) == ["av<20,>=17", "torch<2.16,>=2.10"]
    assert matrix.direct(wheel, ()) == ["torch<2.16,>=2.10"]


def test_content_digest_is_of_what_the_wheel_holds(wheel, tmp_path):
    rebuilt, other = tmp_path / "rebuilt.whl", tmp_path / "other.whl"
    for path, text in ((rebuilt, METADATA), (other, METADATA + "Summary: another\n")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                zipfile.ZipInfo("talkinghead-0.1.0.dist-info/METADATA", (2000, 1, 1, 0, 0, 0)), text
            )
    assert matrix.content_digest(rebuilt) == matrix.content_digest(wheel) != matrix.content_digest(other)


def test_a_cell_that_failed_is_run_again(tmp_path):
    kept = tmp_path / "3.10-oldest.json"
    assert not matrix.cell_succeeded(kept)
    for outcome in (False, True):
        kept.write_text(json.dumps({"outcomes": {"info": True, "ONNX": outcome}}))
        assert matrix.cell_succeeded(kept) is outcome


def test_cells_of_earlier_runs_stay_in_the_table(tmp_path):
    for python, end in (("3.13", "newest"), ("3.9", "newest"), ("3.10", "newest"), ("3.13", "oldest")):
        (tmp_path / f"{python}-{end}.json").write_text(json.dumps({"python": python, "end": end}))
    assert [cell["python"] + cell["end"] for cell in matrix.read_cells(tmp_path)] == [
        "3.13oldest",
        "3.9newest",
        "3.10newest",
        "3.13newest",
    ]


def test_cells_table_tells_what_failed_and_what_did_not_run():
    outcomes = {"info": True, "fine-tuning": True, "animation": False, "ONNX": True}
    *_, row = matrix.cells_table(
        [{**CELL, "versions": {"torch": "2.10.0", "numpy": "1.26.0"}, "outcomes": outcomes}]
    ).splitlines()
    assert (
        row
        == "| 3.10 | 2.10.0 | 1.26.0 | not installed | not installed | yes | yes | **no** | yes | not run | "
        "61 | 7.5 | 2026-11-29 |"
    )


def test_requirements_table_has_the_oldest_and_newest_version_that_ran_and_reasons(wheel):
    cells = [
        {"versions": {"torch": version, "av": av}}
        for version, av in (("2.10.0", "19.0.2"), ("2.9.1", "17.0.0"))
    ]
    lines = matrix.requirements_table(matrix.requirements(wheel), cells).splitlines()[2:]
    assert lines[0] == "| `av` | <20, >=17 | 17.0.0 | 19.0.2 |  |"
    assert lines[1].startswith("| `ruff` | <0.18, >=0.17 | untested | untested | a tool for developers")
    assert lines[2] == "| `torch` | <2.16, >=2.10 | 2.9.1 | 2.10.0 |  |"


def test_every_untested_requirement_exists(wheel):
    import test_metadata

    names = {requirement.name for requirement in test_metadata.REQUIREMENTS}
    assert set(matrix.UNTESTED) | set(matrix.PARTLY) <= names
    installed = {Requirement(line).name for extra in matrix.EXTRAS for line in test_metadata.EXTRAS[extra]}
    assert names - installed - {"torch", "numpy", "safetensors"} == set(matrix.UNTESTED)


def test_tests_at_the_ends_exist():
    for name in matrix.TESTS_AT_ENDS:
        path, _, test = name.partition("::")
        assert f"def {test}" in (matrix.ROOT / "tests" / path).read_text(encoding="utf-8"), name


def test_a_table_is_replaced_between_its_comments(tmp_path):
    document = tmp_path / "compatibility.md"
    document.write_text("before\n<!-- cells -->\nold\n<!-- end of cells -->\nafter\n")
    for text in ("new", "| newer |\n| --- |"):
        matrix.write_between(document, "cells", text)
        assert document.read_text() == f"before\n<!-- cells -->\n{text}\n<!-- end of cells -->\nafter\n"


def test_a_file_linked_twice_counts_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    once = matrix.size(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert 100_000 <= once < 200_000 and matrix.size(tmp_path) == once


def test_runner_logs_commands_and_tells_failures(tmp_path):
    run = matrix.Runner(tmp_path / "cell", {})
    assert run("right", sys.executable, "-c", "print('hello')") and not run(
        "wrong", sys.executable, "-c", "raise SystemExit(3)"
    )
    assert "hello" in (tmp_path / "cell" / "right.log").read_text()
    assert not run("late", sys.executable, "-c", "import time; time.sleep(60)", limit=0.2)
