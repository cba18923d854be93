"""Data sets of many small shards, and servers that offer them."""

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from talkinghead.data.crop import Crop
from talkinghead.dataset.report import REPORT
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.landmarks.mean_face import MEAN_FACE

SIDE = 32


def write_shards(folder: Path, shards: int, clips: int = 2, frames: int = 6) -> Path:
    """Write shards of clips of one grey value each, and the lines of the report that name the shards.

    Args:
        folder: of the data set.
        shards: number of shards.
        clips: of each shard, each of a person of its own.
        frames: of each clip.
    """
    lines: list[dict[str, object]] = [{"version": 1}]
    with ShardWriter(folder, shard_size=clips) as writer:
        for number in range(shards * clips):
            images = np.full((frames, SIDE, SIDE, 3), number, np.uint8)
            info = clip_info(number, frames, SIDE)
            lines.append(
                {"file": info.name, "sha256": info.sha256, "person": info.person, "verdict": "taken"}
                | {"shard": writer.shard, "shots": [{"clip": info.key, "kept": frames}]}
            )
            write_clip(writer, info, list(images))
    (folder / REPORT).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def clip_info(number: int, frames: int, side: int) -> ClipInfo:
    """Return the description of a clip of a person of its own."""
    return ClipInfo(
        name=f"{number}.mp4",
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        person=f"person{number}",
        fps=25.0,
        frame_size=(side, side),
        crop=Crop(0, 0, side),
        frames=tuple(range(frames)),
        size=side,
        detector="network",
    )


def write_clip(writer: ShardWriter, info: ClipInfo, images: list[np.ndarray]) -> None:
    """Write a clip whose landmarks are those of the mean face."""
    points = ((MEAN_FACE[:, :2] * 0.15 + 0.5) * info.size).astype(np.float32)
    writer.write(info, np.repeat(points[None], len(images), 0), images)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and counts requests; `status` of the server answers all in place of the files."""

    server: "Server"

    def do_GET(self) -> None:
        """Serve a file, an error, or nothing."""
        self.server.paths.append(self.path)
        if self.server.closes:
            self.close_connection = True
        elif self.server.status != 200:
            self.send_error(self.server.status)
        else:
            super().do_GET()

    def list_directory(self, path: object) -> None:
        """List a folder, where the server does."""
        if self.server.lists:
            return super().list_directory(path)  # type: ignore[arg-type, return-value]
        self.send_error(404)
        return None

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(http.server.ThreadingHTTPServer):
    """A server of a folder on this machine.

    Attributes:
        paths: of the requests.
        status: answers all requests where it is not 200.
        lists: whether folders have a listing.
        closes: whether it closes connections without an answer.
    """

    daemon_threads = True
    paths: list[str]
    status = 200
    lists = True
    closes = False

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder by http, without parts of files, as Python's own server does."""
    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.paths = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
