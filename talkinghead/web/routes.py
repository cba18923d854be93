"""Addresses of the server and what they answer."""

import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..config import preset
from ..constants import DEFAULT_MODEL, DEFAULT_SHOTS
from ..errors import TalkingheadError
from ..weights import shipped_models
from .actions import Actions
from .aiohttp_module import aio_web
from .live_pool import LivePool
from .page_socket import PageSocket, public_state
from .security import SESSION_COOKIE, RefusedRequest
from .sessions import Session, SessionStore
from .settings import ServerSettings
from .uploads import Receiver

STATIC_FOLDER = Path(__file__).parent / "static"
_ROLES = ("pictures", "drivers")
_FILES: dict[tuple[str, str], tuple[str, str]] = {
    ("pictures", "look"): (".look", "image/jpeg"),
    ("drivers", "look"): (".look", "image/jpeg"),
    ("jobs", "preview"): (".preview", "image/jpeg"),
    ("persons", "still"): (".still", "image/jpeg"),
    ("persons", "sample"): (".mp4", "video/mp4"),
    ("persons", "file"): (".safetensors", "application/octet-stream"),
}
"""Suffix and type of files with one suffix, by kind of entry and name in the address."""
_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".onnx": "application/octet-stream",
    ".zip": "application/zip",
}
"""Types of files of which an entry tells the suffix."""

Handler = Callable[[Any], Awaitable[Any]]
SessionHandler = Callable[[Any, Session], Awaitable[Any]]


