"""Tests of bench/gpu/run.sh without a GPU: stages, limits, archive, and failures."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "gpu" / "run.sh"
STAGES = ("build", "correctness", "kernels", "networks", "rest", "sanitizer")
sys.path.insert(0, str(ROOT))

from bench.conftest import importance  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def run(folder, *stages, path=(), **variables):
    """Run the script without a GPU and return the finished process."""
    paths = os.pathsep.join([*map(str, path), os.environ["PATH"]])
    environment = {
        **os.environ,
        "OUT": str(folder),
        "DRY_RUN": "1",
        "PYTHON": sys.executable,
        "PATH": paths,
        **variables,
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *stages], env=environment, capture_output=True, text=True, check=False
    )


def test_script_parses_and_names_files_that_exist():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    named = re.findall(r"\b(?:bench|tests)/[\w/]+\.(?:py|sh)\b", SCRIPT.read_text())
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_stage_limits_are_below_nine_minutes():
    limits = dict(re.findall(r"\[(\w+)\]=(\d+)", SCRIPT.read_text()))
    assert tuple(limits) == STAGES
    assert all(int(limit) < 540 for limit in limits.values()) and limits["correctness"] == "90"


def test_unknown_stage_reports_user_error(tmp_path):
    done = run(tmp_path, "kernel")
    assert done.returncode == 2
    assert done.stderr == f"bench/gpu/run.sh: no stage kernel; choose of: {' '.join(STAGES)}\n"


def test_stages_without_time_are_named_for_next_call(tmp_path):
    done = run(tmp_path, "networks", "rest", BUDGET="30")
    assert done.returncode == 1
    assert "time is up; to go on: bench/gpu/run.sh networks rest" in done.stdout


@pytest.mark.parametrize(
    ("code", "prints", "exit_code", "outcome"),
    [
        (0, "ERROR SUMMARY: 0 errors", 0, "no errors were found"),
        (9, "ERROR SUMMARY: 2 errors", 9, "errors were found"),
        (1, "ERROR SUMMARY: 2 errors", 9, "errors were found"),
        (1, "AssertionError: run_adain: a result is not finite", 9, "errors were found"),
        (1, "Device not supported", 0, "it refuses the device"),
        (124, "", 1, "it failed with exit code 124"),
    ],
)
def test_sanitizer_outcome_is_recorded(tmp_path, code, prints, exit_code, outcome):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "asked for $2"\necho "{prints}"\nexit {code}\n')
    tool.chmod(0o755)
    done = run(tmp_path / "out", "sanitizer", path=[tmp_path])
    assert done.returncode == bool(exit_code) and f"sanitizer: exit {exit_code} " in done.stdout
    log = (tmp_path / "out" / "stages" / "sanitizer.log").read_text()
    for name in ("memcheck", "racecheck", "synccheck"):
        assert f"asked for {name}\n" in log
        assert re.search(rf"^{name}: .*{outcome}", log, re.MULTILINE)


def archived_files(folder):
    """Return the names of the files in the archive of results."""
    with tarfile.open(folder / "results.tar.gz") as archive:
        return {Path(member.name).name for member in archive if member.isfile()}


def test_archive_holds_files_of_earlier_calls(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    for stage in ("networks", "rest"):
        run(tmp_path / "out", stage, PYTHON=str(python))
        assert f"{stage}.log" in archived_files(tmp_path / "out")
    assert archived_files(tmp_path / "out") == {"networks.log", "rest.log"}
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["results.tar.gz", "stages"]


def test_failed_stage_does_not_stop_the_next(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    done = run(tmp_path / "out", "networks", "rest", PYTHON=str(python))
    assert done.returncode == 1
    assert (
        "networks: exit 3" in done.stdout
        and "rest: exit 3" in done.stdout
        and "failed or not run: networks rest" in done.stdout
    )


@pytest.mark.slow
def test_dry_run_of_every_stage(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        assert f"== {stage}: exit 0" in done.stdout
        assert (tmp_path / "stages" / f"{stage}.log").read_text()
    assert archived_files(tmp_path) == {path.name for path in (tmp_path / "stages").iterdir()}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["results.tar.gz", "stages"]
    assert {row["op"] for row in json.loads((tmp_path / "stages" / "kernels.json").read_text())["rows"]} == {
        "adain"
    }
    assert (
        "test_person" in (tmp_path / "stages" / "networks.log").read_text()
        and "run_warp" in (tmp_path / "stages" / "sanitizer.log").read_text()
    )


def test_gpu_measures_bfloat16_in_channels_last_first():
    names = [
        f"test_adain[{layout}-64-256-8-forward-{dtype}]"
        for dtype in ("fp32", "bf16")
        for layout in ("nchw", "channels_last")
    ]
    names.sort(key=lambda name: importance(name, "cuda"))
    assert [re.findall(r"nchw|channels_last|fp32|bf16", name) for name in names] == [
        ["channels_last", "bf16"],
        ["nchw", "bf16"],
        ["channels_last", "fp32"],
        ["nchw", "fp32"],
    ]
