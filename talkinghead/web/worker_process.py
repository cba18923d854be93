"""A worker process as the server sees it."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .protocol import Message, pack_message, receive_message

_LOG_LINE_BYTES = 1 << 16

log = logging.getLogger(__name__)


class WorkerProcess:
    """A process that runs jobs; it is started when it is first needed, and again after it was killed.

    Args:
        name: for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_running(self) -> bool:
        """Return whether there is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process unless it runs."""
        if not self.is_running:
            await self._start([sys.executable, "-m", f"{__package__}.worker"])

    async def _start(self, command: Sequence[str]) -> None:
        # the worker imports the package from where this process does
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the server alone
            limit=_LOG_LINE_BYTES,
        )
        self._messages = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._copy_log(self._process)),
            asyncio.create_task(self._read(self._process, self._messages)),
        ]

    def send(self, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send a message; without a process it is dropped."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(pack_message(fields, payload))

    async def receive(self) -> Message | None:
        """Return the next message, None when the process has ended; it may be cancelled."""
        return await self._messages.get()

    async def kill(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for task in self._tasks:
            task.cancel()

    async def _read(
        self, process: asyncio.subprocess.Process, messages: "asyncio.Queue[Message | None]"
    ) -> None:
        """Queue messages up to the end of the process."""
        message: Message | None = None
        while process.stdout is not None and (message := await receive_message(process.stdout)) is not None:
            messages.put_nowait(message)
        messages.put_nowait(None)

    async def _copy_log(self, process: asyncio.subprocess.Process) -> None:
        """Copy what the process prints to the log, a line at a time."""
        if process.stderr is None:
            return
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # a line of more than the limit
                continue
            if not line:
                return
            log.warning("%s: %s", self._name, line.decode(errors="replace").rstrip())
