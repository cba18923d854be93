"""Export of a person as a page: a folder of static files that runs in any browser, from any static host.

The page follows a face by our networks and renders the person, by WebGPU or WASM. What the networks do not
compute is JavaScript in `static/js`: modules with the names of the Python modules that they port, whose
constants `web_constants.py` writes.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..engines.load import open_engine
from ..engines.report import describe_psnr, psnr_values
from ..engines.verify import verify_against_torch
from ..errors import TalkingheadError
from ..landmarks.gaze import points_looking_ahead
from ..landmarks.retarget import neutral_face
from ..media.pixel_range import float_to_levels
from ..model import Person
from ..networks.references import References, ReferenceViewer
from ..system.atomic_file import atomic_folder
from ..system.onnx_runtime import quantise_convolutions
from ..system.stage_timer import timed_stage
from ..system.torch_state import with_default_torch_state
from .landmark_network import export_detection_network, export_landmark_network
from .onnx import write_onnx
from .quantisation import MIN_PSNR_DB, least_psnr_db, sample_inputs
from .web_constants import constants_module

log = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
"""Files of the page, and onnxruntime-web, which setup.py fetches when the package is built."""
WEB_STATIC = Path(__file__).parents[1] / "web" / "static"
"""Files of the page of `talkinghead web`, of which the exported page has the look."""
_SHARED = ("style.css", "parts.css", "icon.svg", "js/dom.js", "js/camera.js")
_PATTERNS = ("*.*", "js/*.js", "onnxruntime/LICENSE", "onnxruntime/*.mjs", "onnxruntime/*.wasm")
QUANTISED = "person-int8.onnx"
"""The person's network with convolutions in 8 bits, which the page runs by WASM."""
_PERSON_FILES = (
    "detection.onnx",
    "landmarks.onnx",
    "person.onnx",
    QUANTISED,
    "person.json",
    "references.bin",
)
_DEFAULT_NAME = "Person"


@dataclass(frozen=True)
class WebPageReport:
    """A page that was written.

    Attributes:
        folder: where it is.
        name: of the person.
        num_bytes: size of its files.
        size: side of the person's frames in pixels.
        psnr_db: PSNR of the person's network against PyTorch in float32.
        quantised_psnr_db: the least PSNR of a frame of the network in 8 bits against that in float32; where
            it is below 35, the page has no network in 8 bits.
        seconds: duration of the export.
    """

    folder: Path
    name: str
    num_bytes: int
    size: int
    psnr_db: float
    quantised_psnr_db: float
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as text."""
        return [
            f"{self.folder}: page of {self.name}, {self.size}x{self.size}, {self.num_bytes / 1e6:.1f} MB, "
            f"{self.seconds:.0f} s; {describe_psnr(self.psnr_db)}; in 8 bits {self.quantised_psnr_db:.1f} dB",
            f"try it: python -m http.server --bind 127.0.0.1 --directory {self.folder}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values of JSON."""
        return {
            "folder": str(self.folder),
            "name": self.name,
            "bytes": self.num_bytes,
            "size": self.size,
            **psnr_values(self.psnr_db),
            "quantised_psnr_db": psnr_values(self.quantised_psnr_db)["psnr"],
            "seconds": round(self.seconds, 2),
        }


@with_default_torch_state
def export_web_page(person: Person, out: str | os.PathLike[str], name: str = "") -> WebPageReport:
    """Write a person as a folder of static files.

    Args:
        person: who is shown.
        out: the folder; that of an earlier export is replaced.
        name: of the person on the page; by default that of the person's file.

    Raises:
        TalkingheadError: the package was built without onnxruntime-web, a dependency is not installed, the
            folder has other files in it or cannot be written to, or the network's frames differ from
            PyTorch's; the folder stays as it was then.
    """
    start, out = perf_counter(), Path(out)
    name = name or (person.file.stem if person.file else _DEFAULT_NAME)
    _check_runtime()
    with atomic_folder(out) as folder:
        _copy_page(folder)
        _check_replaceable(out, folder)
        with timed_stage("writing the networks"):
            export_detection_network(folder / "detection.onnx")
            export_landmark_network(folder / "landmarks.onnx")
            # the styles inside: a split of them is too wide for WebGPU
            fixed = replace(person, feed_forward=False)
            engine = folder / "person.onnx"
            write_onnx(fixed, engine, batch=1, input="image", output="float", name=name, for_browser=True)
        with timed_stage("verifying"):
            psnr_db = verify_against_torch(open_engine(engine, fixed, device="cpu"), fixed)
        with timed_stage("quantising"):
            quantised_psnr_db = _quantise(fixed, engine, folder / QUANTISED)
        wasm_file = QUANTISED if (folder / QUANTISED).is_file() else engine.name
        description = _describe(person, name) | {"network": {"webgpu": engine.name, "wasm": wasm_file}}
        if person.references is not None:
            description["references"] = _write_references(person.references, folder / "references.bin")
        (folder / "person.json").write_text(json.dumps(description), encoding="utf-8")
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return WebPageReport(
        folder=out,
        name=name,
        num_bytes=num_bytes,
        size=person.config.networks.image_size,
        psnr_db=psnr_db,
        quantised_psnr_db=quantised_psnr_db,
        seconds=perf_counter() - start,
    )