class Routes:
    """Handlers of all addresses.

    Args:
        settings: of the server.
        store: of the sessions.
        actions: on them.
        pool: of workers for live driving.
    """

    def __init__(
        self, settings: ServerSettings, store: SessionStore, actions: Actions, pool: LivePool
    ) -> None:
        self._settings, self._store, self._actions, self._pool = settings, store, actions, pool
        self._receiver = Receiver(store, settings.limits)

    def table(self) -> list[Any]:
        """Return the routes."""
        web, mine = aio_web(), self._with_session
        return [
            web.get("/", self._page),
            web.static("/static", STATIC_FOLDER),
            web.post("/api/session", self._open_session),
            web.delete("/api/session", mine(self._remove_session)),
            web.post("/api/upload/{role}", mine(self._upload)),
            web.post("/api/learn", mine(partial(self._act, self._actions.learn))),
            web.post("/api/animate", mine(partial(self._act, self._actions.animate))),
            web.post("/api/export", mine(partial(self._act, self._actions.export))),
            web.post("/api/jobs/{number}/stop", mine(self._stop)),
            web.delete("/api/{kind}/{number}", mine(self._remove)),
            web.get("/api/state", mine(self._state)),
            web.get("/files/{kind}/{number}/{name}", mine(self._file)),
            web.get("/socket", mine(self._socket)),
        ]

    def _with_session(self, handler: SessionHandler) -> Handler:
        """Return a handler that gets the session of the request's cookie."""

        async def handle(request: Any) -> Any:
            session = self._store.find(request.cookies.get(SESSION_COOKIE, ""))
            if session is None:
                raise RefusedRequest(401, "session: it has ended or was never opened; load the page again")
            return await handler(request, session)

        return handle

    async def _page(self, request: Any) -> Any:
        return aio_web().FileResponse(STATIC_FOLDER / "index.html")

    async def _open_session(self, request: Any) -> Any:
        """Answer with the session of the cookie, or with a new one."""
        key = request.cookies.get(SESSION_COOKIE, "")
        session = self._store.find(key)
        if session is None:
            key, session = self._store.create()
        limits = self._settings.limits
        response = _json(
            {
                "state": public_state(session),
                "models": [_describe_model(name) for name in shipped_models()],
                "default_model": DEFAULT_MODEL,
                "limits": {
                    "upload_bytes": limits.upload_bytes,
                    "pictures": limits.pictures,
                    "clip_seconds": limits.clip_seconds,
                    "keep_days": limits.keep_days,
                },
            }
        )
        # also where there is one, so that it lasts as long as the session
        seconds = int(limits.keep_days * 86400)
        response.set_cookie(SESSION_COOKIE, key, max_age=seconds, httponly=True, samesite="Strict", path="/")
        return response

    async def _remove_session(self, request: Any, session: Session) -> Any:
        self._actions.remove_session(session)
        response = _json({})
        response.del_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    async def _state(self, request: Any, session: Session) -> Any:
        return _json({"state": public_state(session)})

    async def _upload(self, request: Any, session: Session) -> Any:
        role = request.match_info["role"]
        if role not in _ROLES:
            raise RefusedRequest(404, f"upload: is of no such kind; choose one of {', '.join(_ROLES)}")
        self._actions.check_room(session, role)
        file = await self._receiver.receive(request, session)
        try:
            entry = self._actions.add_upload(session, role, request.query.get("name", ""), file)
        finally:
            file.unlink(missing_ok=True)
        return _json(entry)

    async def _act(self, action: Callable[[Session, Any], Any], request: Any, session: Session) -> Any:
        """Do one of the actions that take fields."""
        try:
            fields = json.loads(await request.text())
        except (ValueError, RecursionError) as error:
            raise TalkingheadError("request: is no JSON; load the page again") from error
        if not isinstance(fields, dict):
            raise TalkingheadError("request: has no fields; load the page again")
        self._store.check_space(session, 0)
        return _json(action(session, fields))

    async def _stop(self, request: Any, session: Session) -> Any:
        self._actions.stop(session, request.match_info["number"])
        return _json({})

    async def _remove(self, request: Any, session: Session) -> Any:
        self._actions.remove(session, request.match_info["kind"], request.match_info["number"])
        return _json({})

    async def _file(self, request: Any, session: Session) -> Any:
        """Answer with a file of an entry; the path is made of the entry's id alone."""
        kind, name = request.match_info["kind"], request.match_info["name"]
        known = (*_ROLES, "jobs", "persons", "results", "engines")
        if kind not in known:
            raise aio_web().HTTPNotFound
        try:
            entry = session.entry(kind, request.match_info["number"])
        except TalkingheadError as error:
            raise RefusedRequest(404, str(error)) from error
        if (kind, name) in _FILES:
            suffix, content_type = _FILES[kind, name]
        else:
            suffix, content_type = _entry_file(kind, name, entry)
        path = session.path(entry["id"], suffix)
        if not suffix or not path.is_file():
            raise aio_web().HTTPNotFound
        headers = {"Content-Type": content_type}
        if "download" in request.query:
            headers["Content-Disposition"] = f'attachment; filename="{download_name(entry, suffix)}"'
        return aio_web().FileResponse(path, headers=headers)

    async def _socket(self, request: Any, session: Session) -> Any:
        return await PageSocket(self._settings, self._pool, session).serve(request)


def _entry_file(kind: str, name: str, entry: dict[str, Any]) -> tuple[str, str]:
    """Return suffix and type of a file of which the entry tells the suffix; empty where there is none."""
    suffix = ""
    if (kind, name) in (("drivers", "media"), ("engines", "file")):
        suffix = entry.get("suffix", "")
    elif (kind, name) == ("results", "file"):
        suffix = ".mp4" if entry["kind"] == "video" else ".jpg"
    return (suffix, _TYPES[suffix]) if suffix in _TYPES else ("", "")


def download_name(entry: dict[str, Any], suffix: str) -> str:
    """Return the name that a browser stores a file under, in letters, digits and dashes."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", entry["name"]).strip("-") or "talkinghead"
    return f"{stem[:60]}{suffix}"


def _describe_model(name: str) -> dict[str, Any]:
    config = preset(name)
    return {
        "name": name,
        "size": config.networks.image_size,
        "steps": config.finetune.steps(DEFAULT_SHOTS),
        "keeps_pictures": config.networks.reference_guided,
    }


def _json(value: Any) -> Any:
    return aio_web().json_response(value)
