"""The bytes of a data set are the same however it came to be: by several workers, or cut short by a kill,
Ctrl-C or a full disk.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import RedSquare
from support.dataset_helpers import agree, contents, draw_corpus
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.shard_reader import read_index
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_CLIPS", 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_corpus(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the videos without an interruption, with one worker and two clips a shard."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_CLIPS", 2)
        report = prepare([videos], out, 16, RedSquare(), workers=1)
    assert [path.name for path in report.added] == ["0.mp4", "1.mp4", "3.mp4", "5.mp4", "7.mp4", "8.mp4"]
    return out


def test_worker_count_does_not_change_bytes(tmp_path: Path, videos: Path, prepared: Path) -> None:
    report = prepare([videos], tmp_path / "data", 16, RedSquare(), workers=2)
    assert report.cost.workers == 2
    assert contents(tmp_path / "data") == contents(prepared)
    agree(tmp_path / "data")


KILLED = """
import json, multiprocessing.forkserver, os, sys
from pathlib import Path
from conftest import RedSquare
from talkinghead.dataset import shard_writer, writer
from talkinghead.dataset.prepare import prepare
from talkinghead.system import process_pool

writer.SHARD_CLIPS = 2
process_pool._context()
multiprocessing.forkserver.ensure_running()  # one for all, which is not the child of those that fork below
os.waitpid = lambda *arguments: (0, 0)
videos, out = Path(sys.argv[1]), Path(sys.argv[2])


def kill_process(*arguments):
    os.kill(os.getpid(), 9)


def kill_after(module, name, calls):
    real = getattr(module, name)

    def kill_after_call(*arguments):
        nonlocal calls
        calls -= 1
        result = real(*arguments)
        return kill_process() if calls == 0 else result

    setattr(module, name, kill_after_call)


def write_half(source, target, size):
    target.write(source.read(700))
    target.flush()
    kill_process()


def write_part_of_line(path, lines):
    with open(path, "ab") as file:
        file.write(json.dumps(list(lines)[0]).encode()[:20])
    kill_process()


points = {
    "clips half taken": lambda: setattr(shard_writer.shutil, "copyfileobj", write_half),
    "first line half written": lambda: setattr(writer, "_append", write_part_of_line),
    "report before its shard": lambda: kill_after(writer, "_append", 1),
    "report before its second shard": lambda: kill_after(writer, "_append", 3),
    "second shard": lambda: kill_after(writer.ShardWriter, "finish", 3),
}
for point in points:
    if not os.fork():
        points[point]()
        prepare([videos], out / point, 16, RedSquare(), workers=1)
        os._exit(1)
for _ in points:
    assert os.wait()[1] == 9, "it ended before it could be killed"
"""


def run(code: str, *arguments: Any, **settings: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, text=True, **settings
    )


def processes_end(group: int) -> bool:
    """Return whether all processes of a group end within five seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_killed_run_resumes_with_same_bytes(tmp_path: Path, videos: Path, prepared: Path) -> None:
    with run(KILLED, videos, tmp_path, start_new_session=True) as process:
        assert process.wait() == 0
    assert processes_end(process.pid), "a worker outlived what it worked for"
    outs = sorted(path for path in tmp_path.iterdir())
    left = {out.name: len(list(out.glob("shard-*.tar"))) for out in outs}
    assert left == {
        "clips half taken": 0,
        "first line half written": 0,
        "report before its second shard": 1,
        "report before its shard": 0,
        "second shard": 2,
    }
    for out in outs:
        assert (out / ".prepare").is_dir()
        prepare([videos], out, 16, RedSquare(), workers=1)
        assert contents(out) == contents(prepared), out.name


INTERRUPTED = """
import signal, sys
from support.faulty_detectors import Slow
from talkinghead.dataset import writer
from talkinghead.dataset.prepare import prepare
from talkinghead.system.signals import signals_as_interrupts

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    writer.SHARD_CLIPS = 2
    try:
        with signals_as_interrupts():
            prepare([sys.argv[1]], sys.argv[2], 16, Slow(), workers=2)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_ends_all_processes(kind: int, tmp_path: Path, videos: Path, prepared: Path) -> None:
    out = tmp_path / "data"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with run(INTERRUPTED, videos, out, **pipes) as process:
        while process.poll() is None and not (out / "shard-000000.tar").exists():
            time.sleep(0.01)
        os.killpg(process.pid, kind)  # as a terminal does
        sent = time.monotonic()
        printed, complained = process.communicate()
    assert (process.returncode, printed, complained) == (0, "interrupted\n", "")
    assert time.monotonic() - sent < 10
    agree(out)
    assert processes_end(process.pid)
    prepare([videos], out, 16, RedSquare(), workers=1)
    assert contents(out) == contents(prepared)


@pytest.mark.parametrize("call", ["append_archive", "finish"])
def test_full_disk_leaves_complete_shards(
    tmp_path: Path, videos: Path, prepared: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(ShardWriter, call), 0

    def filling(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > {"append_archive": 3, "finish": 2}[call]:
            arguments[0]._file().write(b"half a picture")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, call, filling)
        with pytest.raises(
            TalkingheadError,
            match=f"^{tmp_path}/data: cannot be written to .No space left on device.; free some space",
        ):
            prepare([videos], tmp_path / "data", 16, RedSquare(), workers=1)
    agree(tmp_path / "data")
    assert [clip.info.name for clip in read_index(tmp_path / "data")] == ["0.mp4", "1.mp4"]
    prepare([videos], tmp_path / "data", 16, RedSquare(), workers=1)
    assert contents(tmp_path / "data") == contents(prepared)
