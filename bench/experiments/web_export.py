"""Speed and weight of an exported page in Chromium, by WASM with one and two threads.

    python -m bench.experiments.web_export                    # prints one line of JSON
    python -m bench.experiments.web_export --model portrait --seconds 20

The fake camera of Chromium plays the carphone clip at 30 frames a second; Chromium draws on the same cores.
The CPU time is that of the page's workers, which other programs on the machine change little. The weight is
that of the files that a page loads by WASM, as Brotli 9 transfers them, by node.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from bench.experiments.web_page import until, write_media
from talkinghead.exporters.web import QUANTISED, export_web_page
from talkinghead.pipelines.demo import demo_clip
from talkinghead.pipelines.finetune import finetune

_WARM_UP_FRAMES = 10
_BROTLI = (
    "const zlib = require('zlib'); const {readFileSync} = require('fs'); let sum = 0;"
    "for (const file of process.argv.slice(1)) sum += zlib.brotliCompressSync(readFileSync(file), "
    "{params: {[zlib.constants.BROTLI_PARAM_QUALITY]: 9}}).length; console.log(sum);"
)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log no request."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder as a static host does, and yield its address."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def transferred_bytes(folder: Path) -> int:
    """Return the size of the files that a page loads by WASM, compressed by Brotli."""
    gpu_only = ["webgpu", "asyncify"]
    if (folder / QUANTISED).is_file():
        gpu_only.append("person.onnx")
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part in path.name for part in gpu_only)
    ]
    done = subprocess.run(["node", "-e", _BROTLI, *files], capture_output=True, text=True, check=True)
    return int(done.stdout)


def worker_cpu_s() -> float:
    """Return the seconds of CPU time that workers of pages have taken, in processes that this one started."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(_stat_fields(stat)[1])
            threads = [
                path for path in stat.parent.glob("task/*/stat") if "(DedicatedWorker)" in path.read_text()
            ]
            ticks[int(stat.parent.name)] = sum(sum(map(int, _stat_fields(path)[11:13])) for path in threads)
    return sum(ticks[process] for process in ticks if _descends(process, parents)) / os.sysconf("SC_CLK_TCK")


def _stat_fields(path: Path) -> list[str]:
    """Return the fields of a stat file of /proc after the name, which may have spaces in it."""
    return path.read_text().rpartition(")")[2].split()


def _descends(process: int, parents: dict[int, int]) -> bool:
    """Return whether a process is one that this one, or one of its children, started."""
    while process in parents and process != os.getpid():
        process = parents[process]
    return process == os.getpid()


def measure(browser: Browser, address: str, *, threads: int, seconds: float) -> dict[str, float]:
    """Return the seconds to the first picture on a first visit, and the speed by webcam."""
    page = browser.new_context().new_page()
    start = time.monotonic()
    page.goto(f"{address}?backend=wasm&threads={threads}")
    page.wait_for_selector("html[data-backend]")
    opened = time.monotonic() - start
    page.check("#consent")
    page.click("#camera")
    count = "Number(document.querySelector('#person').dataset.frames)"
    until(page, f"{count} > {_WARM_UP_FRAMES}")
    first, start, cpu_start = page.evaluate(count), time.monotonic(), worker_cpu_s()
    page.wait_for_timeout(1000 * seconds)
    frames, elapsed, cpu = page.evaluate(count) - first, time.monotonic() - start, worker_cpu_s() - cpu_start
    page.context.close()
    return {
        "open_s": round(opened, 2),
        "fps": round(frames / elapsed, 1),
        "worker_cpu_ms": round(1000 * cpu / frames),
    }


def main() -> None:
    """Export a person, open the page, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="small")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    figures: dict[str, Any] = {"model": args.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_media(folder)
        person = finetune(args.model, str(demo_clip()), steps=0)
        export_web_page(person, folder / "page", "Man")
        figures["transferred_mb"] = round(transferred_bytes(folder / "page") / 1e6, 1)
        arguments = [
            "--no-sandbox",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
        ]
        with serve(folder / "page") as address, sync_playwright() as playwright:
            for threads in args.threads:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
                figures[f"{threads}_threads"] = measure(
                    browser, address, threads=threads, seconds=args.seconds
                )
                browser.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
