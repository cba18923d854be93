"""Engines as files: a person written in one of the formats, compared with torch, and opened again."""

import logging
import os
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..checkpoint import Person, load_person
from ..data.outputs import check_outputs
from ..errors import TalkingheadError
from ..files import replacing
from ..torch_state import with_default_torch_state
from .aoti import AotiEngine, write_aoti
from .engine import Engine
from .manifest import INPUTS, OUTPUTS, PRECISIONS, Manifest, check_seal_inside, read_sidecar, sealed, sidecar
from .onnx import OnnxEngine, write_onnx
from .probe import belongs, probe
from .tensorrt_builder import build_tensorrt, refit_tensorrt
from .tensorrt_runtime import TensorRTEngine
from .trust import remember_engine

_log = logging.getLogger(__name__)

FORMATS = ("onnx", "tensorrt", "aoti")
MOST = 8
"""The largest batch an engine is made for."""
DEFAULTS: dict[str, Any] = {"precision": "fp32", "batch": MOST, "input": "points", "output": "uint8"}
_KNOWN: dict[str, Collection[Any]] = {
    "format": FORMATS,
    "precision": PRECISIONS,
    "batch": range(1, MOST + 1),
    "input": INPUTS,
    "output": OUTPUTS,
}
_SHOWN = ("opset", "torch", "device", "portable", "builder", "builder_version", "target", "refittable", "warnings")


@dataclass(frozen=True)
class Exported:
    """An engine that was written or checked.

    Attributes:
        file: where it is.
        bytes: its size.
        manifest: what it says of itself.
        decibels: PSNR of its frames against torch's in float32, None where it cannot run here.
        why_not: then, why.
        seconds: taken.
    """

    file: Path
    bytes: int
    manifest: Manifest
    decibels: float | None
    why_not: str
    seconds: float

    def lines(self) -> list[str]:
        """For people."""
        it = self.manifest
        given = "landmarks" if it.input == "points" else "landmark images"
        whose = "one person" if it.styles == "constant" else "anybody's, styles are given with them"
        compared = f"not run here: {self.why_not}"
        if self.decibels is not None:
            compared = "the same frames as torch's" if self.decibels == float("inf") else f"{self.decibels:.1f} dB from torch's frames"
        details = ", ".join(f"{name} {it.details[name]}" for name in _SHOWN if name in it.details)
        return [
            f"{self.file}: {it.format}, {it.preset} {it.size}x{it.size}, {it.precision}, up to {it.batch} frames at a time, "
            f"{self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s",
            f"takes {given}, gives {it.output}; shows {whose}; {details}",
            compared,
        ]

    def as_dict(self) -> dict[str, Any]:
        equal = self.decibels == float("inf")
        return {
            "file": str(self.file),
            "bytes": self.bytes,
            "psnr": None if self.decibels is None or equal else round(self.decibels, 2),
            "equal": equal,
            "not_run": self.why_not,
            "seconds": round(self.seconds, 2),
            **{name: value for name, value in asdict(self.manifest).items() if name != "reference"},
        }


@with_default_torch_state
def export(
    person: Person,
    out: str | os.PathLike[str],
    format: str,
    precision: str | None = None,
    batch: int | None = None,
    input: str | None = None,
    output: str | None = None,
    name: str = "",
    portable: bool = False,
    target: str | None = None,
    base: str | None = None,
    device: str = "cpu",
) -> Exported:
    """Write an engine of a person, compared with torch before it is kept.

    Args:
        person: whom; a feed-forward person's engine shows everybody of the same model.
        out: the file. A .json is written beside one that cannot say what it is.
        format: one of `FORMATS`.
        precision, batch, input, output: as in `Manifest`, by default fp32, `MOST`, points and uint8; or those of the base.
        name: the person's file, for the record.
        portable: of aoti, in torch's ops alone.
        target: of tensorrt, the GPU it is for, such as "sm_120"; by default the one that is here.
        base: of tensorrt, an engine of another person of the same preset, whose kernels are taken and whose weights are replaced.
        device: "cpu" or "cuda", where an aoti engine is to run and any engine is tried.

    Raises:
        TalkingheadError: a setting is unknown, a part is not installed, the engine shows something else than torch, or the file cannot be
            written; nothing is left then.
    """
    out, start = Path(out), perf_counter()
    chosen = {"precision": precision, "batch": batch, "input": input, "output": output}
    wanted = {what: value for what, value in chosen.items() if value is not None}
    _check_settings(out, format, wanted, portable, target, base)
    check_outputs([out, sidecar(out)], [name, base, sidecar(base) if base else None])
    if format == "tensorrt":
        if base is not None:
            manifest = refit_tensorrt(base, person, out, name, _gpu(device), **wanted)
        else:
            manifest = build_tensorrt(person, out, name=name, target=target, device=_gpu(device), **{**DEFAULTS, **wanted})
        decibels, why_not = manifest.details["psnr"], manifest.details["unverified"]
    else:
        manifest, decibels = _write(person, out, format, {**DEFAULTS, **wanted, "name": name}, portable, device)
        why_not = ""
    return Exported(out, out.stat().st_size, manifest, decibels, why_not, perf_counter() - start)


