"""Calls, each in a process of its own, so that a hang, a crash or a lack of memory ends only the call that
caused it.

Starting Python with torch takes seconds, so a few servers (`sandbox_server.serve`) import everything once
and fork a child for each call. Children run under limits of time, memory and file size.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

MAX_PEAK_BYTES = 2 << 30
"""Memory that no call on these small files has a reason to exceed."""
MIN_ERROR_CHARACTERS = 40
MAX_ERROR_CHARACTERS = 3000
"""Length of an error that may name two paths."""
SUCCESS = 0
USER_ERROR = 2
INVALID_OUTPUT = 70
"""Exit code of a call that succeeded but left an invalid output."""
NO_DISK = 77
"""Exit code where a small disk cannot be mounted."""


@dataclass(frozen=True)
class SandboxCall:
    """Call for a child process.

    Attributes:
        command: "cli", or one of `CALLS` in sandbox_calls.py or in robustness/fuzz_calls.py.
        arguments: arguments of the command line, or of the call.
        outputs: files and folders that must be valid after success.
        detector: "centre" (`CentreDetector`), or the name of a real one.
        seconds: wall-clock time after which the call counts as hung.
        cpu_seconds: processor time after which the call is killed; None for no limit.
        file_bytes: size of the largest file that the call may write.
        drop_privileges: give up root's right to open every file.
        note_prefixes: file names that may start lines of notes on standard error.
        disk: (folder, bytes): mount a disk of that capacity at the folder.
    """

    command: str
    arguments: Sequence[str]
    outputs: Sequence[str] = ()
    detector: str = "centre"
    seconds: float = 20.0
    cpu_seconds: float | None = None
    file_bytes: int = 300 << 20
    drop_privileges: bool = False
    note_prefixes: Sequence[str] = ()
    disk: tuple[str, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a call.

    Attributes:
        code: exit code; minus the signal that killed the call; None when it hung.
        stdout, stderr: what it wrote there.
        cpu_seconds: processor time.
        peak_bytes: largest resident memory.
    """

    call: SandboxCall
    code: int | None
    stdout: str
    stderr: str
    cpu_seconds: float
    peak_bytes: int

    def fault(self) -> str:
        """Return the problem in one line; empty after success, or after one error line about the input."""
        return self._crash() or self._bad_messages() or self._excess_memory()

    def _crash(self) -> str:
        end_of_errors = repr(self.stderr[-1000:])
        if "Traceback" in self.stderr:
            lines = self.stderr.splitlines()
            places = [line.strip() for line in lines if line.startswith('  File "')]
            return f"ended with {self.code}: " + " < ".join([lines[-1], *places[:-4:-1]])
        if self.code is None:
            return f"hung for {self.call.seconds:.0f} s, {end_of_errors}"
        if self.code < 0:
            return f"crashed: {signal.Signals(-self.code).name}, {end_of_errors}"
        if "Warning: " in self.stderr or self.code not in (SUCCESS, USER_ERROR):
            return f"ended with {self.code}, {end_of_errors}"
        return ""

    def _bad_messages(self) -> str:
        lines = self.stderr.splitlines()
        end_of_errors = repr(self.stderr[-1000:])
        errors = [line for line in lines if re.match(r"(talkinghead|bench[.\w]*): error: ", line)]
        notes, last_lines = lines[: len(lines) - len(errors)], lines[len(lines) - len(errors) :]
        prefixes = tuple(f"{name}: " for name in self.call.note_prefixes)
        expected_errors = int(self.code == USER_ERROR)
        if (
            len(errors) != expected_errors
            or last_lines != errors
            or not all(note.startswith(prefixes) for note in notes)
        ):
            return f"ended with {self.code} and wrote {end_of_errors}"
        if self.call.command == "cli" and len(set(lines)) < len(lines):
            return f"wrote a line several times: {end_of_errors}"
        if errors and len(errors[0]) < MIN_ERROR_CHARACTERS:
            return f"says too little: {end_of_errors}"
        if errors and len(errors[0]) > MAX_ERROR_CHARACTERS:
            return f"says too much, {len(errors[0])} characters: {end_of_errors}"
        return ""

    def _excess_memory(self) -> str:
        return f"held {self.peak_bytes >> 20} MB" if self.peak_bytes > MAX_PEAK_BYTES else ""


def leftovers(outcome: Outcome) -> str:
    """Return which other files a call left in the folders of its outputs, empty for none."""
    expected = {Path(output) for output in outcome.call.outputs} if outcome.code == SUCCESS else set()
    folders = {Path(output).parent for output in outcome.call.outputs}
    unexpected = {path for folder in folders if folder.is_dir() for path in folder.rglob("*")} - expected
    return f"left {', '.join(sorted(map(str, unexpected)))}" if unexpected else ""


class SandboxPool:
    """Servers that run calls. A context manager."""

    def __init__(self, servers: int) -> None:
        root = Path(__file__).resolve().parents[2]
        folders = [str(root / name) for name in ("", "kernels", "tests", "tests/robustness")]
        paths = [*folders, *filter(None, [os.environ.get("PYTHONPATH")])]  # dlib's models may be there
        settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._servers = [
            subprocess.Popen(
                [sys.executable, "-c", "from support.sandbox_server import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **settings},
            )
            for _ in range(servers)
        ]

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stdin.close()  # type: ignore[union-attr]
            server.wait(timeout=60)

    def run(self, calls: Iterable[SandboxCall]) -> list[Outcome]:
        """Run all calls in any order, and return their outcomes in the order of the calls."""
        waiting: SimpleQueue[tuple[int, SandboxCall]] = SimpleQueue()
        for numbered in enumerate(calls):
            waiting.put(numbered)
        outcomes: dict[int, Outcome] = {}

        def feed(server: subprocess.Popen[str]) -> None:
            while True:
                try:
                    number, call = waiting.get_nowait()
                except Empty:
                    return
                print(json.dumps(asdict(call)), file=server.stdin, flush=True)
                reply = json.loads(server.stdout.readline())  # type: ignore[union-attr]
                outcomes[number] = Outcome(call, **reply)

        threads = [threading.Thread(target=feed, args=(server,)) for server in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [outcomes[number] for number in range(len(outcomes))]
