"""node.js, in which the modules of an exported page run."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talkinghead.exporters.web import STATIC

HAS_RUNTIME = (STATIC / "onnxruntime" / "package-lock.json").is_file()
NO_RUNTIME = "onnxruntime-web, which setup.py fetches by npm, is not installed"
NO_NODE = "node, or onnxruntime-web, which setup.py fetches by npm, is not installed"
SCRIPTS = Path(__file__).resolve().parents[1] / "exporters" / "page_in_node"


def has_node() -> bool:
    """Return whether there are node and the runtime of exported pages."""
    return shutil.which("node") is not None and HAS_RUNTIME


def run_node(script: str, *arguments: str | Path, text: str = "") -> str:
    """Run a script of this folder in node, and return its output."""
    command = ["node", SCRIPTS / script, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(page: Path, module: str, function: str, *arguments: Any) -> Any:
    """Return the result of a function of a page's module; arrays may be arguments."""
    text = json.dumps(arguments, default=np.ndarray.tolist)
    return json.loads(run_node("call.mjs", page, module, function, text=text))


@dataclass(frozen=True)
class PageResult:
    """Result of a page for one frame of a clip.

    Attributes:
        is_seen: whether a face was.
        is_new: whether it may be another person than the one before.
        driver: float64 [78, 2], the driver's points in pixels; none without a face.
        points: float64 [68 or 78, 2], the person's in fractions of the crop.
        frame: uint8 [size, size, 3], the person's.
    """

    is_seen: bool
    is_new: bool
    driver: np.ndarray
    points: np.ndarray
    frame: np.ndarray


def run_page(page: Path, frames: np.ndarray, times: np.ndarray, folder: Path) -> list[PageResult]:
    """Run a page's pipeline on frames uint8 [N, H, W, 3] at seconds [N]; files go to a folder."""
    opaque = np.full((*frames.shape[:3], 1), 255, np.uint8)
    np.concatenate([frames, opaque], axis=3).tofile(folder / "clip.rgba")
    clip = {"width": frames.shape[2], "height": frames.shape[1], "times": times.tolist()}
    (folder / "clip.json").write_text(json.dumps(clip))
    run_node("live_person.mjs", page, folder / "clip", folder / "out")
    rows = json.loads((folder / "out.json").read_text())
    pictures = np.fromfile(folder / "out.rgba", np.uint8).reshape(len(frames), -1, 4)
    size = round(pictures.shape[1] ** 0.5)
    return [
        PageResult(
            is_seen=row["isSeen"],
            is_new=row["isNew"],
            driver=np.array(row["driver"]).reshape(-1, 2),
            points=np.array(row["points"]).reshape(-1, 2),
            frame=picture[:, :3].reshape(size, size, 3),
        )
        for row, picture in zip(rows, pictures, strict=True)
    ]
