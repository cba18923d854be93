"""Servers of the page in processes of their own, and a client that does what the page does."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
WAIT_S = 240.0
"""Seconds after which a server or a job counts as hung, on a machine that does much else."""
_POLL_S = 0.1


class WebServer:
    """A server in a process of its own.

    Attributes:
        folder: of its sessions.
        log: the file of its log.
        url: its address, without a token.
        process: its process.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.log = folder.with_suffix(".log")
        self.start()

    def start(self, port: int = 0) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "talkinghead", "web", "--port", str(port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--folder", str(self.folder), *self.options],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=dict(os.environ, OMP_NUM_THREADS="1"),
            )
        assert self.process.stdout is not None
        address = None
        while address is None:
            line = self.process.stdout.readline()
            assert line, f"the server has ended: {self.log.read_text()[-2000:]}"
            address = re.search(r"open (http://[^/ ]+)", line)
        self.url = address[1]

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.process.kill()
        self.process.wait(START_S)

    def stop(self) -> int:
        """End the process as Ctrl-C does, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(START_S)

    def restart(self) -> None:
        """Start it again after it has ended, at the same address."""
        self.start(int(self.url.rpartition(":")[2]))


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[WebServer]:
    """Run a server for the duration of a block."""
    server = WebServer(folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class PageClient:
    """A client that does what the page does; use as an asynchronous context manager.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> "PageClient":
        self.http = aiohttp.ClientSession(
            self.url, headers={"Origin": self.url}, cookie_jar=aiohttp.CookieJar(unsafe=True)
        )
        await self.post("/api/session")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def post(self, path: str, status: int = 200, **fields: Any) -> Any:
        """Post fields and return the answer, whose status must be as expected."""
        async with self.http.post(path, json=fields) as response:
            body = await response.json()
            assert response.status == status, body
            return body

    async def delete(self, path: str, status: int = 200) -> Any:
        """Delete something and return the answer, whose status must be as expected."""
        async with self.http.delete(path) as response:
            body = await response.json()
            assert response.status == status, body
            return body

    async def get_bytes(self, path: str, status: int = 200) -> bytes:
        """Return the content of an address, whose status must be as expected."""
        async with self.http.get(path) as response:
            assert response.status == status, await response.text()
            return await response.read()

    async def upload(
        self, role: str, content: bytes, name: str = "a file", status: int = 200
    ) -> dict[str, Any]:
        """Upload a file and return its entry, or the error."""
        async with self.http.post(f"/api/upload/{role}", params={"name": name}, data=content) as response:
            body = await response.json()
            assert response.status == status, body
            return body

    async def state(self) -> dict[str, Any]:
        """Return the state of the session."""
        async with self.http.get("/api/state") as response:
            return (await response.json())["state"]

    async def wait(self, kind: str, entry: Mapping[str, Any], *states: str) -> dict[str, Any]:
        """Wait until an entry is in one of some states (by default, until it has ended), and return it."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for current in (await self.state())[kind]:
                if current["id"] == entry["id"] and current["state"] in (
                    states or ("done", "failed", "stopped")
                ):
                    return current
            await asyncio.sleep(_POLL_S)
        raise AssertionError(f"{entry} has not ended")

    async def add(self, role: str, content: bytes, name: str = "a file") -> dict[str, Any]:
        """Upload a file and return its entry after it was examined."""
        return await self.wait(role, await self.upload(role, content, name))

    async def learn(self, **fields: Any) -> dict[str, Any]:
        """Learn a person at once with model `tiny`, and return it."""
        job = await self.post("/api/learn", **{"model": "tiny", "quality": "at-once", **fields})
        ended = await self.wait("jobs", job)
        assert ended["state"] == "done", ended
        return (await self.state())["persons"][-1]
