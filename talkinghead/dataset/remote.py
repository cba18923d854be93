"""Files behind a URL, read through fsspec. The only module that imports it."""

import fnmatch
import gc
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import TalkingheadError, require

ATTEMPTS = 3
"""Requests for what a server fails to send."""
PAUSE_S = 1.0
"""Time before the second attempt; twice as long before the third."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
_LOCAL = re.compile(r"(file|local)://")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/\s]*)@")
_QUERY = re.compile(r"(://[^?\s]*)\?\S+")
_CONTAINER_PROTOCOLS = ("abfs", "abfss")
"""Protocols whose URLs have a container before the @, which is no secret."""
_PACKAGES = {
    "abfs": "adlfs",
    "az": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "hf": "huggingface-hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
}
"""Package that fsspec needs for a protocol."""
_COPIES = "simplecache::"
"""The beginning of URLs whose files are copied to the disk as a whole."""
_copy_folders: dict[int, str] = {}
"""Process -> the folder of its copies."""
_VERSION_KEYS = (
    "ETag",
    "etag",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
)
"""Names that fsspec's protocols have for a checksum or a time of a file, of which the first one is used."""
_STATE_THREADS = 16
_Result = TypeVar("_Result")
_PERMANENT = (FileNotFoundError, PermissionError, TalkingheadError, ValueError, TypeError, LookupError)
"""Errors that another attempt would give again: what is not there, not allowed, or not what it should be."""


def is_url(place: object) -> bool:
    """Return whether a place is read through fsspec: a URL other than file://."""
    return isinstance(place, str) and bool(_URL.match(place)) and not _LOCAL.match(place)


def local_path(place: object) -> Path:
    """Return the path of a place that is no URL, or one of file://."""
    return Path(_LOCAL.sub("", str(place), count=1))


@dataclass(frozen=True)
class FileState:
    """State of a file on a server; 0 stands for what is unknown.

    Attributes:
        size: in bytes.
        version: changes with the content.
    """

    size: int = 0
    version: int = 0

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "FileState":
        """Return the state of a file that fsspec describes."""
        value = next((entry[key] for key in _VERSION_KEYS if entry.get(key)), None)
        digest = hashlib.sha256(str(value).encode()).digest()
        return cls(entry.get("size") or 0, 0 if value is None else int.from_bytes(digest[:6], "big"))


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL.

    Attributes:
        url: of any protocol that fsspec reads, chained ones such as `simplecache::s3://` too.
    """

    url: str

    def __str__(self) -> str:
        return display(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    def open(self) -> IO[bytes]:
        """Open the file for reading at any place, with one request.

        Raises:
            Exception: of various types, it cannot be read; `reported` makes an error for the user of it.
        """
        return self._request(lambda system, path: system.open(path, "rb"))

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            Exception: as for `open`.
        """
        return retry(lambda: self._request(lambda system, path: system.cat_file(path)))

    def _request(self, call: Callable[[Any, str], _Result]) -> _Result:
        """Call a function of the file system and the path; a copy on the disk that was cut is removed."""
        try:
            return call(*_file_system(self.url))
        except Exception:
            if self.url.startswith(_COPIES):
                _copy_of(self.url).unlink(missing_ok=True)
            raise


