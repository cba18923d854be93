"""Reports on engine files: what they hold, and how their frames compare with PyTorch's."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..checkpoint import load_person
from ..errors import TalkingheadError
from ..model import Person
from ..system.torch_state import with_default_torch_state
from .load import open_engine
from .manifest import Manifest, read_manifest
from .verify import check_same_weights, verify_against_torch

_REPORTED_DETAILS = (
    "opset",
    "torch",
    "device",
    "portable",
    "builder",
    "builder_version",
    "target",
    "refittable",
    "warnings",
)


@dataclass(frozen=True)
class EngineReport:
    """An engine that was written or verified.

    Attributes:
        file: the engine.
        num_bytes: size of the file.
        manifest: of the engine.
        psnr_db: PSNR of its frames against PyTorch's in float32, None where it cannot run here.
        reason_not_run: why it cannot run here, else "".
        seconds: duration of the export or the verification.
    """

    file: Path
    num_bytes: int
    manifest: Manifest
    psnr_db: float | None
    reason_not_run: str
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as text."""
        manifest = self.manifest
        details = ", ".join(
            f"{name} {manifest.details[name]}" for name in _REPORTED_DETAILS if name in manifest.details
        )
        takes = f"{'landmarks' if manifest.input == 'points' else 'landmark images'} ({manifest.input})"
        takes += "".join(f", {name}" for name in manifest.input_names()[1:])
        shows = "one person" if manifest.styles == "constant" else "everybody of one model"
        return [
            f"{self.file}: {manifest.format}, {manifest.preset} {manifest.size}x{manifest.size}, "
            f"{manifest.precision}, up to {manifest.batch} frames at a time, {self.num_bytes / 1e6:.1f} MB, "
            f"{self.seconds:.0f} s",
            f"takes {takes}, gives {manifest.output}; shows {shows}; {details}",
            self._comparison(),
        ]

    def _comparison(self) -> str:
        if self.psnr_db is None:
            return f"not run here: {self.reason_not_run}"
        return describe_psnr(self.psnr_db)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values of JSON."""
        return {
            "file": str(self.file),
            "bytes": self.num_bytes,
            **psnr_values(self.psnr_db),
            "not_run": self.reason_not_run,
            "seconds": round(self.seconds, 2),
            **{name: value for name, value in asdict(self.manifest).items() if name != "reference"},
        }


def describe_psnr(psnr_db: float) -> str:
    """Return the PSNR of frames against PyTorch's as text."""
    if psnr_db == float("inf"):
        return "the same frames as torch's"
    return f"{psnr_db:.1f} dB from torch's frames"


def psnr_values(psnr_db: float | None) -> dict[str, Any]:
    """Return the PSNR of frames against PyTorch's as values of JSON, which has no infinity."""
    equal = psnr_db == float("inf")
    return {"psnr": None if psnr_db is None or equal else round(psnr_db, 2), "equal": equal}


@with_default_torch_state
def verify_engine(
    path: str | os.PathLike[str],
    person: Person | str | os.PathLike[str] | None = None,
    device: str = "cpu",
    model: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> EngineReport:
    """Report on an engine file and, where it can run here, compare its frames with PyTorch's.

    Args:
        path: the engine.
        person: whose it is, or their file; by default the file it was made from, if it is still there.
        device: "cpu" or "cuda".
        model: as for `load_person`.
        trust: as for `open_engine`.

    Raises:
        TalkingheadError: the file is missing, cut, edited or of another version; the person is not found or
            another; the frames differ.
    """
    start, path = perf_counter(), Path(path)
    manifest = read_manifest(path)
    if not isinstance(person, Person):
        person = load_person(person or _find_person_file(path, manifest), model)
    check_same_weights(manifest, person, path)
    psnr_db, reason_not_run = None, ""
    try:
        engine = open_engine(path, device=device, trust=trust)
    except TalkingheadError as error:
        reason_not_run = str(error)
    else:
        psnr_db = verify_against_torch(engine, person)
    return EngineReport(
        file=path,
        num_bytes=path.stat().st_size,
        manifest=manifest,
        psnr_db=psnr_db,
        reason_not_run=reason_not_run,
        seconds=perf_counter() - start,
    )


def _find_person_file(path: Path, manifest: Manifest) -> str:
    """Return the person file that an engine was made from: where it was then, or in the engine's folder."""
    for candidate in (manifest.person, str(path.parent / Path(manifest.person).name)):
        if os.path.isfile(candidate):
            return candidate
    problem = "names no file of its person"
    if manifest.person:
        problem = f"its person {manifest.person} is not there"
    raise TalkingheadError(
        f"{path}: {problem}; name the person's file: talkinghead verify {path} PERSON.safetensors"
    )