def _quantise(person: Person, engine: Path, out: Path) -> float:
    """Write the network in 8 bits if its frames are near enough, and return the least PSNR of one in dB."""
    inputs = sample_inputs(person)
    quantise_convolutions(engine, out, inputs[::2])
    psnr_db = least_psnr_db(engine, out, inputs[1::2])
    if psnr_db < MIN_PSNR_DB:
        out.unlink()
        log.warning(
            "export: frames of the network in 8 bits are %.1f dB from those in float32, expected %.0f; the "
            "page runs the larger, slower one in float32",
            psnr_db,
            MIN_PSNR_DB,
        )
    return psnr_db


def _check_runtime() -> None:
    """Check that onnxruntime-web was fetched when the package was built."""
    if not (STATIC / "onnxruntime" / "package-lock.json").is_file():  # setup.py copies it last
        raise TalkingheadError(
            "export: onnxruntime-web is not in this installation, which was built without npm or offline; "
            "install npm, then install talkinghead again from its source"
        )


def _copy_page(folder: Path) -> None:
    """Copy the files of the page, and write the constants of its modules."""
    own = [path.relative_to(STATIC) for pattern in _PATTERNS for path in STATIC.glob(pattern)]
    for source, files in ((WEB_STATIC, _SHARED), (STATIC, own)):
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, folder / file)
    (folder / "js" / "constants.js").write_text(constants_module(), encoding="utf-8")


def _describe(person: Person, name: str) -> dict[str, Any]:
    """Return what the page must know of a person besides the network, as values of JSON."""
    networks = person.config.networks
    points = points_looking_ahead(person.neutral_landmarks, networks.num_points)
    neutral = neutral_face(person.neutral_landmarks[None])
    return {
        "name": name,
        "size": networks.image_size,
        "layer_size": networks.layer_size,
        "num_points": networks.num_points,
        "points": points.ravel().tolist(),
        "neutral": {
            "shape": neutral.shape.ravel().tolist(),
            "place": neutral.place.tolist(),
            "closed": neutral.closed.tolist(),
        },
    }


def _write_references(references: References, path: Path) -> dict[str, Any]:
    """Write a person's references and return what the page must know of them, as values of JSON.

    The file holds the images uint8 [T, S, S, 3], then the plates uint8 [P, S, S, 4]: one for each image, or
    for the scene that all share.
    """
    viewer = ReferenceViewer(references)
    plates = viewer.plates if viewer.scene is None else viewer.plates[:1]
    levels = torch.cat([float_to_levels(plates[:, :3]), plates[:, 3:] * 255], 1).round()
    with path.open("wb") as file:
        file.write(references.images.tobytes())
        file.write(levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    return {
        "size": references.images.shape[1],
        "scene": viewer.scene,
        "points": references.points.reshape(len(references), -1).tolist(),
    }


def _check_replaceable(out: Path, folder: Path) -> None:
    """Check that a folder has no other files than a page has.

    Args:
        out: the folder.
        folder: one with the files that every page has.
    """
    files = {path.relative_to(folder) for path in folder.rglob("*")} | {*map(Path, _PERSON_FILES)}
    other = [path for path in sorted(out.rglob("*")) if path.relative_to(out) not in files]
    if other:
        raise TalkingheadError(
            f"{out}: has {other[0].relative_to(out)} in it, which is no file of a page; name another folder"
        )
