"""Receiving of uploads: the body of a request, straight to a private file, within limits of size and time."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

from .security import RefusedRequest
from .sessions import Session, SessionStore
from .settings import Limits

_MAX_UPLOADS = 4  # of one session at a time


class Receiver:
    """Receiver of uploads.

    Args:
        store: of the sessions, whose space is limited.
        limits: of size and time.
    """

    def __init__(self, store: SessionStore, limits: Limits) -> None:
        self._store, self._limits = store, limits
        self._active: dict[Session, int] = {}

    async def receive(self, request: Any, session: Session) -> Path:
        """Write the body of a request to a new file of the session and return the file.

        Raises:
            RefusedRequest: it is empty, too large or too slow, or too many come at a time.
            TalkingheadError: there is no space.
        """
        length = request.content_length
        if length is not None and length > self._limits.upload_bytes:
            raise self._too_large()
        self._store.check_space(session, self._limits.upload_bytes if length is None else length)
        if self._active.get(session, 0) >= _MAX_UPLOADS:
            raise RefusedRequest(429, "upload: too many at a time; wait until the others are here")
        self._active[session] = self._active.get(session, 0) + 1
        path = session.folder / f"{secrets.token_hex(8)}.part"
        try:
            await self._write_body(request, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            self._active[session] -= 1
            if not self._active[session]:
                del self._active[session]
        return path

    async def _write_body(self, request: Any, path: Path) -> None:
        limits, size, start = self._limits, 0, time.monotonic()
        with path.open("xb") as file:
            path.chmod(0o600)
            while True:
                try:
                    chunk = await asyncio.wait_for(request.content.readany(), limits.chunk_timeout_s)
                except asyncio.TimeoutError:
                    raise self._too_slow() from None
                if not chunk:
                    break
                size += len(chunk)
                if size > limits.upload_bytes:
                    raise self._too_large()
                seconds = time.monotonic() - start
                if seconds > limits.upload_grace_s and size < seconds * limits.min_upload_rate:
                    raise self._too_slow()
                file.write(chunk)
        if not size:
            raise RefusedRequest(400, "upload: is empty; choose another file")

    def _too_large(self) -> RefusedRequest:
        megabytes = self._limits.upload_bytes / (1 << 20)
        return RefusedRequest(
            413, f"upload: is larger than {megabytes:.4g} MB, the most; choose a smaller file"
        )

    def _too_slow(self) -> RefusedRequest:
        return RefusedRequest(408, "upload: came too slowly and was given up; try again with a better line")
