"""Sessions: what one browser has uploaded and made, in one private folder, with its state in a file.

A session's key is a random number in a cookie. The name of its folder is a hash of the key, so that nobody
who sees the folder can enter the session.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write
from .settings import Limits

STATE_FILE = "state.json"
_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
_ENTRY_ID = re.compile(r"[0-9a-f]{16}")
_FOLDER_NAME = re.compile(r"[0-9a-f]{40}")
_LISTS = ("pictures", "drivers", "persons", "results", "engines", "jobs")
_EMPTY_SESSION_S = 300.0  # after which a session without content may make room for another
_TOUCH_INTERVAL_S = 600.0  # between two notes of the last use

log = logging.getLogger(__name__)


class Session:
    """One browser's uploads, persons, results and jobs.

    Args:
        folder: of its files.

    Attributes:
        state: lists of plain values by name; see `_LISTS`.
        changed: is set when the state has changed, for each open tab.
        is_removed: whether its files were deleted; a job that still ran may write some more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = {name: [] for name in _LISTS} | {
            "used": time.time(),
            "named": 0,
        }
        self.changed: set[asyncio.Event] = set()
        self.is_removed = False

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Return a list of the state."""
        return self.state[kind]

    def entry(self, kind: str, number: object) -> dict[str, Any]:
        """Return the entry of a list by its id.

        Raises:
            TalkingheadError: there is none.
        """
        for entry in self.entries(kind):
            if entry["id"] == number:
                return entry
        raise TalkingheadError(f"{kind}: this one is no longer here; load the page again")

    def add(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Append an entry to a list and return it; its id is new unless the fields hold one."""
        entry = {"id": secrets.token_hex(8), "created": time.time(), **fields}
        self.entries(kind).append(entry)
        return entry

    def remove(self, kind: str, number: object) -> None:
        """Remove an entry and its files.

        Raises:
            TalkingheadError: there is no such entry.
        """
        entry = self.entry(kind, number)
        self.entries(kind).remove(entry)
        for path in self.folder.glob(f"{entry['id']}.*"):
            path.unlink(missing_ok=True)
        self.save()

    def path(self, number: str, suffix: str = "") -> Path:
        """Return the path of a file of an entry."""
        return self.folder / f"{number}{suffix}"

    def hide_paths(self, text: str) -> str:
        """Return a message without the folder, which is no matter of the user's."""
        return text.replace(f"{self.folder}{os.sep}", "")

    def save(self) -> None:
        """Write the state and tell open tabs of it."""
        with atomic_write(self.folder / STATE_FILE) as temp_path:
            temp_path.write_text(json.dumps(self.state), encoding="utf-8")
        (self.folder / STATE_FILE).chmod(0o600)
        self.notify()

    def delete_files(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def notify(self) -> None:
        """Tell open tabs that the state has changed."""
        for event in self.changed:
            event.set()

    def touch(self) -> None:
        """Note that the session is in use."""
        if time.time() - self.state["used"] > _TOUCH_INTERVAL_S:
            self.state["used"] = time.time()
            self.save()

    def num_bytes(self) -> int:
        """Return the size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @property
    def is_empty(self) -> bool:
        """Return whether there is no content and no open tab."""
        return not self.changed and not any(self.entries(kind) for kind in _LISTS)

    @classmethod
    def read(cls, folder: Path) -> "Session":
        """Read a session's state; what is damaged is left out."""
        session = cls(folder)
        for part in folder.glob("*.part"):  # uploads that were cut off
            part.unlink(missing_ok=True)
        try:
            state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            used = float(state["used"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            log.warning("%s: its state cannot be read; the session starts anew", folder)
            return session
        for kind in _LISTS:
            entries = state.get(kind)
            if isinstance(entries, list):
                session.state[kind] = [entry for entry in entries if _is_entry(entry)]
        named = state.get("named")
        session.state.update(used=used, named=named if isinstance(named, int) else 0)
        return session


def _is_entry(entry: object) -> bool:
    """Return whether a part of a state is an entry, whose id names its files."""
    return isinstance(entry, dict) and _ENTRY_ID.fullmatch(str(entry.get("id"))) is not None


class SessionStore:
    """All sessions of a server.

    Args:
        folder: of the sessions; it is created, private to the user.
        limits: of their number, size and age.

    Raises:
        TalkingheadError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self._limits = folder, limits
        self._sessions: dict[str, Session] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folders = sorted(path for path in folder.iterdir() if _FOLDER_NAME.fullmatch(path.name))
        except OSError as error:
            raise TalkingheadError(
                f"{folder}: cannot be used ({error.strerror}); choose another --folder"
            ) from error
        for path in folders:
            self._sessions[path.name] = Session.read(path)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: str) -> Session | None:
        """Return the session of a cookie, None without one."""
        if not _KEY.fullmatch(key):
            return None
        session = self._sessions.get(_folder_name(key))
        if session is not None:
            session.touch()
        return session

    def create(self) -> tuple[str, Session]:
        """Create a session; return its key and itself.

        Raises:
            TalkingheadError: there are too many.
        """
        if len(self) >= self._limits.sessions:
            self._make_room()
        key = secrets.token_urlsafe(32)
        folder = self.folder / _folder_name(key)
        folder.mkdir(mode=0o700)
        session = self._sessions[folder.name] = Session(folder)
        session.save()
        return key, session

    def remove(self, session: Session) -> None:
        """Remove a session with all its files."""
        self._sessions.pop(session.folder.name, None)
        session.is_removed = True
        session.delete_files()

    def remove_old(self) -> int:
        """Remove sessions that were not used for too long; return how many."""
        oldest = time.time() - self._limits.keep_days * 86400
        old = [session for session in self if session.state["used"] < oldest and not session.changed]
        for session in old:
            self.remove(session)
        return len(old)

    def check_space(self, session: Session, num_bytes: int) -> None:
        """Check that so many bytes more may be written.

        Raises:
            TalkingheadError: the session or the server has no room for them.
        """
        if session.num_bytes() + num_bytes > self._limits.session_bytes:
            raise TalkingheadError("space: your files take up all that you may use; delete some of them")
        if sum(other.num_bytes() for other in self) + num_bytes > self._limits.disk_bytes:
            raise TalkingheadError("space: the server's disk space is used up; ask its owner for more")

    def _make_room(self) -> None:
        self.remove_old()
        latest = time.time() - _EMPTY_SESSION_S
        for session in sorted(self, key=lambda each_session: each_session.state["used"]):
            if len(self) < self._limits.sessions:
                return
            if session.is_empty and session.state["used"] < latest:
                self.remove(session)
        if len(self) >= self._limits.sessions:
            raise TalkingheadError("sessions: the server has no room for another person; try again later")


def _folder_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]
