"""Chromium, driven by playwright, with a fake camera that plays a file."""

import http.server
import importlib.util
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

NO_BROWSER = "Chromium or playwright, in which the page is tested, is not installed"
WAIT_S = 240.0
"""Seconds after which something that the page should do counts as hung, on a machine that does much else."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    """Return the path of Chromium, None without one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def has_browser() -> bool:
    """Return whether there are Chromium and playwright."""
    return importlib.util.find_spec("playwright") is not None and browser_path() is not None


@contextmanager
def open_browser(camera: Path, *flags: str) -> Iterator[Any]:
    """Open Chromium with more flags, whose camera plays a Motion JPEG file."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
        *flags,
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class BrowserPage:
    """A page in a browser of its own cookies.

    Args:
        browser: from `open_browser`.
        url: its address.
        size: (width, height) of its window.

    Attributes:
        page: of playwright.
        problems: messages of the console and of errors of the page.
        addresses: that it has asked for.
    """

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = (1280, 900)) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * WAIT_S)
        self.problems: list[str] = []
        self.addresses: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self._on_console(message))
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(url)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true; the page allows no other way to evaluate one."""
        end = time.monotonic() + WAIT_S
        while not self.page.evaluate(f"() => Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return self.page.inner_text(selector)

    def close(self) -> None:
        """Close the page."""
        self.context.close()


class OpenPage(BrowserPage):
    """The page of `talkinghead web`, with the model `tiny`; arguments as for `BrowserPage`."""

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = (1280, 900)) -> None:
        super().__init__(browser, url, size)
        self.page.wait_for_selector("#qualities input")
        self.page.select_option("#model", "tiny")

    def add_pictures(self, *files: Path) -> None:
        """Choose pictures, and wait until all were looked at."""
        self.page.set_input_files("#pictures-file", [str(file) for file in files])
        tiles = "[...document.querySelectorAll('#pictures-list .tile')]"
        done = f"{tiles}.every((tile) => ['done', 'failed'].includes(tile.dataset.state))"
        self.until(f"{tiles}.length >= {len(files)} && {done}")

    def learn(self) -> None:
        """Learn a person at once, and wait until it is there."""
        count = self.page.locator("#people-list .person").count()
        self.page.click("#learn-start")
        self.until(f"document.querySelectorAll('#people-list .person').length > {count}")


class ExportedPage(BrowserPage):
    """A page of `talkinghead export --format web`, which has shown the person at rest.

    Args:
        browser, url, size: as for `BrowserPage`.
    """

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = (1280, 900)) -> None:
        super().__init__(browser, url, size)
        self.page.wait_for_selector("html[data-backend]")  # it loads twice, so no expression is evaluated yet

    def frames(self) -> int:
        """Return how many frames of the person were shown."""
        return int(self.page.get_attribute("#person", "data-frames") or 0)

    def until_frames(self, count: int) -> None:
        """Wait until so many more frames were shown."""
        self.until(f"document.querySelector('#person').dataset.frames >= {self.frames() + count}")

    def picture(self) -> str:
        """Return the picture of the person."""
        return str(self.page.evaluate("document.querySelector('#person').toDataURL()"))


def contrast(page: BrowserPage, texts: dict[str, str]) -> float:
    """Return the least contrast of texts to the backgrounds that they stand on, both by selectors."""
    colours = page.page.evaluate(
        "(pairs) => pairs.map((pair) => [getComputedStyle(document.querySelector(pair[0])).color, "
        "getComputedStyle(document.querySelector(pair[1])).backgroundColor])",
        list(texts.items()),
    )
    return min(_ratio(*map(_luminance, pair)) for pair in colours)


def _luminance(colour: str) -> float:
    values = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _ratio(first: float, second: float) -> float:
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """Serve a folder as any static host does, without headers of its own, and yield its address."""
    handler = partial(_SilentHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log no request."""
