"""Access to aiohttp. The only module that imports it."""

from typing import Any

from ..errors import require


def aio_web() -> Any:
    """Return the module `aiohttp.web`."""
    return require("aiohttp.web", "web")


def socket_types() -> Any:
    """Return the kinds of messages of a WebSocket."""
    return aio_web().WSMsgType