def retry(call: Callable[[], _Result]) -> _Result:
    """Return the result of a function that sends requests; call it again after failures that may pass.

    Raises:
        Exception: of various types, from the last attempt, or the first one that would fail again.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except _PERMANENT:
            raise
        except Exception:  # each protocol raises types of its own
            time.sleep(attempt * PAUSE_S)
    return call()


def display(place: object) -> str:
    """Return a path, URL or message as it may be printed: without names, passwords and queries in URLs."""
    return _QUERY.sub(r"\1?***", _USER.sub(_hide_user, str(place)))


def _hide_user(match: re.Match[str]) -> str:
    protocol, user = match.groups()
    is_container = protocol.lower() in _CONTAINER_PROTOCOLS and re.fullmatch("[^:@]*", user)
    return match[0] if is_container else f"{protocol}://***@"


def list_folder(url: str, pattern: str) -> dict[str, FileState]:
    """Return the names of a folder's files that match a pattern, with their states as far as it tells them.

    Raises:
        TalkingheadError: fsspec, or what it needs for the protocol, is missing.
        Exception: of various types, the folder cannot be listed.
    """

    def read() -> list[dict[str, Any]]:
        system, path = _file_system(url)
        return list(system.ls(path, detail=True))

    states: dict[str, FileState] = {}
    for entry in retry(read):
        name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
        if fnmatch.fnmatchcase(name, pattern):
            states[name] = FileState.of_entry(entry)
    return states


def request_states(files: Iterable[RemoteFile]) -> list[FileState]:
    """Ask for the state of each file, with a request that has no content where the protocol has such.

    Raises:
        TalkingheadError: fsspec, or what it needs for the protocol, is missing.
    """

    def request(place: tuple[Any, str]) -> FileState:
        system, path = place
        try:
            return FileState.of_entry(retry(lambda: system.info(path)))
        except Exception:  # each protocol raises types of its own; whoever reads the file reports them
            return FileState()

    with ThreadPoolExecutor(_STATE_THREADS) as pool:
        return list(pool.map(request, [_file_system(file.url) for file in files]))


@contextmanager
def paused_requests() -> Iterator[None]:
    """Stop fsspec's thread while the block forks processes; requests of other threads wait until its end.

    A process that is forked beside the thread can hang: it inherits locks that the thread holds, and a loop
    that claims to run. So the thread ends before, and another one runs the same loop afterwards.
    """
    asyn = sys.modules.get("fsspec.asyn")  # without a request so far there is no thread
    thread = asyn.iothread[0] if asyn is not None else None
    if asyn is None or thread is None or not thread.is_alive():
        yield
        return
    gc.collect()  # closes connections of unused file systems, which needs the thread
    loop = asyn.loop[0]
    # fsspec forgets its file systems in forked processes. Their ends would remove connections from the epoll
    # instance that is shared with this process, so the frame of this function keeps them there too.
    systems = [system for kind in _file_system_types() for system in list(kind._cache.values())]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    try:
        yield
    finally:
        thread = threading.Thread(target=loop.run_forever, name=thread.name, daemon=True)
        thread.start()
        asyn.iothread[0] = thread
        del systems


def _file_system_types() -> list[Any]:
    """Return all classes of fsspec's file systems that are imported."""
    types = [sys.modules["fsspec.spec"].AbstractFileSystem]
    for kind in types:  # which grows meanwhile
        types += kind.__subclasses__()
    return types


@contextmanager
def reported(place: object, remedy: str) -> Iterator[None]:
    """Raise what goes wrong in the block as an error for the user.

    Raises:
        TalkingheadError: with the place, the reason and the remedy.
    """
    try:
        yield
    except TalkingheadError:
        raise
    except Exception as error:  # each protocol raises types of its own
        raise TalkingheadError(f"{display(place)}: cannot be read ({describe(error)}); {remedy}") from error


def describe(error: BaseException) -> str:
    """Return the reason that an error of a file system gives, in one line and without passwords."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    lines = str(error).strip().splitlines()
    return display(lines[0]) if lines else type(error).__name__


def _copy_of(url: str) -> Path:
    """Return where this process keeps a copy of a file."""
    folder, _, name = url.rpartition("/")
    return Path(_copy_folder(), hashlib.sha256(folder.encode()).hexdigest()[:12], name)


def _copy_folder() -> str:
    """Return this process's folder of copies, which is removed when it ends."""
    process = os.getpid()
    if process not in _copy_folders:
        # inside that of the process that forked this one, which removes it where this one is killed
        parent = next((path for path in _copy_folders.values() if os.path.isdir(path)), None)
        _copy_folders[process] = tempfile.mkdtemp(prefix="talkinghead-", dir=parent)
        # atexit is not for worker processes
        util.Finalize(None, shutil.rmtree, (_copy_folders[process], True), exitpriority=0)
    return _copy_folders[process]


def _file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, of which it keeps one a process, and the path in it.

    Raises:
        TalkingheadError: fsspec, or what it needs for the protocol, is missing.
        ValueError: the protocol is unknown.
    """
    fsspec = require("fsspec", "remote")
    try:
        options: dict[str, Any] = {}
        if url.startswith(_COPIES) and "cache_storage" not in fsspec.config.conf.get("simplecache", {}):
            options = {"simplecache": {"cache_storage": str(_copy_of(url).parent), "same_names": True}}
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        protocol = re.findall(r"(\w+)://", url)[:1]
        package = _PACKAGES.get(protocol[0]) if protocol else None
        remedy = f"pip install {package}" if package else "install what it names"
        raise TalkingheadError(
            f"{display(url)}: needs a package that cannot be imported ({error}); {remedy}"
        ) from error
    return system, path
