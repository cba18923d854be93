"""Preparing on a Ray cluster: the bytes of a run of one machine, also when a node is lost."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import RedSquare
from support import ray_runs
from support.dataset_helpers import agree, contents, draw_videos, lines
from support.faulty_detectors import Failing
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare

LIMIT_S = 240
VIDEOS = 6
MARKER = "TALKINGHEAD_TEST_RAY_RUN"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="ray is not installed: pip install 'talkinghead[cluster]'",
    ),
]


def marked_processes(value: str) -> list[int]:
    """Return the processes that were started with the marker of a run, but for zombies."""
    marker, pids = f"{MARKER}={value}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


def wait_for_end(value: str, seconds: float) -> list[int]:
    """Return the processes of a run that have not ended after so many seconds."""
    end = time.monotonic() + seconds
    while (pids := marked_processes(value)) and time.monotonic() < end:
        time.sleep(0.1)
    return pids


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Prepare videos locally and on a cluster; return the folder, and what ray_runs.py wrote."""
    folder, value = tmp_path_factory.mktemp("ray"), uuid.uuid4().hex
    videos = draw_videos(folder / "videos", VIDEOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_CLIPS", 2)
        prepare(videos, folder / "local", 16, RedSquare(), workers=1)
        prepare(videos[: ray_runs.FAILING_VIDEOS], folder / "local failing", 16, Failing(), workers=1)
    # sockets lie in it, whose paths must be short
    session = tempfile.mkdtemp(prefix="th-", dir="/tmp")
    environment = {
        **os.environ,
        MARKER: value,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TALKINGHEAD_TEST_RAY": session,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        process = subprocess.run(
            [sys.executable, ray_runs.__file__, folder],
            env=environment,
            timeout=LIMIT_S,
            check=False,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        left = wait_for_end(value, 20)
        yield folder, {**json.loads((folder / "runs.json").read_text()), "processes": left}
    finally:
        for pid in marked_processes(value):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(session, ignore_errors=True)


def test_node_that_is_killed_does_not_change_bytes(run: tuple[Path, dict[str, Any]]) -> None:
    folder, runs = run
    assert contents(folder / "killed") == contents(folder / "local")
    agree(folder / "killed")
    assert runs["killed"]["workers"] == 2 and runs["disconnected"]
    assert not Path("/proc", str(runs["killed"]["pid"])).exists()


def test_videos_that_crash_have_reasons_of_local_run(run: tuple[Path, dict[str, Any]]) -> None:
    folder, runs = run
    assert runs["connected"]
    assert contents(folder / "failing") == contents(folder / "local failing")
    reasons = [line.get("reason") for line in lines(folder / "failing")]
    assert reasons == [None, "its reader crashed (signal 11)", None, "its reader crashed (exit code 3)"]


def test_nodes_that_do_not_fit_report_user_error(run: tuple[Path, dict[str, Any]]) -> None:
    folder, runs = run
    assert runs["version"].startswith("ray: node ")
    assert runs["version"].endswith(", expected 0.0.1 as here; install the same version on all nodes")
    assert f"cannot see {folder}/unseen; name an output in a folder that all nodes share" in runs["folder"]
    assert not {"other", "unseen"} & set(runs["left"])


def test_cluster_leaves_no_process(run: tuple[Path, dict[str, Any]]) -> None:
    assert run[1]["processes"] == []
