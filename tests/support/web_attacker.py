"""Somebody who sends to a server of the page what no browser would send."""

import base64
import http.client
import json
import os
import pickle
import socket
import struct
import tempfile
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from support import web_media

_WAIT_S = 120.0
_SLOW_S = 60.0  # after which a server should have given a slow connection up
_TEXT, _BINARY, _CLOSE = 1, 2, 8  # opcodes of WebSocket

Reply = tuple[int, bytes]
"""Status and body."""


class Attacker:
    """A client with a session of its own, which sends raw requests.

    Args:
        url: of the server.
        token: of the server, empty where it has none.
    """

    def __init__(self, url: str, token: str) -> None:
        self._address = urlsplit(url).netloc
        self._token, self._access = token, ""
        if token:
            self._access = self._cookies("GET", f"/?{urlencode({'token': token})}")
        self._session = self._cookies("POST", "/api/session")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        cookie: str | None = None,
    ) -> Reply:
        """Send a request with the page's headers, some replaced; an empty header is left out."""
        connection = http.client.HTTPConnection(self._address, timeout=_WAIT_S)
        try:
            defaults = {"Host": self._address, "Origin": f"http://{self._address}"}
            defaults["Cookie"] = "; ".join(filter(None, [self._access, self._session]))
            if cookie is not None:
                defaults["Cookie"] = cookie
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**defaults, **(headers or {})}.items():
                if value:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body or b"")
            response = connection.getresponse()
            self._last_headers = response.headers
            return response.status, response.read()
        finally:
            connection.close()

    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        """Upload a file to drive with; return its entry, or the error."""
        reply = self.request("POST", f"/api/upload/drivers?name={quote(name)}", body=content)
        return json.loads(reply[1])

    def examine(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until an upload was examined, remove and return it."""
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            state = json.loads(self.request("GET", "/api/state")[1])["state"]
            for current in state["drivers"]:
                if current["id"] == entry.get("id") and current["state"] in ("done", "failed"):
                    self.request("DELETE", f"/api/drivers/{current['id']}")
                    return current
            time.sleep(0.1)
        return {"state": "never examined", **entry}

    def without_token(self, token: str) -> str:
        """Open the page with another token, or without one; a server without tokens is none to attack."""
        if not self._token:
            return "403 is not asked for: the server has no token"
        query = f"?{urlencode({'token': token})}" if token else ""
        return str(self.request("GET", f"/{query}", cookie="")[0])

    def with_session(self, key: str) -> str:
        """Read the state by another cookie."""
        cookie = "; ".join(filter(None, [self._access, f"talkinghead_session={key}"]))
        return str(self.request("GET", "/api/state", cookie=cookie)[0])

    def read_others_files(self) -> str:
        """Upload in another session, and read it in this one."""
        other = Attacker(f"http://{self._address}", self._token)
        entry = other.upload(b"secret", "secret.png")
        for kind in ("drivers", "pictures", "persons", "results", "engines", "jobs"):
            for name in ("look", "media", "file", "still"):
                code, _ = self.request("GET", f"/files/{kind}/{entry['id']}/{name}")
                if code != 404:
                    return f"{code} for {kind}/{name}"
        return "404"

    def read_name_as_json(self) -> str:
        """Return the type by which a name that is HTML is answered."""
        self.upload(b"hello", "<img src=x onerror=alert(1)>")
        return f"{self._last_headers.get('Content-Type')}"

    @staticmethod
    def png_bomb() -> bytes:
        """Return a small PNG that states a huge size."""
        return web_media.png_bomb()

    def upload_pickle(self) -> str:
        """Upload a .pt2 whose pickle would write a file where it is loaded."""
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder, "owned")
            archive = BytesIO()
            with zipfile.ZipFile(archive, "w") as packed:
                packed.writestr("archive/data.pkl", pickle.dumps(_Command(f"touch {mark}")))
                packed.writestr("archive/version", "3")
            entry = self.examine(self.upload(archive.getvalue(), "person.pt2"))
            state = "refused" if entry["state"] == "failed" else str(entry)
            return f"{state}, {'run' if mark.exists() else 'not run'}"

    def state_oversize(self) -> str:
        """Announce an upload of a terabyte."""
        return self._raw(self._head("POST", "/api/upload/pictures", f"Content-Length: {1 << 40}"))

    def state_negative_length(self) -> str:
        """Announce an upload of less than nothing."""
        return self._raw(self._head("POST", "/api/upload/pictures", "Content-Length: -1"))

    def upload_many(self) -> str:
        """Begin ten uploads that do not end; return the status of those that are refused."""
        head = self._head("POST", "/api/upload/pictures", "Content-Length: 1000")
        lines = [self._connect() for _ in range(10)]
        try:
            for line in lines:
                line.sendall(head + b"x")
            statuses = [_first_status(line, 3.0) for line in lines]
            return "429" if statuses.count("429") >= 6 else f"{statuses}"
        finally:
            for line in lines:
                line.close()

    def send_slow_headers(self) -> str:
        """Send a header a byte at a time; return how the server ends it."""
        with self._connect() as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: ")
            return self._drip(line)

    def send_slow_body(self) -> str:
        """Send an upload a byte at a time, in a session of its own; return how the server ends it."""
        other = Attacker(f"http://{self._address}", self._token)
        with self._connect() as line:
            line.sendall(other._head("POST", "/api/upload/pictures", "Content-Length: 100000"))
            return self._drip(line, pause=20.0)

    def open_socket(self, origin: str | None = None, has_session: bool = True) -> str:
        """Return the status by which a WebSocket is answered."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        if origin:
            headers["Origin"] = origin
        return str(
            self.request("GET", "/socket", headers=headers, cookie=None if has_session else self._access)[0]
        )

    def drive_others_person(self) -> str:
        """Ask to drive a person that is not the session's."""
        return self._live_error({"live": {"person": "0" * 16, "consent": True}})

    def drive_without_consent(self) -> str:
        """Ask to drive a person without consent."""
        return self._live_error({"live": {"person": "0" * 16}})

    def send_garbage(self) -> str:
        """Send messages that are no JSON object."""
        return self._live_error("[" * 5000)

    def send_large_message(self) -> str:
        """Send a message of 2 MB; return the code by which the socket is closed."""
        with _Socket(self._connect(), self._head_lines()) as line:
            line.send(_BINARY, bytes(2 << 20))
            return line.closing_code()

    def send_jpeg_bomb(self) -> str:
        """Send a camera's picture that states 65,000 x 65,000 pixels."""
        jpeg = bytearray(web_media.saved(web_media.Image.new("RGB", (64, 64)), "JPEG"))
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
        return self.send_live(bytes(jpeg))

    def send_live(self, jpeg: bytes) -> str:
        """Learn a person, drive it by one picture of the camera, and return the error."""
        from skimage import data

        face = web_media.picture(data.astronaut())
        other = Attacker(f"http://{self._address}", self._token)
        other.request("POST", "/api/upload/pictures?name=a.png", body=face)
        learned = 0
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end and not learned:
            fields = json.dumps({"model": "tiny", "quality": "at-once"}).encode()
            learned = other.request("POST", "/api/learn", body=fields)[0] == 200
            time.sleep(0.2)
        people: list[Any] = []
        while time.monotonic() < end and not people:
            people = json.loads(other.request("GET", "/api/state")[1])["state"]["persons"]
            time.sleep(0.2)
        start = {"live": {"person": people[0]["id"], "consent": True}}
        return other._live_error(start, struct.pack(">I", 1) + jpeg)

    def _live_error(self, fields: Any, frame: bytes = b"") -> str:
        """Send a message, and a frame when the person is ready; return the error of live driving."""
        with _Socket(self._connect(), self._head_lines()) as line:
            line.send(_TEXT, (fields if isinstance(fields, str) else json.dumps(fields)).encode())
            while True:
                message = json.loads(line.text()).get("live", {})
                if message.get("state") == "ready":
                    line.send(_BINARY, frame)
                elif "error" in message:
                    return message["error"]

    def _connect(self) -> socket.socket:
        host, _, port = self._address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=_WAIT_S)

    def _head_lines(self) -> list[str]:
        cookie = "; ".join(filter(None, [self._access, self._session]))
        return [f"Host: {self._address}", f"Origin: http://{self._address}", f"Cookie: {cookie}"]

    def _head(self, method: str, path: str, *lines: str) -> bytes:
        text = "\r\n".join([f"{method} {path} HTTP/1.1", *self._head_lines(), *lines])
        return f"{text}\r\n\r\n".encode()

    def _raw(self, data: bytes) -> str:
        with self._connect() as line:
            line.sendall(data)
            return _first_status(line, _WAIT_S)

    def _drip(self, line: socket.socket, pause: float = 1.0) -> str:
        """Send a byte now and then until the server ends the connection; return its status, or "closed"."""
        end = time.monotonic() + _SLOW_S
        while time.monotonic() < end:
            try:
                line.sendall(b"x")
            except OSError:
                return "closed"
            answer = _first_status(line, pause)
            if answer != "no answer":
                return answer
        return f"still open after {_SLOW_S:g} s"

    def _cookies(self, method: str, path: str) -> str:
        """Return the cookie that an answer sets."""
        self._session = ""
        self.request(method, path)
        return "; ".join(value.partition(";")[0] for value in self._last_headers.get_all("Set-Cookie") or [])


