"""Sessions of the page: their keys, limits, age, and what is left of damaged ones."""

import json
import stat
import time
from pathlib import Path

import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.web.actions import clean_name
from talkinghead.web.sessions import STATE_FILE, Session, SessionStore
from talkinghead.web.settings import Limits, ServerSettings

DAY_S = 86400.0


def store(folder: Path, **limits: float) -> SessionStore:
    """Return a store with some limits."""
    return SessionStore(folder / "sessions", Limits(**limits))  # type: ignore[arg-type]


def age(session: Session, seconds: float) -> None:
    """Make a session's last use lie so far back."""
    session.state["used"] -= seconds
    session.save()


def test_session_is_read_again_by_its_key(tmp_path: Path) -> None:
    key, session = store(tmp_path).create()
    entry = session.add("pictures", name="a.png", kind="picture", state="done")
    session.save()
    reread = store(tmp_path).find(key)
    assert reread is not None and reread.entry("pictures", entry["id"]) == entry
    assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((session.folder / STATE_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["", "x", "A" * 43, "../" * 14 + "x", "é" * 43, "A" * 44])
def test_unknown_key_finds_no_session(key: str, tmp_path: Path) -> None:
    sessions = store(tmp_path)
    sessions.create()
    assert sessions.find(key) is None


def test_folder_name_is_no_key(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    key, session = sessions.create()
    assert key not in str(session.folder) and sessions.find(session.folder.name) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"pictures": 3, "used": 1}',
        '{"pictures": ["x", {"id": "../x"}], "used": 1}',
        '{"used": "x"}',
    ],
)
def test_damaged_state_starts_anew(content: str, tmp_path: Path) -> None:
    key, session = store(tmp_path).create()
    (session.folder / STATE_FILE).write_text(content)
    (session.folder / "cut.part").write_text("an upload that was cut off")
    reread = store(tmp_path).find(key)
    assert reread is not None and reread.entries("pictures") == []
    assert not (session.folder / "cut.part").exists()


def test_old_session_is_removed_with_its_files(tmp_path: Path) -> None:
    sessions = store(tmp_path, keep_days=2.0)
    (old_key, old), (key, session) = sessions.create(), sessions.create()
    age(old, 2.1 * DAY_S)
    age(session, 1.9 * DAY_S)
    assert sessions.remove_old() == 1
    assert not old.folder.exists() and sessions.find(old_key) is None
    assert sessions.find(key) is session and time.time() - session.state["used"] < 60  # it is in use again


def test_empty_session_makes_room_and_full_ones_stay(tmp_path: Path) -> None:
    sessions = store(tmp_path, sessions=2)
    (_, full), (_, empty) = sessions.create(), sessions.create()
    full.add("persons", name="Anna")
    with pytest.raises(TalkingheadError, match="^sessions: the server has no room for another person; try"):
        sessions.create()
    for session in (full, empty):
        age(session, 3600)
    _, third = sessions.create()
    assert set(sessions) == {full, third}


def test_space_of_session_and_of_server_is_limited(tmp_path: Path) -> None:
    sessions = store(tmp_path, session_bytes=3000, disk_bytes=5000)
    (_, first), (_, second) = sessions.create(), sessions.create()
    first.path("a", ".bin").write_bytes(bytes(2500))
    sessions.check_space(first, 100)
    with pytest.raises(TalkingheadError, match="^space: your files take up all that you may use; delete"):
        sessions.check_space(first, 1000)
    with pytest.raises(TalkingheadError, match="^space: the server's disk space is used up; ask its owner"):
        sessions.check_space(second, 2800)


def test_removed_entry_takes_its_files_along(tmp_path: Path) -> None:
    _, session = store(tmp_path).create()
    entries = [session.add("pictures", name="a.png", kind="picture") for _ in range(2)]
    for entry in entries:
        session.path(entry["id"], ".png").write_text("x")
    session.remove("pictures", entries[0]["id"])
    assert [path.suffix for path in session.folder.iterdir()].count(".png") == 1
    assert json.loads((session.folder / STATE_FILE).read_text())["pictures"] == [entries[1]]
    for number in ("../../x", "*", entries[0]["id"]):
        with pytest.raises(TalkingheadError, match="this one is no longer here"):
            session.remove("pictures", number)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\b.png", "b.png"),
        ("a\x00b\n\x1b[2J", "a\\x00b\\n\\x1b[2J"),
        ("x" * 500, "x" * 60 + "..."),
        ("  a   b ", "a b"),
        ("Ünïcödé 图.png", "Ünïcödé 图.png"),
    ],
)
def test_name_of_file_is_no_path(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_host_that_others_reach_needs_long_token(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match="^host 0.0.0.0: is reached by others, and there is no token"):
        ServerSettings(tmp_path, host="0.0.0.0")
    with pytest.raises(TalkingheadError, match="^token: has 5 characters; give 16 or more"):
        ServerSettings(tmp_path, token="short")
    assert not ServerSettings(tmp_path, host="0.0.0.0", token="x" * 16).is_local
    assert ServerSettings(tmp_path).is_local
