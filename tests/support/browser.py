"""Chromium, driven by playwright, with a fake camera that plays a file."""

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
def open_browser(camera: Path) -> Iterator[Any]:
    """Open Chromium, whose camera plays a Motion JPEG file."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class OpenPage:
    """A page of the server in a browser of its own cookies.

    Args:
        browser: from `open_browser`.
        url: of the server.
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
        self.page.wait_for_selector("#qualities input")
        self.page.select_option("#model", "tiny")

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

    def close(self) -> None:
        """Close the page."""
        self.context.close()
