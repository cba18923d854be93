"""Calls, each in a process of its own: what hangs, crashes or eats all memory is known by name, and the next call is none the worse.

Starting Python with torch takes seconds, so a few servers import everything once and fork a child for each call. Children run under
limits of time, memory and file size. `Crew` is for tests; `serve` is what its servers run.
"""

import gc
import importlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

MEMORY = 6 << 30  # bytes of addresses a child may take beside what it starts with
PEAK = 2 << 30  # bytes that no call on these small files has a reason to hold
LONGEST_LINE = 3000
"""Of an error that may name two paths."""
INCOMPLETE = 70
"""Exit code of a call that ended well and left something that is not whole."""
NO_DISK = 77
"""Exit code where a small disk cannot be mounted."""


@dataclass(frozen=True)
class Call:
    """What a child is to do.

    Attributes:
        verb: "cli", or one of `CALLS`, here or in robustness/fuzz_calls.py.
        arguments: of the command line, or of the call.
        outputs: files and folders that must be whole when it ends well.
        detector: "centre" (`Centre`), or the name of a real one.
        seconds: after which it hangs.
        cpu_seconds: at work after which it is ended; None for no limit.
        file_bytes: the largest file that it may write.
        powerless: give up root's right to open every file.
        notes_on: file names that lines of notes may begin with.
        disk: (folder, bytes) of a disk that is to be mounted there and holds no more.
    """

    verb: str
    arguments: Sequence[str]
    outputs: Sequence[str] = ()
    detector: str = "centre"
    seconds: float = 20.0
    file_bytes: int = 300 << 20
    powerless: bool = False
    notes_on: Sequence[str] = ()
    disk: tuple[str, int] | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    Attributes:
        code: its exit code; minus the signal that ended it; None when it hung.
        printed, told: its standard output and error.
        seconds, worked: how long it took, and of that at work.
        peak: bytes of memory it held.
    """

    call: Call
    code: int | None
    printed: str
    told: str
    seconds: float
    worked: float
    peak: int

    def fault(self) -> str:
        """What is wrong with it, in one line; empty for a good end, or for one line that says what is wrong with the input."""
        lines = self.told.splitlines()
        shown = self.told[-1000:]
        if "Traceback" in self.told:  # where it was raised, and what
            places = [line.strip() for line in lines if line.startswith('  File "')]
            return f"ended with {self.code}: " + " < ".join([lines[-1], *places[:-4:-1]])
        if self.code is None:
            return f"hung for {self.call.seconds:.0f} s, {shown!r}"
        if self.code < 0:
            return f"crashed: {signal.Signals(-self.code).name}, {shown!r}"
        if "Warning: " in self.told or self.code not in (0, 2):
            return f"ended with {self.code}, {shown!r}"
        errors = [line for line in lines if re.match(r"(talkinghead|bench\.\w+): error: ", line)]
        others = [
            line for line in lines[: len(lines) - len(errors)] if not any(line.startswith(f"{name}: ") for name in self.call.notes_on)
        ]
        if len(errors) != (self.code == 2) or lines[len(lines) - len(errors) :] != errors or others:
            return f"ended with {self.code} and told {shown!r}"
        if self.call.verb == "cli" and len(set(lines)) < len(lines):
            return f"told one thing several times: {shown!r}"
        if errors and len(errors[0]) < 40:
            return f"says too little: {shown!r}"
        if errors and len(errors[0]) > LONGEST_LINE:
            return f"says too much, {len(errors[0])} characters: {shown!r}"
        return f"held {self.peak >> 20} MB" if self.peak > PEAK else ""


def leftovers(outcome: Outcome) -> str:
    """What a call left in the folders of its outputs, beside these."""
    expected = {Path(output) for output in outcome.call.outputs} if outcome.code == 0 else set()
    folders = {Path(output).parent for output in outcome.call.outputs}
    odd = {path for folder in folders if folder.is_dir() for path in folder.rglob("*")} - expected
    return f"left {', '.join(sorted(map(str, odd)))}" if odd else ""


class Crew:
    """Servers that run calls. A context manager."""

    def __init__(self, servers: int) -> None:
        root = Path(__file__).resolve().parents[1]
        places = os.pathsep.join(str(root / name) for name in ("", "kernels", "tests", "tests/robustness"))
        settings = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
        self._servers = [
            subprocess.Popen(
                [sys.executable, "-c", "import alone; alone.serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **settings, "OPENBLAS_NUM_THREADS": "1"},
            )
            for _ in range(servers)
        ]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stdin.close()  # type: ignore[union-attr]
            server.wait(timeout=60)

    def run(self, calls: Iterable[Call]) -> list[Outcome]:
        """All calls, in whatever order; outcomes are in theirs."""
        waiting: SimpleQueue[tuple[int, Call]] = SimpleQueue()
        for numbered in enumerate(calls):
            waiting.put(numbered)
        done: dict[int, Outcome] = {}

        def feed(server: subprocess.Popen[str]) -> None:
            while True:
                try:
                    number, call = waiting.get_nowait()
                except Empty:
                    return
                print(json.dumps(asdict(call)), file=server.stdin, flush=True)
                done[number] = Outcome(call, **json.loads(server.stdout.readline()))  # type: ignore[union-attr]

        threads = [threading.Thread(target=feed, args=(server,)) for server in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [done[number] for number in range(len(done))]


class Centre:
    """A detector that finds one face in the middle of every frame, however small the frame is."""

    name = "centre"
    choice_reason = "centre: for tests"

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Any]]:
        return [[self._face(frame)] for frame in frames]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Any]:
        return [self._face(frame) for frame in frames]

    @staticmethod
    def _face(frame: np.ndarray) -> Any:
        from talkinghead.landmarks.face import Face

        height, width = frame.shape[:2]
        return Face((FACE * (0.75 * min(height, width)) + np.array([width / 2, height / 2])).astype(np.float32), 1.0)


def _ring(x: float, y: float, wide: float, high: float, count: int, start: float = 0.0, end: float = 2 * np.pi) -> list[list[float]]:
    angles = np.linspace(start, end, count, endpoint=end - start < 6)
    return [[x + wide * float(np.cos(angle)), y + high * float(np.sin(angle))] for angle in angles]


FACE = np.array(
    [
        *_ring(0, -0.1, -0.45, 0.6, 17, 0, np.pi),  # jaw, from the left of the picture to the right
        *_ring(-0.2, -0.28, -0.15, -0.06, 5, 0.3, np.pi - 0.3),
        *_ring(0.2, -0.28, -0.15, -0.06, 5, 0.3, np.pi - 0.3),
        *[[0, -0.2 + 0.07 * step] for step in range(4)],
        *_ring(0, 0.05, -0.1, 0.04, 5, 0, np.pi),
        *_ring(-0.2, -0.18, -0.08, -0.04, 6),
        *_ring(0.2, -0.18, -0.08, -0.04, 6),
        *_ring(0, 0.25, -0.17, -0.08, 12),
        *_ring(0, 0.25, -0.13, -0.03, 8),
    ]
)
"""68 points of a face 1 high, around its middle."""


# in the servers


def serve() -> None:
    """Run calls from standard input, one JSON line each, until it ends."""
    import av  # noqa: F401
    import PIL.Image
    import skimage.transform  # noqa: F401
    import torch
    import torchmetrics.functional.image  # noqa: F401
    from skimage.data import astronaut

    import talkinghead.cli  # noqa: F401
    from talkinghead.landmarks.dlib_face import face_descriptor

    seen = opened = False

    # what is loaded when it is first used is loaded here, not in every child
    PIL.Image.init()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    gc.collect()
    gc.freeze()  # so that children do not copy what they only look through
    for line in sys.stdin:
        call = Call(**json.loads(line))
        if call.detector != "centre" and not seen:  # its models are large, and every child costs the more
            face_descriptor(astronaut()[:256, 96:352])
            seen = True
        if call.verb == "engine" and not opened:
            for module in ("onnxruntime", "openvino"):
                with suppress(ImportError):
                    importlib.import_module(module)
            opened = True
        print(json.dumps(_fork(call)), flush=True)


def _fork(call: Call) -> dict[str, Any]:
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setsid()
                for number, file in ((0, open(os.devnull)), (1, printed), (2, told)):  # noqa: SIM115
                    os.dup2(file.fileno(), number)
                sys.stdin = open(0)  # noqa: SIM115
                sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8", errors="strict", line_buffering=True)
                code = _child(call)
            except SystemExit as exit:
                code = exit.code if isinstance(exit.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(BaseException):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        status, usage = _waited(child, started + call.seconds)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it may have started
        if status is None:
            _, _, usage = os.wait4(child, 0)
        texts = []
        for file in (printed, told):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    return {
        "code": None if status is None else os.waitstatus_to_exitcode(status),
        "printed": texts[0],
        "told": texts[1],
        "seconds": time.perf_counter() - started,
        "worked": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }


def _waited(child: int, deadline: float) -> tuple[int | None, Any]:
    pause = 0.001
    while time.perf_counter() < deadline:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        time.sleep(pause)
        pause = min(1.3 * pause, 0.01)
    os.kill(child, signal.SIGKILL)
    return None, None


def _child(call: Call) -> int:
    if call.powerless:
        drop_powers()
    if call.disk and not mount_small(*call.disk):
        return NO_DISK
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (call.file_bytes, call.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if call.cpu_seconds is not None:
        limit = round(call.cpu_seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    if call.detector == "centre":
        for name, module in list(sys.modules.items()):
            if name.startswith("talkinghead") and hasattr(module, "open_detector"):
                module.open_detector = lambda *_, **__: Centre()  # type: ignore[attr-defined]
            if name.startswith("talkinghead") and hasattr(module, "face_descriptor"):
                module.face_descriptor = lambda _: None  # type: ignore[attr-defined]
    code = _done(call)
    if call.disk:
        print(json.dumps([str(path) for path in Path(call.disk[0]).rglob("*") if not path.is_dir()]))
    if code == 0:
        for output in call.outputs:
            wrong = _not_whole(Path(output))
            if wrong:
                print(f"{output}: {wrong}", file=sys.stderr)
                return INCOMPLETE
    return code


def _done(call: Call) -> int:
    from talkinghead.errors import TalkingheadError

    if call.verb == "cli":
        from talkinghead.cli import main

        return main(list(call.arguments))
    try:
        if call.verb in CALLS:
            CALLS[call.verb](*call.arguments)
        else:
            importlib.import_module("fuzz_calls").CALLS[call.verb](*call.arguments)
    except TalkingheadError as error:
        print(f"talkinghead: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _not_whole(path: Path) -> str:
    """What is wrong with something written, empty when nothing is."""
    import av
    from PIL import Image

    from talkinghead.errors import TalkingheadError

    if path.is_symlink() or not path.exists():
        return "is not there"
    if path.is_dir():
        from talkinghead.data.shards import read_index

        return "" if all(len(clip.frames(range(len(clip)))) for clip in read_index(path)) else "holds empty clips"
    if path.suffix == ".safetensors":
        from talkinghead import load_person

        try:
            load_person(path, MODEL)
        except TalkingheadError as error:
            return "" if "was made with model" in str(error) else str(error)
    elif path.suffix == ".mp4":
        with av.open(str(path)) as container:
            (stream,) = container.streams.video
            count = sum(1 for _ in container.decode(stream))
            return "" if count == stream.frames > 0 else f"holds {count} of its {stream.frames} frames"
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    return "" if path.stat().st_size else "is empty"


MODEL = os.environ.get("TALKINGHEAD_TEST_MODEL")
"""What persons in tests are made from."""


def _read(path: str) -> None:
    """Both ways to read a picture or video; the outcome is what was promised."""
    from talkinghead import read_clip
    from talkinghead.data.read import read_track
    from talkinghead.errors import TalkingheadError
    from talkinghead.landmarks.detect import open_detector

    try:
        clip = read_clip(path, size=32, limit=200)
    except TalkingheadError:
        clip = None
    else:
        assert clip.frames.shape == (len(clip), 32, 32, 3) and len(clip) and np.isfinite(clip.track.landmarks).all()
        assert np.isfinite(clip.track.fps) and clip.track.fps >= 0
    track = read_track(path, open_detector())
    assert len(track) and np.isfinite(track.landmarks).all() and np.isfinite(track.fps) and track.fps >= 0 and min(track.size) > 0
    if clip is None:
        read_clip(path, size=32, limit=200)


def _load(path: str) -> None:
    """A file as a model and as a person: one of them, or neither."""
    from talkinghead import load_model, load_person
    from talkinghead.errors import TalkingheadError

    try:
        load_model(path)
    except TalkingheadError:
        load_person(path, MODEL)


def _draw(folder: str) -> None:
    """Prepared data, drawn from as training does; all frames of it."""
    from talkinghead.data.episodes import EpisodeSource
    from talkinghead.data.shards import read_index

    for clip in read_index(folder):
        frames = clip.frames(range(len(clip)))
        assert frames.shape == (len(clip), clip.size, clip.size, 3) and np.isfinite(clip.landmarks).all()
    source = EpisodeSource(folder, 32, 2, 4, 2, 0)
    for step in range(3):
        drawn = source.draw(step)
        assert drawn.frames.isfinite().all() and drawn.points.isfinite().all()


def _look(path: str) -> None:
    """What dlib itself makes of the first pictures of a file, and of the file as a whole."""
    from itertools import islice

    from talkinghead.landmarks.dlib_face import DlibDetector, face_descriptor
    from talkinghead.media.pictures import is_picture, read_picture
    from talkinghead.media.video import VideoReader

    detector = DlibDetector()
    shown = [read_picture(Path(path))] if is_picture(Path(path)) else list(islice(VideoReader(path), 3))
    for faces in detector.find(shown):
        for face in faces:
            assert np.isfinite(face.landmarks).all() and 0 <= face.confidence <= 1
    middle = Centre._face(shown[0]).landmarks
    for near in (middle, middle + 1000, middle - 1000, 1000 * middle):
        for face in detector.follow(shown, near):
            assert np.isfinite(face.landmarks).all()
    face_descriptor(shown[0])


def _people(path: str) -> None:
    from talkinghead.cli import read_people

    assert all(isinstance(text, str) for item in read_people(path).items() for text in item)


def _state(path: str) -> None:
    import torch

    from talkinghead.config import AdamConfig
    from talkinghead.training.state import adam, load_state

    network = torch.nn.Linear(20, 20)
    load_state(Path(path), {"net": network}, {"adam": adam([{"params": list(network.parameters())}], AdamConfig(1e-3))})


def _prepare(out: str, workers: str, *videos: str) -> None:
    from talkinghead.corpus.prepare import prepare

    prepare(videos, out, size=32, detector=Centre(), workers=int(workers))


CALLS: dict[str, Callable[..., None]] = {
    "read": _read,
    "load": _load,
    "draw": _draw,
    "look": _look,
    "people": _people,
    "state": _state,
    "prepare": _prepare,
}


def mount_small(folder: str, size: int) -> bool:
    """Mount a disk of so many bytes that only this process sees; False where that is not allowed."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_user, private = 0x20000, 0x10000000, 1 << 18 | 16384
    if libc.unshare(new_mounts | (new_user if os.getuid() else 0)) or libc.mount(b"none", b"/", None, private, None):
        return False
    return not libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size)


def drop_powers() -> None:
    """Let file modes bind root as they bind everybody: give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH. Nothing for other users."""
    import ctypes

    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held):
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1, 2):  # effective, permitted, inheritable
        held[place] &= ~0b110
    if libc.capset(header, held):
        raise OSError(ctypes.get_errno(), "capset")
