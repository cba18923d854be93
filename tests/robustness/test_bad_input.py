"""Bad images and videos end a command with one line that says what is wrong: no traceback, no hang, no crash
of the interpreter, no partial output.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from bad_input import COMMANDS, fail_on_faults, find_faults

from support.corrupt_datasets import NUM_GOOD_VIDEOS, write_thousand_videos
from support.sample_media import LONG
from support.sandbox import USER_ERROR, SandboxCall, SandboxPool
from talkinghead.media.video import VIDEO_SUFFIXES

pytest_plugins = ["bad_input_fixtures"]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="calls are forked, and their memory read from /proc"
)

GROUPS = (
    "whole",
    "cut",
    "flipped",
    "overwritten",
    "swapped",
    "videos",
    "pictures",
    "strangers",
    "names",
    "special",
)
ROTATION = ("finetune", "animate", "landmarks", "finetune", "animate", "demo", "landmarks", "finetune")
"""All commands read in the same way, so that one command, in turn, reads each file of most groups;
TALKINGHEAD_CORPUS=all lets every command read every file.
"""


def select_files(command: str, group: str, files: Sequence[Path]) -> list[Path]:
    """Return the files of a group that a command reads."""
    if command == "read" or group in ("whole", "special") or os.environ.get("TALKINGHEAD_CORPUS") == "all":
        return list(files)
    first = GROUPS.index(group)
    return [path for number, path in enumerate(files, first) if ROTATION[number % len(ROTATION)] == command]


@pytest.mark.parametrize("command", [*COMMANDS, "read"])
@pytest.mark.parametrize("group", GROUPS)
def test_command_on_bad_media_reports_user_error(
    command: str,
    group: str,
    media: dict[str, list[Path]],
    sandbox: SandboxPool,
    feed_forward_person: Path,
    small_model: Path,
    tmp_path: Path,
) -> None:
    files, calls = select_files(command, group, media[group]), []
    for number, path in enumerate(files):
        prefixes = [" ".join(path.name.split())]
        seconds = 120 if str(LONG) in path.name else 20
        if command == "read":
            calls.append(SandboxCall("read", [str(path)], note_prefixes=prefixes, seconds=seconds))
            continue
        out = tmp_path / f"{number}"
        out.mkdir()
        arguments = COMMANDS[command].arguments(path, out, feed_forward_person, small_model)
        calls.append(
            SandboxCall(
                "cli",
                [*arguments, "--quiet"],
                [str(out / name) for name in COMMANDS[command].outputs],
                note_prefixes=prefixes,
                seconds=seconds,
            )
        )
    outcomes = sandbox.run(calls)
    faults = find_faults(outcomes, [f"{command} {path.parent.name}/{path.name!r}" for path in files])
    if group == "whole":
        faults += [
            f"{path.name} was refused: {outcome.stderr}"
            for outcome, path in zip(outcomes, files, strict=True)
            if outcome.code == USER_ERROR and not (command in ("demo", "animate") and path.stem == "picture")
        ]
    fail_on_faults(faults, len(calls))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["whole", "videos", "pictures"])
@pytest.mark.parametrize("detector", ["network", pytest.param("dlib", marks=pytest.mark.identity)])
def test_detector_on_readable_media_succeeds(
    detector: str, group: str, sandbox: SandboxPool, media: dict[str, list[Path]]
) -> None:
    calls = [
        SandboxCall("detect", [str(path), detector], detector=detector, seconds=60, note_prefixes=[path.name])
        for path in media[group]
    ]
    outcomes = sandbox.run(calls)
    fail_on_faults(find_faults(outcomes, [f"detect {path.name}" for path in media[group]]), len(calls))
    assert sum(outcome.code == 0 for outcome in outcomes) > len(calls) / 2


# prepare


@pytest.mark.slow
def test_prepare_with_bad_files_among_thousand_continues(
    sandbox: SandboxPool, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    corrupt = [
        path
        for group in ("cut", "flipped", "strangers", "videos")
        for path in media[group][::9]
        if path.suffix in VIDEO_SUFFIXES
    ]
    folder, out = tmp_path / "videos", tmp_path / "data"
    count = write_thousand_videos(folder, corrupt)
    (folder / "dangling.mp4").symlink_to("nowhere")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    lines = prepare_in_sandbox(sandbox, out, [folder], seconds=120)
    assert len(lines) == count + 2
    lines_by_name = {Path(str(line["file"])).name: line for line in lines}
    assert all(lines_by_name[f"good-{number}.mp4"]["verdict"] == "taken" for number in range(NUM_GOOD_VIDEOS))
    check_reasons(lines)
    shards = {f"shard-00000{number}.tar" for number in range(4)}
    assert {path.name for path in out.iterdir()} <= {"dataset.json", "report.jsonl"} | shards


def test_prepare_reports_every_file(
    sandbox: SandboxPool, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    files = [
        path for group in GROUPS for path in media[group] if os.path.lexists(path) and not os.path.isdir(path)
    ]
    lines = prepare_in_sandbox(sandbox, tmp_path / "data", files, seconds=200)
    assert sorted(str(line["file"]) for line in lines) == sorted(map(str, files))
    check_reasons(lines)


def prepare_in_sandbox(
    sandbox: SandboxPool, out: Path, paths: Sequence[Path], seconds: float
) -> list[dict[str, object]]:
    """Prepare videos with two workers, and return the lines of the report after its header."""
    call = SandboxCall(
        "prepare", [str(out), "2", *map(str, paths)], [str(out / "dataset.json")], seconds=seconds
    )
    (outcome,) = sandbox.run([call])
    assert outcome.code == 0, outcome.fault() or outcome.stderr
    return [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()][1:]


def check_reasons(lines: Sequence[dict[str, object]]) -> None:
    """Check that every rejected file has a reason, and that none made the reader crash, hang or fail in an
    unexpected way.
    """
    faults = []
    for line in lines:
        reason = str(line.get("reason", ""))
        if line["verdict"] == "rejected" and len(reason) < 15:
            faults.append(f"{line['file']!r}: {reason!r} says too little")
        if any(word in reason for word in ("crashed", "hung", "examining it failed")):
            faults.append(f"{line['file']!r}: {reason!r}")
    fail_on_faults(faults, len(lines))
