"""Speed of the page in Chromium: weight, first paint, from a dropped picture to a moving person, live.

    python -m bench.experiments.web_page                    # prints one line of JSON
    python -m bench.experiments.web_page --model small --seconds 20

The fake camera of Chromium plays the carphone clip at 30 frames a second; Chromium draws on the same cores.
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from talkinghead.pipelines.demo import demo_clip

_WAIT_S = 300.0
_WARM_UP_S = 20.0  # in which the workers load what the first job needs
_CAMERA_SIZE = (640, 480)


def until(page: Page, condition: str) -> None:
    """Wait until an expression of JavaScript is true."""
    end = time.monotonic() + _WAIT_S
    while not page.evaluate(f"() => Boolean({condition})"):
        if time.monotonic() > end:
            raise SystemExit(f"never true: {condition}")
        time.sleep(0.02)


def write_media(folder: Path) -> None:
    """Write a picture and a film for the camera."""
    with av.open(str(demo_clip())) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    images[0].resize((352, 288)).save(folder / "face.png")
    with (folder / "camera.mjpeg").open("wb") as film:
        for image in images + images[::-1]:
            buffer = io.BytesIO()
            image.resize(_CAMERA_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG")
            film.write(buffer.getvalue())


def measure(page: Page, url: str, folder: Path, *, model: str, seconds: float) -> dict[str, Any]:
    """Return the figures of one visit of the page."""
    page.goto(url)
    page.wait_for_selector("#qualities input")
    page.wait_for_timeout(500)
    figures: dict[str, Any] = {
        "first_paint_ms": page.evaluate("performance.getEntriesByType('paint')[0].startTime"),
        "page_bytes": page.evaluate(
            "['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))"
            ".reduce((sum, entry) => sum + entry.transferSize, 0)"
        ),
    }
    time.sleep(_WARM_UP_S)
    page.select_option("#model", model)
    start = time.monotonic()
    page.set_input_files("#pictures-file", str(folder / "face.png"))
    until(page, "!document.querySelector('#learn-start').disabled")
    page.click("#learn-start")
    until(page, "document.querySelector('#people-list video')?.currentTime > 0")
    figures["dropped_to_moving_s"] = round(time.monotonic() - start, 1)
    page.click("#tab-live")
    page.check("#live-consent")
    page.click("#live-start")
    until(page, "Number(document.querySelector('#live-canvas').dataset.frames) > 20")
    count = "Number(document.querySelector('#live-canvas').dataset.frames)"
    first, start = page.evaluate(count), time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    figures["live_fps"] = round((page.evaluate(count) - first) / (time.monotonic() - start), 1)
    figures["live_latency_ms"] = int(page.get_attribute("#live-canvas", "data-latency") or 0)
    return figures


def main() -> None:
    """Start a server and Chromium, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_media(folder)
        command = [sys.executable, "-m", "talkinghead", "web", "--port", "0", "--folder", str(folder / "web")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = next(filter(None, (re.search(r"http://\S+", line) for line in server.stdout)))[0]
            arguments = [
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
            ]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
                page = browser.new_page()
                figures = measure(page, url, folder, model=args.model, seconds=args.seconds)
                browser.close()
        finally:
            server.terminate()
            server.wait()
    print(json.dumps({"model": args.model, **figures}))


if __name__ == "__main__":
    main()
