"""The server of the page: one asyncio loop; all heavy work is done by worker processes."""

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..errors import TalkingheadError, one_line
from .actions import Actions
from .aiohttp_module import aio_web
from .live_pool import LivePool
from .routes import Routes
from .security import Guard, add_headers, guard_middleware
from .sessions import SessionStore
from .settings import ServerSettings

_MAX_JSON_BYTES = 64 << 10
_HEADER_TIMEOUT_S = 15.0  # of a connection without a complete request
_SWEEP_INTERVAL_S = 3600.0  # between two searches for old sessions
_SHUTDOWN_S = 2.0
_MAX_HEADER_BYTES = 8 << 10

log = logging.getLogger(__name__)


def build_app(settings: ServerSettings) -> Any:
    """Return the application; its workers run from its start to its end.

    Raises:
        TalkingheadError: aiohttp is not installed, or the folder cannot be used.
    """
    web = aio_web()
    os.umask(0o077)  # whatever is written in the folder is the user's own
    store = SessionStore(settings.folder, settings.limits)
    store.remove_old()
    app = web.Application(middlewares=[guard_middleware(Guard(settings))], client_max_size=_MAX_JSON_BYTES)

    actions = Actions(settings, store)
    pool = LivePool(settings.limits.live, {"landmarks": settings.landmarks})
    app.add_routes(Routes(settings, store, actions, pool).table())

    async def run_workers(_: Any) -> AsyncIterator[None]:
        actions.resume()
        tasks = [
            asyncio.create_task(work) for work in (actions.uploads.run(), actions.work.run(), _sweep(store))
        ]
        yield
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await pool.close()

    app.cleanup_ctx.append(run_workers)
    app.on_response_prepare.append(add_headers)
    return app


async def _sweep(store: SessionStore) -> None:
    """Remove sessions that were not used for too long, now and then."""
    while True:
        await asyncio.sleep(_SWEEP_INTERVAL_S)
        if number := store.remove_old():
            log.info("%d old sessions were removed", number)


class _OneLineFormatter(logging.Formatter):
    """Formatter that escapes what a terminal would obey in a message, and keeps a traceback's lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _WithoutTraceback(logging.Filter):
    """Filter of what aiohttp logs of malformed requests and lost connections: a line is enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args = f"{record.getMessage()} ({type(error).__name__})", ()
        record.exc_info = record.exc_text = None
        return True


@contextmanager
def server_log(stream: TextIO) -> Iterator[None]:
    """Write what the server logs to a stream, with times, within the block."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_OneLineFormatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in (__package__, "aiohttp.server")]
    before = [(logger.propagate, logger.level) for logger in loggers]
    without_traceback = _WithoutTraceback()
    loggers[1].addFilter(without_traceback)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        loggers[1].removeFilter(without_traceback)
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)


def serve(settings: ServerSettings, announce: Callable[[str, int], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        settings: of the server.
        announce: is called with host and port when the server listens.

    Raises:
        TalkingheadError: the port is in use, or the folder cannot be used.
    """
    with server_log(sys.stderr):
        asyncio.run(_serve(build_app(settings), settings, announce))


async def _serve(app: Any, settings: ServerSettings, announce: Callable[[str, int], None]) -> None:
    web = aio_web()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=_HEADER_TIMEOUT_S,
        shutdown_timeout=_SHUTDOWN_S,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            raise _address_error(settings, error) from error
        announce(settings.host, runner.addresses[0][1])
        await ended.wait()
    finally:
        await runner.cleanup()


def _address_error(settings: ServerSettings, error: OSError) -> TalkingheadError:
    if error.errno == errno.EADDRINUSE:
        return TalkingheadError(
            f"port {settings.port}: is used by another program; choose another --port, or end that program"
        )
    return TalkingheadError(
        f"host {settings.host}, port {settings.port}: cannot be used ({error.strerror}); choose another"
    )
