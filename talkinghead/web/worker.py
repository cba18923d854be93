"""Worker process: it runs the jobs that the server sends, one at a time, and ends when the server does.

Messages come by stdin and go by stdout; what libraries print goes to stderr.
"""

import logging
import os
import queue
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, BinaryIO

from ..errors import TalkingheadError
from ..media.video import VideoReader  # noqa: F401  imported before the first job, as the tasks need it
from ..system.stage_pipeline import BoundedQueue
from .live_task import LiveFrame, run_live
from .protocol import pack_message, read_message
from .report import JobReport
from .task_resources import TaskResources
from .tasks import TASKS


class Worker:
    """A worker's side of the messages.

    Args:
        source, sink: streams of messages.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._send_lock = threading.Lock()
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self._current: str | None = None
        self._frames: BoundedQueue[LiveFrame] = BoundedQueue(blocking=False)
        self._resources = TaskResources()

    def send(self, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send a message to the server."""
        with self._send_lock:
            self._sink.write(pack_message(fields, payload))
            self._sink.flush()

    def run(self) -> None:
        """Run jobs until the server is gone."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        threading.Thread(target=self._read, name="messages", daemon=True).start()
        while True:
            try:
                self._run_job(self._requests.get())
            except KeyboardInterrupt:  # it came after the end of the job that it was meant for
                self._current = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._current is not None:
            raise KeyboardInterrupt

    def _read(self) -> None:
        """Pass messages on; end the process at once when the server is gone."""
        while (message := read_message(self._source)) is not None:
            fields, payload = message
            if "frame" in fields:
                self._frames.put(LiveFrame(fields["frame"], payload))
            elif "end_live" in fields:
                self._frames.close(discard=True)
            elif "stop" in fields:
                if fields["stop"] == self._current:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                if fields["kind"] == "live":
                    self._frames = BoundedQueue(blocking=False)
                self._requests.put(fields)
        os._exit(0)

    def _run_job(self, request: dict[str, Any]) -> None:
        job = request["job"]
        self._current = job
        report = JobReport(lambda fields, payload=b"": self.send({"job": job, **fields}, payload))
        try:
            with report.warnings():
                result = self._task(request)(request, report)
            outcome: dict[str, Any] = {"result": result}
        except KeyboardInterrupt:
            outcome = {"stopped": True}
        except TalkingheadError as error:
            outcome = {"error": str(error)}
        except Exception:
            number = secrets.token_hex(4)
            print(f"failure {number}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            outcome = {"failure": number}
        self._current = None
        self.send({"job": job, **outcome})

    def _task(self, request: dict[str, Any]) -> Callable[[dict[str, Any], JobReport], Any]:
        if request["kind"] == "live":
            frames = self._frames
            return lambda request, report: run_live(self._resources, request, report, frames)
        task = TASKS[request["kind"]]
        return lambda request, report: task(self._resources, request, report)


def main() -> None:
    """Run a worker on the standard streams."""
    source, sink = open(os.dup(0), "rb"), open(os.dup(1), "wb")  # noqa: SIM115  open to the end
    os.dup2(2, 1)  # prints of libraries must not mix with messages
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    os.umask(0o077)
    Worker(source, sink).run()


if __name__ == "__main__":
    main()
