"""The bytes of a data set are the same however it came to be: by several workers, or cut short by a kill, Ctrl-C or a full disk."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from data_sets import agree, contents, draw_corpus

from conftest import RedSquare
from talkinghead.corpus import book
from talkinghead.corpus.prepare import prepare
from talkinghead.corpus.shard_writer import ShardWriter
from talkinghead.data.shards import read_index
from talkinghead.errors import TalkingheadError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "SHARD_CLIPS", 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_corpus(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of these videos, made without an interruption by one worker, two clips a shard."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "SHARD_CLIPS", 2)
        report = prepare([videos], out, 16, RedSquare(), workers=1)
    assert [path.name for path in report.taken] == ["0.mp4", "1.mp4", "3.mp4", "5.mp4", "7.mp4", "8.mp4"]
    return out


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, videos: Path, prepared: Path) -> None:
    report = prepare([videos], tmp_path / "data", 16, RedSquare(), workers=2)
    assert report.cost.workers == 2
    assert contents(tmp_path / "data") == contents(prepared)
    agree(tmp_path / "data")


KILLED = """
import json, multiprocessing.forkserver, os, sys
from pathlib import Path
from conftest import RedSquare
from talkinghead.corpus import book, shard_writer, workers
from talkinghead.corpus.prepare import prepare

book.SHARD_CLIPS = 2
workers._context()
multiprocessing.forkserver.ensure_running()  # one for all, which is not the child of those that fork below
os.waitpid = lambda *given: (0, 0)
videos, out = Path(sys.argv[1]), Path(sys.argv[2])


def die(*given):
    os.kill(os.getpid(), 9)


def after(module, name, calls):
    real = getattr(module, name)

    def dying(*given):
        nonlocal calls
        calls -= 1
        result = real(*given)
        return die() if calls == 0 else result

    setattr(module, name, dying)


def half(source, target, size):
    target.write(source.read(700))
    target.flush()
    die()


def in_a_line(path, lines):
    with open(path, "ab") as file:
        file.write(json.dumps(list(lines)[0]).encode()[:20])
    die()


points = {
    "clips half taken": lambda: setattr(shard_writer.shutil, "copyfileobj", half),
    "first line half written": lambda: setattr(book, "_append", in_a_line),
    "report before its shard": lambda: after(book, "_append", 1),
    "report before its second shard": lambda: after(book, "_append", 3),
    "second shard": lambda: after(book.ShardWriter, "finish", 3),
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
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, text=True, **settings)


def all_end(group: int) -> bool:
    """Whether all processes of a group end within some seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path: Path, videos: Path, prepared: Path) -> None:
    with run(KILLED, videos, tmp_path, start_new_session=True) as process:
        assert process.wait() == 0
    assert all_end(process.pid), "a worker outlived what it worked for"
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
from odd_detectors import Slow
from talkinghead.corpus import book
from talkinghead.corpus.prepare import prepare
from talkinghead.interrupt import signals_as_interrupts

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell inherits another
    book.SHARD_CLIPS = 2
    try:
        with signals_as_interrupts():
            prepare([sys.argv[1]], sys.argv[2], 16, Slow(), workers=2)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_ends_everything_at_once(kind: int, tmp_path: Path, videos: Path, prepared: Path) -> None:
    out = tmp_path / "data"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with run(INTERRUPTED, videos, out, **pipes) as process:
        while process.poll() is None and not (out / "shard-000000.tar").exists():
            time.sleep(0.01)
        os.killpg(process.pid, kind)  # as a terminal does
        sent = time.monotonic()
        said, complained = process.communicate()
    assert (process.returncode, said, complained) == (0, "interrupted\n", "")
    assert time.monotonic() - sent < 10
    agree(out)
    assert all_end(process.pid)
    prepare([videos], out, 16, RedSquare(), workers=1)
    assert contents(out) == contents(prepared)


@pytest.mark.parametrize("call", ["take", "finish"])
def test_a_disk_that_gets_full_leaves_whole_shards(
    tmp_path: Path, videos: Path, prepared: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(ShardWriter, call), 0

    def filling(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > {"take": 3, "finish": 2}[call]:
            given[0]._file().write(b"half a picture")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, call, filling)
        with pytest.raises(TalkingheadError, match=f"^{tmp_path}/data: cannot be written to .No space left on device.; free some space"):
            prepare([videos], tmp_path / "data", 16, RedSquare(), workers=1)
    agree(tmp_path / "data")
    assert [clip.info.name for clip in read_index(tmp_path / "data")] == ["0.mp4", "1.mp4"]
    prepare([videos], tmp_path / "data", 16, RedSquare(), workers=1)
    assert contents(tmp_path / "data") == contents(prepared)