class _Command:
    """An object whose pickle runs a command where it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


class _Socket:
    """A WebSocket by hand; closing it closes its connection."""

    def __init__(self, line: socket.socket, headers: list[str]) -> None:
        self._line, self._data = line, b""
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        head = ["GET /socket HTTP/1.1", *headers, *upgrade, f"Sec-WebSocket-Key: {key}"]
        line.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._data:
            self._data += self._receive()
        self._data = self._data.partition(b"\r\n\r\n")[2]

    def __enter__(self) -> "_Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a message, masked by zeros."""
        length = len(payload)
        if length < 126:
            size = struct.pack(">B", 0x80 | length)
        elif length < 1 << 16:
            size = struct.pack(">BH", 0x80 | 126, length)
        else:
            size = struct.pack(">BQ", 0x80 | 127, length)
        with suppress(ConnectionError):  # the server may have closed it already
            self._line.sendall(bytes([0x80 | opcode]) + size + bytes(4) + payload)

    def text(self) -> str:
        """Return the next text."""
        while True:
            opcode, payload = self._message()
            if opcode == _TEXT:
                return payload.decode()
            if opcode == _CLOSE:
                raise ConnectionError("the socket was closed")

    def closing_code(self) -> str:
        """Return how the socket is closed."""
        while True:
            opcode, payload = self._message()
            if opcode == _CLOSE:
                return f"closed {struct.unpack_from('>H', payload)[0]}"

    def _message(self) -> tuple[int, bytes]:
        opcode, length = self._take(2)
        length &= 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        return opcode & 0x0F, self._take(length)

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._data += self._receive()
        data, self._data = self._data[:count], self._data[count:]
        return data

    def _receive(self) -> bytes:
        data = self._line.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection was closed")
        return data


def _first_status(line: socket.socket, timeout: float) -> str:
    """Return the status of the answer on a connection; "closed", or "no answer" within the time."""
    line.settimeout(timeout)
    try:
        data = line.recv(4096)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    return data[9:12].decode() if data.startswith(b"HTTP/") else "closed"
