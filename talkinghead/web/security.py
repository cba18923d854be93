"""Checks of requests: Host, Origin and token; headers of every answer, and errors in one line."""

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

from ..errors import TalkingheadError, shorten
from .aiohttp_module import aio_web
from .settings import LOOPBACK_HOSTS, ServerSettings

ACCESS_COOKIE = "talkinghead_access"
SESSION_COOKIE = "talkinghead_session"
_SAFE_METHODS = ("GET", "HEAD")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}

log = logging.getLogger(__name__)


class RefusedRequest(TalkingheadError):
    """Request that is refused with a status of HTTP; the message is one line for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Checks of requests.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        digest = hashlib.sha256(f"access {settings.token}".encode()).hexdigest()
        self._access = digest if settings.token else ""

    def check(self, request: Any) -> None:
        """Check a request.

        Raises:
            RefusedRequest: it does not come from the page, or from somebody who has no token.
        """
        self._check_host(request)
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if is_socket or request.method not in _SAFE_METHODS:
            self._check_origin(request)
        if self._settings.token and not self._has_access(request):
            raise RefusedRequest(403, "access: open the address with the token that the server has printed")

    def set_access_cookie(self, request: Any, response: Any) -> None:
        """Let a browser that has shown the token in the address in from now on."""
        if self._access and self._shows_token(request):
            response.set_cookie(ACCESS_COOKIE, self._access, httponly=True, samesite="Strict", path="/")

    def _check_host(self, request: Any) -> None:
        """Refuse names of this machine that somebody else made up, as DNS rebinding does."""
        host = _hostname(f"//{request.headers.get('Host', '')}")
        allowed = host in LOOPBACK_HOSTS
        if not self._settings.is_local:
            own = (self._settings.host, socket.gethostname(), socket.getfqdn())
            allowed = allowed or host in own or _is_address(host)
        if not allowed:
            raise RefusedRequest(
                403, "host: this server does not go by that name; use the address it printed"
            )

    def _check_origin(self, request: Any) -> None:
        """Refuse what another site's page sends."""
        origin = request.headers.get("Origin", "")
        if urlsplit(origin).netloc != request.headers.get("Host", "") or not origin.startswith("http"):
            raise RefusedRequest(403, "origin: the request is not from this page; load the page again")

    def _has_access(self, request: Any) -> bool:
        cookie = request.cookies.get(ACCESS_COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self._access.encode()) or self._shows_token(request)

    def _shows_token(self, request: Any) -> bool:
        token = request.query.get("token", "") if request.path == "/" and request.method == "GET" else ""
        return hmac.compare_digest(token.encode(), self._settings.token.encode())


def guard_middleware(guard: Guard) -> Any:
    """Return the middleware that checks every request and answers errors in one line."""

    @aio_web().middleware
    async def middleware(request: Any, handler: Any) -> Any:
        try:
            guard.check(request)
            response = await handler(request)
            guard.set_access_cookie(request, response)
            return response
        except RefusedRequest as error:
            log.warning("%s from %s: %s", _describe(request), request.remote, error)
            return error_response(error.status, str(error))
        except TalkingheadError as error:
            log.info("%s: %s", _describe(request), error)
            return error_response(400, str(error))
        except aio_web().HTTPException as error:
            return error_response(error.status, _http_message(error.status))
        except (ConnectionError, TimeoutError):
            raise
        except aio_web().RequestPayloadError:
            log.info("%s: was cut off", _describe(request))
            return error_response(400, "request: was cut off; send it again")
        except Exception:
            number = secrets.token_hex(4)
            log.exception("failure %s in %s", number, _describe(request))
            return error_response(500, f"something went wrong; the server's log has more under {number}")

    return middleware


def _describe(request: Any) -> str:
    """Return method and path of a request, without the query, which may hold the token."""
    return f"{request.method} {shorten(request.path, 120)}"


def _http_message(status: int) -> str:
    messages = {
        404: "address: there is nothing here; open the page again",
        405: "method: this address does not take it; open the page again",
        413: "request: is too large; send less",
    }
    return messages.get(status, "request: cannot be understood; load the page again")


def error_response(status: int, message: str) -> Any:
    """Return an answer with a one-line error as JSON."""
    text = json.dumps({"error": message})
    response = aio_web().Response(status=status, text=text, content_type="application/json")
    if status in (408, 413):
        response.force_close()  # the rest of the upload is not read
    return response


async def add_headers(request: Any, response: Any) -> None:
    """Add the headers of safety to an answer."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "talkinghead"


def _hostname(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    """Return whether a host is numbers, which no name service can redirect."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
