"""Paths that cannot exist, be read or be written, and full disks, end a command with one line and no partial
output.
"""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_input import COMMANDS, fail_on_faults, find_faults

from support.corrupt_media import write
from support.sandbox import NO_DISK, USER_ERROR, SandboxCall, SandboxPool

pytest_plugins = ["bad_input_fixtures"]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="calls are forked, and their memory read from /proc"
)

IMPOSSIBLE_PATHS = (
    "",
    ".",
    "/",
    "..",
    "~",
    "nul\0.mp4",
    "nul\0.png",
    "x" * 300 + ".mp4",
    "x" * 300 + ".png",
    "x/" * 3000 + "x.mp4",
    "x/" * 3000 + "x.png",
    "http://x/y.mp4",
    "\udcff.mp4",
)


@pytest.mark.slow
def test_read_impossible_path_reports_user_error(sandbox: SandboxPool, tmp_path: Path) -> None:
    calls = [
        SandboxCall(command, [path])
        for command in ("read", "load", "draw", "people", "state")
        for path in IMPOSSIBLE_PATHS
    ]
    calls += [
        SandboxCall("prepare", [str(tmp_path), "1", path])
        for path in IMPOSSIBLE_PATHS
        if path not in (".", "/", "..")
    ]
    names = [f"{call.command} {call.arguments[0][:20]!r}" for call in calls]
    fail_on_faults(find_faults(sandbox.run(calls), names), len(calls))


def test_read_forbidden_file_reports_user_error(
    sandbox: SandboxPool, valid_media: dict[str, Path], finetuned_person: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    arguments = []
    for command, source in (
        ("read", valid_media["h264.mp4"]),
        ("read", valid_media["picture.png"]),
        ("load", finetuned_person),
        ("people", valid_media["h264.mp4"]),
        ("state", finetuned_person),
    ):
        for folder in (tmp_path, closed):
            path = folder / f"{command}-{source.name}"
            shutil.copy(source, path)
            path.chmod(0)
            arguments.append((command, [str(path)]))
    arguments += [(command, [str(closed)]) for command in ("read", "draw", "load", "people", "state")]
    arguments.append(("prepare", [str(tmp_path / "data"), "1", str(closed)]))
    calls = [SandboxCall(command, texts, drop_privileges=True) for command, texts in arguments]
    closed.chmod(0)
    outcomes = sandbox.run(calls)
    closed.chmod(0o700)
    faults = find_faults(outcomes, [f"{call.command} {call.arguments[-1]}" for call in calls])
    faults += [f"{outcome.call.command} was not refused" for outcome in outcomes if outcome.code == 0]
    fail_on_faults(faults, len(calls))


# outputs

OUTPUT_PROBLEMS = ("pipe", "folder", "device", "loop", "below-a-file", "closed", "long", "too-long")


def make_unwritable(problem: str, folder: Path, suffix: str) -> Path:
    """Return a path for an output in a folder where writing has a problem; "long" is the only one without."""
    path = folder / f"{problem}{suffix}"
    if problem == "pipe":
        os.mkfifo(path)
    elif problem == "folder" and suffix:
        path.mkdir()
    elif problem == "device":
        path.symlink_to(full_device(folder))
    elif problem == "loop":
        path.symlink_to(path)
    elif problem == "below-a-file":
        return write(folder / "file", b"text") / f"x{suffix}"
    elif problem == "closed":
        folder.chmod(0o500)
    elif problem == "long":
        return folder / ("l" * (255 - len(suffix)) + suffix)
    elif problem == "too-long":
        return folder / ("l" * 255 + (suffix or "x"))
    return path


def full_device(folder: Path) -> Path:
    """Return a device that is always full; for root a new one, because root could replace /dev/full."""
    if os.getuid():
        return Path("/dev/full")
    os.mknod(folder / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    return folder / "full"


def modes(folder: Path) -> dict[Path, int]:
    """Return the kind and permissions of everything in a folder."""
    return {path: path.lstat().st_mode for path in folder.rglob("*")}


def test_write_to_unwritable_path_reports_user_error(
    sandbox: SandboxPool,
    valid_media: dict[str, Path],
    feed_forward_person: Path,
    small_model: Path,
    tmp_path: Path,
) -> None:
    calls, names, folders, modes_before = [], [], [], []
    for name, command in COMMANDS.items():
        for problem in OUTPUT_PROBLEMS:
            folder = tmp_path / f"{name}-{problem}"
            folder.mkdir()
            arguments = command.arguments(valid_media["h264.mp4"], folder, feed_forward_person, small_model)
            suffix = "" if name == "demo" else Path(command.outputs[0]).suffix
            arguments[arguments.index("--out") + 1] = str(make_unwritable(problem, folder, suffix))
            calls.append(SandboxCall("cli", [*arguments, "--quiet"], drop_privileges=True))
            names.append(f"{name} to {problem}")
            folders.append(folder)
            modes_before.append(modes(folder))
    outcomes = sandbox.run(calls)
    faults = find_faults(outcomes, names)
    for outcome, name, folder, before in zip(outcomes, names, folders, modes_before, strict=True):
        folder.chmod(0o700)
        if name.endswith(" to long"):
            if outcome.code:
                faults.append(f"{name}: {outcome.stderr}")
        elif outcome.code == USER_ERROR:
            after = modes(folder)
            if set(after) - set(before):
                faults.append(f"{name}: left {set(after) - set(before)}")
            if any(after.get(path) != mode for path, mode in before.items()):
                faults.append(f"{name}: changed an existing file")
        elif outcome.code or name not in ("demo to folder", "demo to device"):
            faults.append(f"{name}: was not refused")
    fail_on_faults(faults, len(calls))


@pytest.mark.parametrize("limit", ["file size", "disk"])
def test_write_to_full_disk_reports_user_error(
    limit: str,
    sandbox: SandboxPool,
    valid_media: dict[str, Path],
    feed_forward_person: Path,
    small_model: Path,
    tmp_path: Path,
) -> None:
    drive = valid_media["h264.mp4"]
    calls, names = [], []

    def limits(out: Path, size: int) -> dict[str, Any]:
        out.mkdir()
        return {"disk": (str(out), size)} if limit == "disk" else {"file_bytes": size}

    for name, command in COMMANDS.items():
        for size in (4096, 12288, 32768):
            out = tmp_path / f"{name}-{size}"
            arguments = [*command.arguments(drive, out, feed_forward_person, small_model), "--quiet"]
            outputs = [str(out / output) for output in command.outputs]
            calls.append(SandboxCall("cli", arguments, outputs, **limits(out, size)))
            names.append(f"{name} {size}")
    for workers in ("1", "2"):
        for size in (4096, 20480):
            out = tmp_path / f"prepare-{workers}-{size}"
            arguments = [str(out), workers, str(drive)]
            calls.append(SandboxCall("prepare", arguments, seconds=60, **limits(out, size)))
            names.append(f"prepare {workers} {size}")
    outcomes = sandbox.run(calls)
    if outcomes[0].code == NO_DISK:
        pytest.skip("this system does not allow to mount a small disk")
    faults = find_faults(outcomes, names)
    for outcome, name in zip(outcomes, names, strict=True):
        if limit == "disk" and outcome.code == USER_ERROR:
            files = json.loads(outcome.stdout.splitlines()[-1])
            if files:
                faults.append(f"{name}: left {files}")
    assert any(outcome.code == USER_ERROR for outcome in outcomes)
    fail_on_faults(faults, len(calls))