def _check_settings(out: Path, format: str, wanted: dict[str, Any], portable: bool, target: str | None, base: str | None) -> None:
    for what, given in {"format": format, **wanted}.items():
        known = _KNOWN[what]
        if given not in known:
            raise TalkingheadError(f"export: {what} {given!r} is unknown, one of {', '.join(map(str, known))} was expected")
    for what, given, of in (("portable", portable, "aoti"), ("target", target, "tensorrt"), ("base", base, "tensorrt")):
        if given and format != of:
            raise TalkingheadError(f"export: --{what} belongs to --format {of}, got {format}; leave it out")
    if base and target:
        raise TalkingheadError("export: an engine made from a base is for the base's GPU; leave --target out, or --base")
    if format == "onnx" and sidecar(out).exists():
        raise TalkingheadError(f"{sidecar(out)}: belongs to an older engine of this name; remove it, or name another file")
    if format == "aoti" and out.suffix != ".pt2":
        raise TalkingheadError(f"{out}: an aoti engine is a .pt2 file; name it so")


def _write(person: Person, out: Path, format: str, settings: dict[str, Any], portable: bool, device: str) -> tuple[Manifest, float]:
    """Write and compare an engine that runs here; gives its PSNR too."""
    with ExitStack() as stack:
        beside = stack.enter_context(replacing(out))
        if format == "onnx":
            manifest = write_onnx(person, beside, **settings)
        else:
            manifest = write_aoti(person, beside, **settings, portable=portable, device=device)
            text = sealed(manifest, beside)
            stack.enter_context(replacing(sidecar(out))).write_text(text, encoding="utf-8")
            stack.callback(sidecar(beside).unlink, missing_ok=True)
            sidecar(beside).write_text(text, encoding="utf-8")
        try:
            decibels = probe(open_engine(beside, person, device, trust=True), person)
        except TalkingheadError as error:  # the name it was tried under is gone when this is read
            raise TalkingheadError(str(error).replace(str(beside), str(out))) from error
        if format == "aoti" and not remember_engine(beside):
            _log.warning("%s: the list of engines made here cannot be written; open this one with --trust", out)
        return manifest, decibels


def _gpu(device: str) -> str:
    """TensorRT runs on GPUs alone, whatever others run on."""
    return "cuda" if device == "cpu" else device


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What an engine file says of itself, once it was found to be as it was written.

    Raises:
        TalkingheadError: the file is missing, cut, edited or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise TalkingheadError(f"{path}: no such file; an engine is what `talkinghead export` writes")
    return read_sidecar(path) if sidecar(path).is_file() else check_seal_inside(path)


@with_default_torch_state
def open_engine(path: str | os.PathLike[str], person: Person | None = None, device: str = "cpu", trust: bool = False) -> Engine:
    """Open an engine; nothing in it is run before its checksum was found right, and nothing is unpickled.

    Args:
        path: what `export` wrote.
        person: whose it is to be; their styles are used where the engine has none.
        device: "cpu" or "cuda".
        trust: run native code (a .pt2) that this machine did not make; whoever made it can do whatever the user can.

    Raises:
        TalkingheadError: the file is missing, cut, edited, of another version, for another machine, another person's, or native code
            that is not trusted.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.format not in _OPEN:
        raise TalkingheadError(
            f"{path}: is an engine of format {manifest.format!r}, one of {', '.join(_OPEN)} was expected; export it again"
        )
    if person is not None:
        belongs(manifest, person, path)
    engine = _OPEN[manifest.format](path, device, trust)
    if person is not None:
        engine.show(person)
        if manifest.format == "tensorrt" and not manifest.details.get("verified"):
            probe(engine, person)  # it was built where it could not run
    return engine


@with_default_torch_state
def check(
    path: str | os.PathLike[str],
    person: Person | str | None = None,
    device: str = "cpu",
    model: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> Exported:
    """What an engine holds, run beside its person where it can run here.

    Args:
        path: the engine.
        person: whose it is, or their file; by default the file it was made from, if it is still there.
        device: "cpu" or "cuda".
        model: as for `load_person`.
        trust: as for `open_engine`.

    Raises:
        TalkingheadError: the file is missing, cut, edited or of another version; the person is not found or another; the frames differ.
    """
    start, path = perf_counter(), Path(path)
    manifest = read_manifest(path)
    if person is None:  # where it was then, or beside the engine
        person = next((str(each) for each in (manifest.person, path.parent / Path(manifest.person).name) if os.path.isfile(each)), None)
    if person is None:
        raise TalkingheadError(
            f"{path}: was made from {manifest.person or 'a person that was never saved'}, which is not here; name the person's file"
        )
    person = person if isinstance(person, Person) else load_person(person, model)
    belongs(manifest, person, path)
    decibels, why_not = None, ""
    try:
        engine = open_engine(path, device=device, trust=trust)
    except TalkingheadError as error:
        why_not = str(error)
    else:
        decibels = probe(engine, person)
    return Exported(path, path.stat().st_size, manifest, decibels, why_not, perf_counter() - start)


_OPEN: dict[str, Callable[[Path, str, bool], Engine]] = {
    "onnx": lambda path, device, _: OnnxEngine(path, device),
    "aoti": AotiEngine,
    "tensorrt": lambda path, device, _: TensorRTEngine(path, _gpu(device)),
}
