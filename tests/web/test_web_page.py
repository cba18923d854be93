"""The page in Chromium: upload to video, live by a fake camera, errors, two sessions, a killed server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp", reason="aiohttp, which the page needs, is not installed")

from support import web_media
from support.browser import OpenPage, contrast, open_browser
from support.web_server import WebServer, running_server

pytestmark = pytest.mark.browser

MAX_PAGE_BYTES = 300_000
MAX_UPLOAD_BYTES = 200 << 20
TEXTS = {".hint": ".card", ".hero p": "body", "h1": "body", "#learn h2": ".card"}
"""Soft and main texts, each with the background that it stands on."""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, carphone: Path) -> Path:
    """Return a folder of a picture, a driver, a camera's film and a text."""
    folder = tmp_path_factory.mktemp("media")
    frames = web_media.carphone_frames(carphone, 24)
    (folder / "anna.png").write_bytes(web_media.picture(frames[0]))
    (folder / "bob.mp4").write_bytes(web_media.video(frames, folder))
    (folder / "notes.txt").write_text("hello")
    web_media.camera_file(frames, folder / "camera.mjpeg")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Return a server."""
    with running_server(tmp_path_factory.mktemp("web") / "sessions", "--max-sessions", "100") as running:
        yield running


@pytest.fixture(scope="module")
def browser(media: Path) -> Iterator[Any]:
    """Return Chromium with a fake camera."""
    with open_browser(media / "camera.mjpeg") as opened:
        yield opened


def test_pictures_become_video_and_stay_after_reload(server: WebServer, browser: Any, media: Path) -> None:
    page = OpenPage(browser, server.url)
    assert page.page.is_disabled("#learn-start") and page.page.is_hidden("#move")
    page.add_pictures(media / "anna.png", media / "notes.txt")
    refused = page.text("#pictures-list .tile.failed")
    assert "notes.txt" in refused and "is no picture or video that can be read" in refused
    assert page.page.get_attribute("#pictures-list img", "alt") == (
        "anna.png, with the landmarks and the crop that were found"
    )
    page.learn()
    page.until("document.querySelector('#people-list video').currentTime > 0")  # the sample moves
    page.page.set_input_files("#drivers-file", str(media / "notes.txt"))
    page.page.wait_for_selector("#drivers-list .tile.failed")
    page.page.set_input_files("#drivers-file", str(media / "bob.mp4"))
    page.until("!document.querySelector('#animate').disabled")
    page.page.click("#animate")
    page.until("document.querySelector('#results .synthesised video')?.readyState >= 2")
    assert page.page.evaluate("document.querySelectorAll('#results video').length") == 2  # driver beside it
    page.page.click("#results .result > button")
    page.until("[...document.querySelectorAll('#results video')].every((one) => one.currentTime > 0)")
    with page.page.expect_download() as download:
        page.page.click("#results a.button")
    assert download.value.suggested_filename == "Person-1-as-bob-mp4.mp4"
    page.page.reload()
    page.page.wait_for_selector("#results .synthesised video")
    assert page.page.locator("#people-list .person").count() == 1
    assert {urlsplit(address).netloc for address in page.addresses if address.startswith("http")} == {
        urlsplit(server.url).netloc
    }
    assert page.problems == []
    page.close()


def test_live_person_moves_after_consent(server: WebServer, browser: Any, media: Path) -> None:
    page = OpenPage(browser, server.url)
    page.add_pictures(media / "anna.png")
    page.learn()
    page.page.click("#tab-live")
    assert page.page.is_disabled("#live-start")
    assert not page.page.evaluate("document.querySelector('#live-video').srcObject")
    page.page.check("#live-consent")
    page.page.click("#live-start")
    page.until("Number(document.querySelector('#live-canvas').dataset.frames) >= 3")
    first = canvas_content(page)
    page.until("Number(document.querySelector('#live-canvas').dataset.frames) >= 9")
    assert canvas_content(page) != first
    assert "Synthesised" in page.text("#live-pair .synthesised")
    page.page.uncheck("#live-consent")  # ends it and closes the camera
    page.until("!document.querySelector('#live-video').srcObject")
    assert page.page.is_disabled("#live-start") and page.problems == []
    page.close()


def canvas_content(page: OpenPage) -> str:
    """Return the image of the live person."""
    return page.page.evaluate("document.querySelector('#live-canvas').toDataURL()")


def test_pictures_are_taken_by_webcam_after_consent(server: WebServer, browser: Any) -> None:
    page = OpenPage(browser, server.url)
    page.page.click("#pictures-camera")
    assert page.page.is_disabled("#shots-take")
    page.page.check("#shots-consent")
    page.until("!document.querySelector('#shots-take').disabled")
    page.page.click("#shots-take")
    page.page.wait_for_selector("#pictures-list .tile img")
    assert "webcam 1.jpg" in page.text("#pictures-list")
    page.page.click("#shots-close")
    page.until("!document.querySelector('#shots-video').srcObject")
    page.close()


def test_two_sessions_at_once_see_their_own(server: WebServer, browser: Any, media: Path) -> None:
    pages = [OpenPage(browser, server.url) for _ in range(2)]
    pages[0].add_pictures(media / "anna.png")
    pages[0].page.fill("#name", "Anna")
    pages[0].learn()
    assert pages[1].page.locator("#pictures-list .tile, #people-list .person").count() == 0
    pages[1].add_pictures(media / "anna.png")
    pages[1].learn()
    assert "Anna" in pages[0].text("#people-list") and "Anna" not in pages[1].text("#people-list")
    second_tab = pages[0].context.new_page()  # of the same session
    second_tab.goto(server.url)
    second_tab.wait_for_selector("#people-list .person")
    second_tab.on("dialog", lambda dialog: dialog.accept())
    second_tab.click("#people-list summary")
    second_tab.click("#people-list .danger")
    pages[0].until("document.querySelectorAll('#people-list .person').length === 0")
    assert pages[1].page.locator("#people-list .person").count() == 1
    for page in pages:
        page.close()


def test_killed_server_is_reported_and_page_recovers(browser: Any, media: Path, tmp_path: Path) -> None:
    with running_server(tmp_path / "sessions") as server:
        page = OpenPage(browser, server.url)
        page.add_pictures(media / "anna.png")
        server.kill()
        page.until("document.querySelector('#connection').textContent.includes('does not answer')")
        page.page.click("#learn-start")
        page.until("document.querySelector('#learn-error').textContent.startsWith('server: it does not')")
        server.restart()
        page.until("document.querySelector('#connection').textContent === ''")
        page.learn()
        page.close()


def test_file_of_200_mb_is_taken_and_larger_one_refused(
    server: WebServer, browser: Any, tmp_path: Path
) -> None:
    page = OpenPage(browser, server.url)
    for name, size in (("large.mp4", MAX_UPLOAD_BYTES), ("larger.mp4", MAX_UPLOAD_BYTES + 1)):
        with (tmp_path / name).open("wb") as file:
            os.truncate(file.fileno(), size)  # a hole, which takes no space here
    page.page.set_input_files("#pictures-file", str(tmp_path / "larger.mp4"))
    page.until("document.querySelector('#pictures-error').textContent.includes('larger than 200 MB')")
    assert page.page.locator("#pictures-list .tile").count() == 0
    page.add_pictures(tmp_path / "large.mp4")
    assert "is no picture or video that can be read" in page.text("#pictures-list .tile.failed")
    page.page.click("#pictures-list .remove")
    page.until("document.querySelectorAll('#pictures-list .tile').length === 0")
    page.close()


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_width_and_is_labelled(server: WebServer, browser: Any, width: int, scheme: str) -> None:
    page = OpenPage(browser, server.url, (width, 800))
    page.page.emulate_media(color_scheme=scheme)
    page.page.evaluate("document.querySelectorAll('[hidden]').forEach((node) => { node.hidden = false; })")
    assert page.page.evaluate("document.scrollingElement.scrollWidth") <= width
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('input, select, button')]"
        ".filter((one) => !one.labels?.length && !one.textContent.trim() && !one.ariaLabel).length"
    )
    assert unnamed == 0
    assert contrast(page, TEXTS) >= 4.5
    page.close()


def test_keyboard_reaches_controls_in_order_with_visible_focus(server: WebServer, browser: Any) -> None:
    page = OpenPage(browser, server.url)
    page.page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(6):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached[:3] == ["skip", "pictures-file", "pictures-camera"]
    assert "model" in reached and "name" in reached
    page.page.focus("#name")
    assert page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.page.evaluate("document.querySelector('#move').hidden = false")
    page.page.focus("#tab-file")
    page.page.keyboard.press("ArrowRight")
    assert page.page.is_visible("#panel-live") and page.page.is_hidden("#panel-file")
    page.close()


def test_page_is_light(server: WebServer, browser: Any) -> None:
    sizes: dict[str, int] = {}
    context = browser.new_context()
    page = context.new_page()
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.goto(server.url)
    page.wait_for_selector("#qualities input")
    assert len(sizes) > 10 and sum(sizes.values()) < MAX_PAGE_BYTES
    context.close()
