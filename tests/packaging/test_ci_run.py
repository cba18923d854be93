"""Tests of `.ci/run`: it installs what tests need, requires those tests, and says why it cannot."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder of fake programs, which alone are on the path."""
    for name in ("sh", "dirname", "cat"):
        target = next(Path(folder, name) for folder in ("/bin", "/usr/bin") if Path(folder, name).exists())
        (tmp_path / name).symlink_to(target)
    required = "$TALKINGHEAD_TESTS_NEED_BROWSER $TALKINGHEAD_TESTS_NEED_NODE"
    write_tool(tmp_path, "make", f'echo "make $* with {required}"')
    return tmp_path


def write_tool(folder: Path, name: str, script: str) -> None:
    """Write a fake program."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run_ci(tools: Path) -> subprocess.CompletedProcess[str]:
    """Run `.ci/run` with fake programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TALKINGHEAD_")}
    environment = {**kept, "PATH": str(tools)}
    return subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "run")], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("present", "installed"), [((), "chromium xvfb"), (("chromium",), "xvfb"), (("Xvfb",), "chromium")]
)
def test_missing_programs_are_installed_and_tests_required(
    present: tuple[str, ...], installed: str, tools: Path
) -> None:
    write_tool(tools, "apt-get", f'echo "$*" >> {tools}/calls')
    write_tool(tools, "npm", "true")
    for name in present:
        write_tool(tools, name, "true")
    done = run_ci(tools)
    assert done.returncode == 0 and done.stdout == "make test-all with 1 1\n"
    calls = (tools / "calls").read_text().split("\n")
    assert " ".join(calls[1].split()) == f"install -y -qq --no-install-recommends {installed}"


def test_present_programs_are_kept(tools: Path) -> None:
    for name in ("chromium", "Xvfb", "npm"):
        write_tool(tools, name, "true")
    assert run_ci(tools).stdout == "make test-all with 1 1\n"


@pytest.mark.parametrize("npm", ["exit 1", None])
def test_tests_of_exported_pages_may_skip_without_npm(npm: str | None, tools: Path) -> None:
    for name in ("chromium", "Xvfb"):
        write_tool(tools, name, "true")
    if npm is not None:
        write_tool(tools, "npm", npm)
    done = run_ci(tools)
    assert done.returncode == 0 and done.stdout == "make test-all with 1 \n"
    assert done.stderr.startswith(".ci/run: npm or its registry is out of reach")


@pytest.mark.parametrize("script", ["exit 100", None])
def test_failed_installation_is_reported(script: str | None, tools: Path) -> None:
    if script is not None:
        write_tool(tools, "apt-get", script)
    done = run_ci(tools)
    assert done.returncode == 1 and "make" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith(".ci/run: Chromium and Xvfb cannot be installed")
