"""The manifest of an engine file, and the checksum that detects damage and edits.

A manifest is stored inside an ONNX file, and in a .json file next to an engine of another format (the
sidecar). The stored JSON has the manifest's fields, "version", "crop", "landmarks", and as "sha256" the
checksum. Keys and their order are a format: files of version 0.1.0 must load.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

from ..clip import POINTS
from ..constants import ENGINE_INPUTS, ENGINE_OUTPUTS, PRECISIONS
from ..errors import TalkingheadError, check_path
from ..model import Person, fingerprint
from ..networks import ReferenceViews
from ..system.file_hash import sha256
from ..version import __version__

VERSION = 1
CROP = (
    "square, 2.0 x the longer side of the box around all landmarks of the clip, its centre raised by 1/6 "
    "of that side"
)
LANDMARKS = "68 points in the order of iBUG 300-W (x right, y down), as fractions 0..1 of the crop"
IRISES = (
    "; then 5 points of the iris of landmarks 36 to 41 and 5 of the other one: the centre, and the edge "
    "right, top, left and bottom of it in the axes of the head; all at -1 where they are unknown"
)
"""Text that the manifest of an engine with irises adds to `LANDMARKS`."""
MAX_ENGINE_BYTES = 1 << 29
"""Size limit of a file that contains its manifest: three times an engine of preset `paper`, the largest."""
_MAX_MANIFEST_BYTES = 1 << 20
_NO_CHECKSUM = "0" * 64
_EXTERNAL_DATA = b"\n\x08location"
"""Protobuf encoding of the key by which an ONNX file refers to another file that holds weights."""


@dataclass(frozen=True)
class EngineSpec:
    """Call signature of an engine.

    Attributes:
        format: "onnx", "tensorrt", "aoti", or "torch" for an engine in memory.
        size: height and width of the frames.
        layer_size: height and width of landmark images.
        precision: of weights and feature maps, one of `PRECISIONS`.
        batch: the largest number of frames in one run.
        input: "points" float32 [B, num_points, 2] (`LANDMARKS`), rendered to landmark images inside the
            engine, or "image" float32 [B, 3, layer_size, layer_size] in [-1, 1], rendered outside.
        output: "uint8" [B, size, size, 3] RGB, or "float" [B, 3, size, size] in [-1, 1].
        styles: "constant": one person's, inside; "input": float32 [B, style_length], a row for each frame,
            of one person or of several.
        style_length: length of a style vector.
        guided: whether views of the person's references (`ReferenceViews`) are inputs too.
        num_points: of a face, 68, or 78 with irises (`talkinghead.landmarks.face_points`).
    """

    format: str
    size: int
    layer_size: int
    precision: str
    batch: int
    input: str
    output: str
    styles: str
    style_length: int
    guided: bool
    num_points: int = POINTS


@dataclass(frozen=True)
class Manifest:
    """Description of an engine file: how to call it (as in `EngineSpec`), and how it was made.

    Attributes:
        format, size, precision, batch, input, output, styles, style_length: as in `EngineSpec`.
        preset: of the networks.
        person: the file it was made from, "" if there was none.
        weights: `talkinghead.model.fingerprint` of the engine's content.
        reference: [68][2], the person's neutral landmarks in fractions of the crop, to which a driver's
            motion is added.
        talkinghead: version that wrote it.
        details: of the format, such as "opset" or "target"; of a reference-guided generator also
            "network_size", the side of landmark images; "crop_convention" if it is not 1 (data/crop.py);
            "num_points" if it is not 68.
    """

    format: str
    preset: str
    size: int
    precision: str
    batch: int
    input: str
    output: str
    styles: str
    style_length: int
    person: str
    weights: str
    reference: list[list[float]] = field(repr=False)
    talkinghead: str
    details: dict[str, Any] = field(default_factory=dict)

    def input_names(self) -> list[str]:
        """Return the names of the engine's inputs, in order."""
        styles = ["styles"] if self.styles == "input" else []
        return [self.input, *styles, *(ReferenceViews._fields if self.guided else ())]

    @property
    def guided(self) -> bool:
        """True if views of the person's references (`ReferenceViews`) are inputs too."""
        return "network_size" in self.details

    @property
    def layer_size(self) -> int:
        """Height and width of landmark images."""
        return int(self.details.get("network_size", self.size))

    @property
    def num_points(self) -> int:
        """Number of points of a face."""
        return int(self.details.get("num_points", POINTS))

    @property
    def spec(self) -> EngineSpec:
        """Call signature of the engine."""
        return EngineSpec(**{name.name: getattr(self, name.name) for name in fields(EngineSpec)})

    @classmethod
    def of(
        cls,
        person: Person,
        format: str,
        precision: str,
        batch: int,
        *,
        input: str = "points",
        output: str = "uint8",
        name: str = "",
        details: dict[str, Any] | None = None,
    ) -> "Manifest":
        """Return the manifest of an engine of a person, whose file is `name`."""
        networks = person.config.networks
        if networks.reference_guided:
            details = {**(details or {}), "network_size": networks.layer_size}
        if person.config.crop != 1:
            details = {**(details or {}), "crop_convention": person.config.crop}
        if networks.irises:
            details = {**(details or {}), "num_points": networks.num_points}
        return cls(
            format=format,
            preset=person.config.preset,
            size=networks.image_size,
            precision=precision,
            batch=batch,
            input=input,
            output=output,
            styles="input" if person.feed_forward else "constant",
            style_length=person.generator.style_length,
            person=name,
            weights=fingerprint(person),
            reference=person.neutral_landmarks.tolist(),
            talkinghead=__version__,
            details=details or {},
        )

    def to_json(self, checksum: str = _NO_CHECKSUM) -> str:
        """Return the JSON that is stored, with the conventions of crop and landmarks for other readers."""
        landmarks = LANDMARKS if self.num_points == POINTS else LANDMARKS + IRISES
        return json.dumps(
            {"version": VERSION, "sha256": checksum, "crop": CROP, "landmarks": landmarks, **asdict(self)}
        )

    @classmethod
    def from_json(cls, text: str | bytes, source: str | Path) -> tuple["Manifest", str]:
        """Parse a stored manifest; return it and its checksum.

        Raises:
            TalkingheadError: it is cut, of another version, or lacks a field.
        """
        try:
            values = json.loads(text)
            version, checksum = values["version"], str(values["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TalkingheadError(
                f"{source}: its manifest cannot be read, it was cut or edited; export it again"
            ) from error
        if version != VERSION:
            raise TalkingheadError(
                f"{source}: is an engine of version {version!r}, this talkinghead reads {VERSION}; export it "
                "again"
            )
        types = {field.name: get_origin(field.type) or field.type for field in fields(cls)}
        bad = [name for name, kind in types.items() if type(values.get(name)) is not kind]
        choices = {
            "precision": PRECISIONS,
            "input": ENGINE_INPUTS,
            "output": ENGINE_OUTPUTS,
            "styles": ("constant", "input"),
        }
        bad += [name for name in ("size", "batch", "style_length") if name not in bad and values[name] < 1]
        bad += [name for name, allowed in choices.items() if values.get(name) not in allowed]
        if bad:
            raise TalkingheadError(f"{source}: lacks {bad[0]}, or has it of another kind; export it again")
        return cls(**{name: values[name] for name in types}), checksum


def sidecar(path: str | Path) -> Path:
    """Return the path of the manifest of an engine that cannot contain it: the engine's with .json added."""
    return Path(f"{path}.json")


def manifest_with_checksum(manifest: Manifest, path: Path) -> str:
    """Return the text of an engine's sidecar: the manifest, with the SHA-256 of engine and manifest."""
    return manifest.to_json(hashlib.sha256((sha256(path) + manifest.to_json()).encode()).hexdigest())


def read_sidecar(path: Path) -> Manifest:
    """Read the manifest next to an engine and verify the checksum of both files.

    Raises:
        TalkingheadError: it is missing, or one of the two was cut or edited.
    """
    manifest_path = sidecar(path)
    if not manifest_path.is_file():
        raise TalkingheadError(
            f"{path}: its manifest {manifest_path.name} is missing; copy both files, or export it again"
        )
    try:
        with open(manifest_path, "rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES)
    except OSError as error:
        raise TalkingheadError(
            f"{manifest_path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    manifest, _ = Manifest.from_json(text, manifest_path)
    if text.decode() != manifest_with_checksum(manifest, path):
        raise TalkingheadError(
            f"{path}: it or {manifest_path.name} was cut or edited, or the two do not belong together; "
            "export it again"
        )
    return manifest


def embed_checksum(path: Path) -> None:
    """Write into a file that contains a manifest without checksum, as plain text, the SHA-256 of the file.

    The digits of the checksum itself count as zeros.
    """
    with _map_file(path, mmap.ACCESS_WRITE) as contents:
        offset = _checksum_offset(contents, path)
        contents[offset : offset + 64] = hashlib.sha256(contents).hexdigest().encode()


def read_embedded(path: Path) -> Manifest:
    """Read the manifest inside a file and verify the file's checksum.

    Raises:
        TalkingheadError: the file has no manifest, or was cut or edited.
    """
    with _map_file(path, mmap.ACCESS_COPY) as contents:
        offset = _checksum_offset(contents, path)
        checksum = contents[offset : offset + 64]
        contents[offset : offset + 64] = _NO_CHECKSUM.encode()
        if hashlib.sha256(contents).hexdigest().encode() != checksum:
            raise TalkingheadError(
                f"{path}: does not match its own checksum, it was cut or edited; export or copy it again"
            )
        if contents.find(_EXTERNAL_DATA) >= 0:
            raise TalkingheadError(
                f"{path}: keeps weights in another file, which its checksum does not cover; export it again"
            )
        start = contents.rfind(b"{", 0, offset)
        text = contents[start : offset + _MAX_MANIFEST_BYTES].decode("utf-8", "replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        end = 0
    return Manifest.from_json(text[:end], path)[0]


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of an engine file and verify the checksum.

    Raises:
        TalkingheadError: the file is missing, cut, edited or of another version.
    """
    check_path("open_engine", path, "anna.onnx")
    path = Path(path)
    if not path.is_file():
        raise TalkingheadError(f"{path}: no such file; an engine is what `talkinghead export` writes")
    return read_sidecar(path) if sidecar(path).is_file() else read_embedded(path)


@contextmanager
def _map_file(path: Path, access: int) -> Iterator[mmap.mmap]:
    """Map an engine into memory, so that its checksum needs no copy."""
    try:
        with open(path, "r+b" if access == mmap.ACCESS_WRITE else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_ENGINE_BYTES:
                raise TalkingheadError(
                    f"{path}: is {size:,} bytes, expected 1 to {MAX_ENGINE_BYTES:,}; export it again"
                )
            with mmap.mmap(file.fileno(), 0, access=access) as contents:
                yield contents
    except OSError as error:
        raise TalkingheadError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _checksum_offset(contents: mmap.mmap, path: Path) -> int:
    """Return the position of the checksum's digits in a file that contains a manifest."""
    prefix = f'{{"version": {VERSION}, "sha256": "'.encode()
    offset = contents.rfind(prefix)
    if offset < 0:
        raise TalkingheadError(
            f"{path}: is no engine of this version of talkinghead, was cut, or lacks its "
            f"{sidecar(path).name}; give what `talkinghead export` wrote, with the .json in the same folder "
            "if there was one"
        )
    return offset + len(prefix)
