"""An exported page in Chromium, from a static host: webcam and video, threads, WebGPU, what it asks for."""

import base64
import io
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from support import web_media
from support.browser import BrowserPage, ExportedPage, contrast, open_browser, static_host
from support.page_frames import page_frames
from talkinghead.engines.verify import pooled_psnr_db, verification_poses
from talkinghead.exporters import web
from talkinghead.model import Person

pytestmark = pytest.mark.browser

MIN_PSNR_DB = 40.0
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan,WebGPU",
)
TEXTS = {".hint": ".card", ".hero p": "body", "h1": "body", "footer p": "body", "figcaption": ".card"}
"""Texts, each with the background that it stands on."""
OTHER_NAME = "page.test"
"""Name of the host over http, which browsers trust less than 127.0.0.1."""
RENDER = """async ([backend, poses]) => {
  const { LivePerson } = await import('./js/live_person.js');
  const readFile = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const person = await LivePerson.open(readFile, { backend, threads: 1 });
  const frames = [];
  for (const pose of poses) frames.push([...await person.render(Float32Array.from(pose))]);
  return frames;
}"""
"""Renders poses by a backend."""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, carphone: Path) -> Path:
    """Return a folder of a driver, a camera's film and a text that is called a video."""
    folder = tmp_path_factory.mktemp("media")
    frames = web_media.carphone_frames(carphone, 24)
    (folder / "bob.mp4").write_bytes(web_media.video(frames, folder))
    (folder / "notes.mp4").write_text("hello")
    web_media.camera_file(frames, folder / "camera.mjpeg")
    return folder


@pytest.fixture(scope="module")
def host(web_page: Path) -> Iterator[str]:
    """Return the address of a static host of the page, which is not at its root."""
    with static_host(web_page.parent) as address:
        yield f"{address}page/"


@pytest.fixture(scope="module")
def browser(media: Path) -> Iterator[Any]:
    """Return Chromium with a fake camera, and a GPU that is computed."""
    resolve = f"--host-resolver-rules=MAP {OTHER_NAME} 127.0.0.1"
    with open_browser(media / "camera.mjpeg", resolve, *SOFTWARE_GPU) as opened:
        yield opened


def test_webcam_moves_the_person_after_consent(host: str, browser: Any) -> None:
    page = ExportedPage(browser, host)
    assert page.text("h1") == "Move Anna's face" and page.frames() == 1
    threads = page.page.evaluate("crossOriginIsolated && Math.min(navigator.hardwareConcurrency, 4)")
    assert re.fullmatch(rf"Ready, by WASM with {threads} threads?\.", page.text("#status"))
    assert page.page.is_disabled("#camera")
    assert not page.page.evaluate("document.querySelector('#video').srcObject")
    page.page.check("#consent")
    page.page.click("#camera")
    page.until_frames(3)
    first = page.picture()
    page.until_frames(5)
    assert page.picture() != first
    page.until("document.querySelector('#status').textContent === 'live'")
    assert "Synthesised" in page.text(".synthesised figcaption")
    page.page.uncheck("#consent")  # ends it and closes the camera
    page.until("!document.querySelector('#video').srcObject")
    assert page.page.is_disabled("#camera") and page.page.is_disabled("#stop")
    names = [urlsplit(address) for address in page.addresses if address.startswith("http")]
    assert {name.netloc for name in names} == {urlsplit(host).netloc}
    assert not any(re.search(r"webgpu|asyncify", name.path) for name in names)  # loaded only where it is used
    assert page.problems == []
    page.close()


def test_video_moves_the_person_and_unreadable_one_is_reported(host: str, browser: Any, media: Path) -> None:
    page = ExportedPage(browser, f"{host}?threads=1")
    assert "1 thread." in page.text("#status")
    page.page.set_input_files("#video-file", str(media / "notes.mp4"))
    page.until("document.querySelector('#error').textContent")
    assert page.text("#error") == "notes.mp4: this browser cannot play it; choose an .mp4 or .webm"
    page.page.set_input_files("#video-file", str(media / "bob.mp4"))
    page.until_frames(4)
    assert page.text("#driver figcaption") == "bob.mp4" and page.text("#error") == ""
    page.page.click("#stop")
    page.until("document.querySelector('#driver').hidden")
    assert page.problems == []
    page.close()


