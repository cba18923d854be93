"""The WebSocket of an open page: its session's state, and live driving both ways."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from ..constants import RETARGET
from ..errors import TalkingheadError
from .actions import choice, person_file
from .aiohttp_module import aio_web, socket_types
from .live_pool import LatestItem, LivePool, LiveRun
from .security import RefusedRequest
from .sessions import Session
from .settings import ServerSettings

_MAX_MESSAGE_BYTES = 512 << 10  # a camera's frame of 640x480 has some 100 kB
_HEARTBEAT_S = 20.0
_MIN_INTERVAL_S = 0.12  # between two messages of the state


class PageSocket:
    """One open page.

    Args:
        settings: of the server.
        pool: of workers for live driving.
        session: whose page it is.
    """

    def __init__(self, settings: ServerSettings, pool: LivePool, session: Session) -> None:
        self._settings, self._pool, self._session = settings, pool, session
        self._output = LatestItem()
        self._live: LiveRun | None = None
        self._live_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, request: Any) -> Any:
        """Serve the socket until the page is closed.

        Raises:
            RefusedRequest: the session has too many open pages.
        """
        if len(self._session.changed) >= self._settings.limits.sockets:
            raise RefusedRequest(429, "page: it is open too often; close some of its tabs")
        socket = aio_web().WebSocketResponse(max_msg_size=_MAX_MESSAGE_BYTES, heartbeat=_HEARTBEAT_S)
        await socket.prepare(request)
        changed = asyncio.Event()
        changed.set()
        self._session.changed.add(changed)
        senders = [
            asyncio.create_task(self._send_state(socket, changed)),
            asyncio.create_task(self._send_output(socket)),
        ]
        try:
            types = socket_types()
            async for message in socket:
                if message.type == types.BINARY and self._live is not None:
                    self._live.offer(message.data)
                elif message.type == types.TEXT:
                    await self._on_text(message.data)
        finally:
            self._session.changed.discard(changed)
            await self._stop_live()
            for task in [*senders, *self._tasks]:
                task.cancel()
        return socket

    async def _on_text(self, text: str) -> None:
        """Do what the page asks for."""
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            self._output.put({"live": {"state": "failed", "error": "message: cannot be understood"}})
            return
        if "prepare_live" in fields:
            task = asyncio.create_task(self._pool.prepare())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif "stop_live" in fields:
            await self._stop_live()
            self._output.put({"live": {"state": "stopped"}})
        elif isinstance(fields.get("live"), dict):
            await self._stop_live()
            self._live_task = asyncio.create_task(self._run_live(fields["live"]))

    async def _run_live(self, fields: dict[str, Any]) -> None:
        """Drive a person live and tell the page how it ends."""
        try:
            if fields.get("consent") is not True:
                raise TalkingheadError("consent: is missing; tick the line above the camera first")
            request = {
                "person": person_file(self._session, fields.get("person")),
                "retarget": choice(fields, "retarget", RETARGET, "auto"),
                "mirror": fields.get("mirror") is True,
                "landmarks": self._settings.landmarks,
                "device": self._settings.device,
            }
            self._live = LiveRun(self._pool, request, self._output)
            ending = {"state": "stopped", "note": await self._live.run()}
        except TalkingheadError as error:
            ending = {"state": "failed", "error": self._session.hide_paths(str(error))}
        self._live = None
        self._output.put({"live": ending})

    async def _stop_live(self) -> None:
        task, self._live_task, self._live = self._live_task, None, None
        if task is not None and not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _send_state(self, socket: Any, changed: asyncio.Event) -> None:
        """Send the state whenever it has changed, some times a second."""
        with suppress(ConnectionError):
            while True:
                await changed.wait()
                changed.clear()
                await socket.send_json({"state": public_state(self._session)})
                await asyncio.sleep(_MIN_INTERVAL_S)

    async def _send_output(self, socket: Any) -> None:
        """Send frames and messages of live driving; a slow page gets the newest frame only."""
        with suppress(ConnectionError):
            while True:
                item = await self._output.get()
                if isinstance(item, bytes):
                    await socket.send_bytes(item)
                else:
                    await socket.send_json(item)


def public_state(session: Session) -> dict[str, Any]:
    """Return what a page shows of its session."""
    kinds = ("pictures", "drivers", "persons", "results", "engines", "jobs")
    return {kind: session.entries(kind) for kind in kinds} | {"named": session.state["named"]}
