"""People who are driven live: a worker process for each, with at most two frames on their way."""

import asyncio
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import TalkingheadError
from .worker_process import WorkerProcess

FRAME_HEADER = struct.Struct(">IB")
"""Header of a JPEG to the page: the number of the camera's frame, and whether a face was seen in it."""
CAMERA_HEADER = struct.Struct(">I")
"""Header of a JPEG from the page: the number of the frame."""
_MAX_IN_FLIGHT = 2  # frames that a worker has and has not answered
_MAX_SILENCE_S = 60.0  # without a frame from the page, after which live driving ends


class LatestItem:
    """A place for one item, in which a newer one replaces an older one."""

    def __init__(self) -> None:
        self._item: Any = None
        self._changed = asyncio.Event()

    def put(self, item: Any) -> None:
        """Put an item in place of the one that waits."""
        self._item = item
        self._changed.set()

    async def get(self) -> Any:
        """Wait for an item, and remove it."""
        await self._changed.wait()
        self._changed.clear()
        item, self._item = self._item, None
        return item


class LivePool:
    """Worker processes of live driving; one that is ready waits for the next person.

    Args:
        most: people at a time.
        warm_up: fields of a job that loads what live driving needs.
    """

    def __init__(self, most: int, warm_up: Mapping[str, Any]) -> None:
        self._most, self._warm_up = most, dict(warm_up)
        self._spare: WorkerProcess | None = None
        self._busy: set[WorkerProcess] = set()
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Start a worker ahead of its use."""
        async with self._lock:
            if self._spare is None and len(self._busy) < self._most:
                self._spare = await self._start()

    async def acquire(self) -> WorkerProcess:
        """Return a worker for one person.

        Raises:
            TalkingheadError: all are in use.
        """
        async with self._lock:
            if len(self._busy) >= self._most:
                raise TalkingheadError("live: others use it now; try again when one of them has stopped")
            worker, self._spare = self._spare, None
            if worker is None or not worker.is_running:
                worker = await self._start()
            self._busy.add(worker)
            return worker

    async def release(self, worker: WorkerProcess, reusable: bool) -> None:
        """Take a worker back."""
        self._busy.discard(worker)
        if reusable and self._spare is None and worker.is_running:
            self._spare = worker
        else:
            await worker.kill()

    async def close(self) -> None:
        """End all workers."""
        for worker in [*self._busy, *([self._spare] if self._spare else [])]:
            await worker.kill()

    async def _start(self) -> WorkerProcess:
        worker = WorkerProcess("worker live")
        await worker.start()
        worker.send({"job": "warm-up", "kind": "warm-up", **self._warm_up})
        return worker


class LiveRun:
    """Live driving of one person for one open page.

    Args:
        pool: of the workers.
        request: fields for the worker.
        output: takes (header and JPEG) as bytes, and dicts of what to tell the page.
    """

    def __init__(self, pool: LivePool, request: Mapping[str, Any], output: LatestItem) -> None:
        self._pool, self._request, self._output = pool, {**request, "job": "live", "kind": "live"}, output
        self._newest = LatestItem()
        self._in_flight: list[int] = []
        self._answered = asyncio.Event()

    def offer(self, data: bytes) -> None:
        """Take a message of the page: the newest frame."""
        if len(data) > CAMERA_HEADER.size:
            self._newest.put(data)

    async def run(self) -> str:
        """Run until cancelled, or until the page is silent; return why it ended.

        Raises:
            TalkingheadError: it cannot start, or the worker has ended with an error.
        """
        worker = await self._pool.acquire()
        is_reusable = False
        forward = asyncio.create_task(self._forward(worker))
        backward = asyncio.create_task(self._backward(worker))
        try:
            worker.send(self._request)
            done, _ = await asyncio.wait((forward, backward), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            is_reusable = forward in done and await self._end(worker, backward)
            return "live driving has ended, for no picture came from the camera"
        except asyncio.CancelledError:
            is_reusable = await self._end(worker, backward)
            raise
        finally:
            forward.cancel()
            backward.cancel()
            await self._pool.release(worker, is_reusable)

    async def _end(self, worker: WorkerProcess, backward: "asyncio.Task[None]") -> bool:
        """Let a worker end its job; return whether it did."""
        worker.send({"end_live": True})
        with suppress(asyncio.TimeoutError, TalkingheadError):
            await asyncio.wait_for(backward, 3.0)
            return True
        return False

    async def _forward(self, worker: WorkerProcess) -> None:
        """Send the newest frame whenever the worker has room for one; return when the page is silent."""
        while True:
            while len(self._in_flight) >= _MAX_IN_FLIGHT:
                self._answered.clear()
                await self._answered.wait()
            try:
                data = await asyncio.wait_for(self._newest.get(), _MAX_SILENCE_S)
            except asyncio.TimeoutError:
                return
            (number,) = CAMERA_HEADER.unpack_from(data)
            self._in_flight.append(number)
            worker.send({"frame": number}, data[CAMERA_HEADER.size :])

    async def _backward(self, worker: WorkerProcess) -> None:
        """Pass frames of the worker on until its job ends.

        Raises:
            TalkingheadError: the job or the worker ended with an error.
        """
        while (message := await worker.receive()) is not None:
            fields, payload = message
            if fields.get("job") != "live":
                continue
            if "frame" in fields:
                # a worker drops frames that newer ones overtake
                number = fields["frame"]
                self._in_flight = [waiting for waiting in self._in_flight if waiting > number]
                self._answered.set()
                self._output.put(FRAME_HEADER.pack(number, fields["seen"]) + payload)
            elif "ready" in fields:
                self._output.put({"live": {"state": "ready", "size": fields["size"]}})
            elif "error" in fields:
                raise TalkingheadError(fields["error"])
            elif "failure" in fields:
                raise TalkingheadError(
                    f"live: something went wrong; the server's log has more under {fields['failure']}"
                )
            elif "result" in fields or "stopped" in fields:
                return
        raise TalkingheadError("live: the process that draws has ended; start again")
