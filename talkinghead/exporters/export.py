"""Export of a person to an engine file in one of the formats, verified against PyTorch before it is kept."""

import logging
import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from ..constants import ENGINE_ENDINGS, ENGINE_FORMATS, ENGINE_INPUTS, ENGINE_OUTPUTS, MAX_BATCH, PRECISIONS
from ..data.output_paths import check_ending, check_outputs
from ..engines.load import gpu_device, open_engine
from ..engines.manifest import Manifest, manifest_with_checksum, sidecar
from ..engines.report import EngineReport
from ..engines.trust import remember_engine
from ..engines.verify import verify_against_torch
from ..errors import TalkingheadError
from ..model import Person
from ..system.atomic_file import atomic_write
from ..system.device import choose_device
from ..system.stage_timer import timed_stage
from ..system.torch_state import with_default_torch_state
from .aoti import write_aoti
from .onnx import write_onnx
from .tensorrt import build_tensorrt, refit_tensorrt

_log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {"precision": "fp32", "batch": MAX_BATCH, "input": "points", "output": "uint8"}
_CHOICES: dict[str, Collection[Any]] = {
    "format": ENGINE_FORMATS,
    "precision": PRECISIONS,
    "batch": range(1, MAX_BATCH + 1),
    "input": ENGINE_INPUTS,
    "output": ENGINE_OUTPUTS,
}


@with_default_torch_state
def export_person(
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
    device: str = "auto",
) -> EngineReport:
    """Write an engine of a person, and compare it with PyTorch before it is kept.

    Args:
        person: whose engine it is; a feed-forward person's renders everybody of the same model.
        out: the file. A .json is written next to one that cannot contain its manifest.
        format: "onnx", "aoti" or "tensorrt".
        precision, batch, input, output: as in `talkinghead.engines.manifest.EngineSpec`; by default fp32, 8,
            points and uint8, or those of the base.
        name: the person's file, for the manifest; by default `person.file`.
        portable: of aoti, in torch's own ops only.
        target: of tensorrt, the GPU it is for, such as "sm_120"; by default the present one.
        base: of tensorrt, an engine of another person of the same preset, whose weights are replaced.
        device: "cpu", "cuda" or "auto", where an aoti engine is to run and any engine is verified.

    Raises:
        TalkingheadError: a setting is unknown, a dependency is not installed, the engine's frames differ from
            PyTorch's, or the file cannot be written; no file is left then.
    """
    out, start, name = Path(out), perf_counter(), name or str(person.file or "")
    device = str(choose_device(device))
    options = {"precision": precision, "batch": batch, "input": input, "output": output}
    settings: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    _check_settings({"format": format, **settings})
    _check_combination(out, format, portable=portable, target=target, base=base)
    check_outputs([out, sidecar(out)], [name, base, sidecar(base) if base else None])
    reason_not_run = ""
    if format == "tensorrt":
        if base is not None:
            manifest = refit_tensorrt(base, person, out, name, device=gpu_device(device), **settings)
        else:
            settings = {**DEFAULTS, **settings, "name": name, "target": target}
            manifest = build_tensorrt(person, out, device=gpu_device(device), **settings)
        psnr_db, reason_not_run = manifest.details["psnr"], manifest.details["unverified"]
    else:
        settings = {**DEFAULTS, **settings, "name": name}
        if format == "aoti":
            settings |= {"portable": portable, "device": device}
        manifest, psnr_db = _write_verified(person, out, format, device=device, settings=settings)
    return EngineReport(
        file=out,
        num_bytes=out.stat().st_size,
        manifest=manifest,
        psnr_db=psnr_db,
        reason_not_run=reason_not_run,
        seconds=perf_counter() - start,
    )


def _check_settings(settings: dict[str, Any]) -> None:
    """Check that each setting is one of its choices."""
    for name, value in settings.items():
        choices = _CHOICES[name]
        if value not in choices:
            raise TalkingheadError(
                f"export: {name} {value!r} is unknown; choose one of {', '.join(map(str, choices))}"
            )


def _check_combination(
    out: Path, format: str, *, portable: bool, target: str | None, base: str | None
) -> None:
    """Check that settings belong to the format, and that the file's name does."""
    options = [
        ("portable", portable, "aoti"),
        ("target", target, "tensorrt"),
        ("refit-from", base, "tensorrt"),
    ]
    for name, value, option_format in options:
        if value and format != option_format:
            raise TalkingheadError(
                f"export: --{name} belongs to --format {option_format}, not to {format}; leave it out"
            )
    if base and target:
        raise TalkingheadError(
            "export: an engine made from a base is for the base's GPU; leave --target out, or --refit-from"
        )
    if format == "onnx" and sidecar(out).exists():
        raise TalkingheadError(
            f"{sidecar(out)}: belongs to an older engine of this name; remove it, or name another file"
        )
    check_ending(out, f"an engine of format {format}", ENGINE_ENDINGS[format])
    if format == "aoti" and out.suffix != ".pt2":
        raise TalkingheadError(f"{out}: an aoti engine is a .pt2 file; name it so")


def _write_verified(
    person: Person, out: Path, format: str, *, device: str, settings: dict[str, Any]
) -> tuple[Manifest, float]:
    """Write an ONNX or aoti engine and verify it; return its manifest and PSNR in dB."""
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_write(out))
        with timed_stage(f"writing {format}"):
            write = write_onnx if format == "onnx" else write_aoti
            manifest = write(person, temporary, **settings)
        if format == "aoti":
            text = manifest_with_checksum(manifest, temporary)
            stack.enter_context(atomic_write(sidecar(out))).write_text(text, encoding="utf-8")
            stack.callback(sidecar(temporary).unlink, missing_ok=True)
            sidecar(temporary).write_text(text, encoding="utf-8")
        try:
            with timed_stage("verifying"):
                psnr_db = verify_against_torch(open_engine(temporary, person, device, trust=True), person)
        except TalkingheadError as error:  # name the final path: the temporary file no longer exists then
            raise TalkingheadError(str(error).replace(str(temporary), str(out))) from error
        if format == "aoti" and not remember_engine(temporary):
            _log.warning(
                "%s: the list of engines made here cannot be written; open this one with --trust", out
            )
        return manifest, psnr_db