def test_page_without_service_worker_runs_with_one_thread(host: str, browser: Any, media: Path) -> None:
    page = ExportedPage(browser, host.replace("127.0.0.1", OTHER_NAME))
    assert page.text("#status") == "Ready, by WASM with 1 thread."
    page.page.check("#consent")
    page.page.click("#camera")
    page.until("document.querySelector('#error').textContent")
    assert page.text("#error").startswith(
        "webcam: browsers give it to pages over https or of this machine only"
    )
    page.page.set_input_files("#video-file", str(media / "bob.mp4"))
    page.until_frames(2)
    assert page.text("#error") == "" and page.problems == []
    page.close()


def test_picture_says_that_it_is_synthesised(host: str, browser: Any) -> None:
    page = ExportedPage(browser, host)
    data = base64.b64decode(page.picture().partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.int32)
    mark = pixels[-30:, -120:]  # white letters on a dark ground
    assert mark.max() > 240 and np.median(mark) < 128 and (mark > 200).mean() > 0.02
    page.close()


@pytest.mark.parametrize("backend", ["wasm", pytest.param("webgpu", marks=pytest.mark.slow)])
def test_frames_are_those_of_python_onnxruntime(
    backend: str, host: str, browser: Any, web_page: Path, web_page_person: Person
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    page = ExportedPage(browser, host)
    if backend == "webgpu" and not page.page.evaluate(
        "async () => Boolean(await navigator.gpu?.requestAdapter())"
    ):
        pytest.skip("this Chromium has no WebGPU, not even a computed one")
    poses = verification_poses(web_page_person.neutral_landmarks)
    frames = page.page.evaluate(RENDER, [backend, poses.reshape(len(poses), -1).tolist()])
    pixels = np.array(frames, np.uint8).reshape(len(poses), 64, 64, 4)[..., :3]
    network = {"wasm": web.QUANTISED, "webgpu": "person.onnx"}[backend]
    expected = page_frames(web_page / network, web_page_person, poses)
    assert pooled_psnr_db(pixels, expected) > MIN_PSNR_DB
    assert pooled_psnr_db(pixels[::-1], expected) < MIN_PSNR_DB
    page.close()


def test_policy_blocks_other_code_and_other_hosts(host: str, browser: Any) -> None:
    page = ExportedPage(browser, host)
    ran = page.page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.ran = true'; "
        "document.head.append(script); return Boolean(window.ran); }"
    )
    assert not ran
    violated = page.page.evaluate(
        "() => new Promise((resolve) => { document.addEventListener('securitypolicyviolation', "
        "(event) => resolve(event.effectiveDirective)); fetch('http://127.0.0.2:9/').catch(() => {}); })"
    )
    assert violated == "connect-src"
    policy = page.page.evaluate(
        "async () => (await fetch('js/worker.js')).headers.get('content-security-policy')"
    )
    assert "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'" in policy  # of the worker too
    page.close()


def test_missing_file_is_reported(browser: Any, web_page: Path, tmp_path: Path) -> None:
    shutil.copytree(web_page, tmp_path / "page")
    (tmp_path / "page" / "landmarks.onnx").unlink()
    with static_host(tmp_path / "page") as address:
        page = BrowserPage(browser, address)
        page.page.wait_for_selector("#error:not(:empty)")
        assert page.text("#error") == "landmarks.onnx: the host does not have it (404); export the page again"
        assert page.page.is_disabled("#camera") and page.page.is_disabled("#video-file")
        page.close()


def test_page_fits_widths_and_is_labelled(host: str, browser: Any) -> None:
    page = ExportedPage(browser, host)
    page.page.evaluate("document.querySelectorAll('[hidden]').forEach((node) => { node.hidden = false; })")
    for scheme, width in itertools.product(("light", "dark"), (360, 768, 1280)):
        page.page.emulate_media(color_scheme=scheme)
        page.page.set_viewport_size({"width": width, "height": 800})
        assert page.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert contrast(page, TEXTS) >= 4.5
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('input, button, canvas, video')]"
        ".filter((one) => !one.labels?.length && !one.textContent.trim() && !one.ariaLabel).length"
    )
    assert unnamed == 0
    page.close()


def test_keyboard_reaches_controls_and_starts_the_webcam(host: str, browser: Any) -> None:
    page = ExportedPage(browser, host)
    page.page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(3):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached == ["skip", "consent", "mirror"]
    page.page.focus("#consent")
    page.page.keyboard.press("Space")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.id") == "camera"
    assert page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.page.keyboard.press("Enter")
    page.until_frames(2)
    page.close()
