"""What an engine file says of itself, and the seal that tells whether it is still what was written."""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

from ..checkpoint import Person, fingerprint
from ..errors import TalkingheadError
from ..files import sha256
from ..version import __version__

VERSION = 1
PRECISIONS = ("fp32", "fp16", "bf16")
INPUTS = ("points", "image")
OUTPUTS = ("uint8", "float")
CROP = "square, 2.0 x the longer side of the box around all landmarks of the clip, its centre raised by 1/6 of that side"
LANDMARKS = "68 points in the order of iBUG 300-W (x right, y down), as fractions 0..1 of the crop"
MAX_ENGINE_BYTES = 1 << 29
"""Of a file that holds its manifest: three times an engine of preset `paper`, the largest."""
_MAX_MANIFEST_BYTES = 1 << 20
_UNSEALED = "0" * 64
_EXTERNAL_DATA = b"\n\x08location"  # how protobuf writes the key by which ONNX names another file that holds weights


@dataclass(frozen=True)
class Manifest:
    """What an engine holds and how it is called.

    Attributes:
        format: "onnx", "tensorrt", "aoti", or "eager" for one that lives in memory.
        preset: of the networks.
        size: height and width of the frames.
        precision: of weights and maps, one of `PRECISIONS`.
        batch: the most frames at a time.
        input: "points" float32 [B, 68, 2] (`LANDMARKS`), drawn inside, or "image" float32 [B, 3, size, size] in [-1, 1], drawn outside.
        output: "uint8" [B, size, size, 3] RGB, or "float" [B, 3, size, size] in [-1, 1].
        styles: "constant": one person's, inside; "input": float32 [B, style_length], each row may be another person's.
        style_length: of a style vector.
        person: the file it was made from, "" when there was none.
        weights: `talkinghead.checkpoint.fingerprint` of what is inside.
        reference: [68][2], the person's face at rest in fractions of the crop, which a driver's motion is put on.
        talkinghead: version that wrote it.
        details: of the format, such as "opset" or "target"; of a reference-guided generator also "network_size", the side of landmark
            images; "crop_convention" where it is not 1 (data/crop.py).
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

    @property
    def guided(self) -> bool:
        """Whether views of the person's references (`ReferenceViews`) are inputs too."""
        return "network_size" in self.details

    @property
    def layer_size(self) -> int:
        """Height and width of landmark images."""
        return int(self.details.get("network_size", self.size))

    @classmethod
    def of(
        cls,
        person: Person,
        format: str,
        precision: str,
        batch: int,
        input: str = "points",
        output: str = "uint8",
        name: str = "",
        weights: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> "Manifest":
        """Of a person, with the weights' fingerprint unless it is given."""
        networks = person.config.networks
        if networks.reference_guided:
            details = {**(details or {}), "network_size": networks.layer_size}
        if person.config.crop != 1:
            details = {**(details or {}), "crop_convention": person.config.crop}
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
            weights=fingerprint(person) if weights is None else weights,
            reference=person.reference.tolist(),
            talkinghead=__version__,
            details=details or {},
        )

    def to_json(self, seal: str = _UNSEALED) -> str:
        """As text, with the conventions of crop and landmarks spelled out for other readers."""
        return json.dumps({"version": VERSION, "sha256": seal, "crop": CROP, "landmarks": LANDMARKS, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, where: str | Path) -> tuple["Manifest", str]:
        """Read back; gives the seal beside it.

        Raises:
            TalkingheadError: it is cut, of another version, or lacks a field.
        """
        try:
            values = json.loads(text)
            version, seal = values["version"], str(values["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TalkingheadError(f"{where}: what it says of itself cannot be read, it was cut or edited; export it again") from error
        if version != VERSION:
            raise TalkingheadError(f"{where}: is an engine of version {version!r}, this talkinghead reads {VERSION}; export it again")
        kinds = {each.name: get_origin(each.type) or each.type for each in fields(cls)}
        odd = [name for name, kind in kinds.items() if type(values.get(name)) is not kind]
        known = {"precision": PRECISIONS, "input": INPUTS, "output": OUTPUTS, "styles": ("constant", "input")}
        odd += [name for name in ("size", "batch", "style_length") if name not in odd and values[name] < 1]
        odd += [name for name, choices in known.items() if values.get(name) not in choices]
        if odd:
            raise TalkingheadError(f"{where}: lacks {odd[0]}, or has it of another kind; export it again")
        return cls(**{name: values[name] for name in kinds}), seal


def sidecar(path: str | Path) -> Path:
    """Where the manifest of an engine that cannot hold it lies: beside it, with .json added to its name."""
    return Path(f"{path}.json")


def sealed(manifest: Manifest, path: Path) -> str:
    """What the sidecar of an engine holds: the manifest, with the SHA-256 of both."""
    return manifest.to_json(hashlib.sha256((sha256(path) + manifest.to_json()).encode()).hexdigest())


def read_sidecar(path: Path) -> Manifest:
    """The manifest beside an engine, once both were found to be as they were written.

    Raises:
        TalkingheadError: it is missing, or one of the two was cut or edited.
    """
    beside = sidecar(path)
    if not beside.is_file():
        raise TalkingheadError(f"{path}: {beside.name} is missing beside it, which says what it holds; copy both, or export it again")
    try:
        with open(beside, "rb") as file:
            text = file.read(_MAX_MANIFEST_BYTES)
    except OSError as error:
        raise TalkingheadError(f"{beside}: cannot be read ({error.strerror})") from error
    manifest, _ = Manifest.from_json(text, beside)
    if text.decode() != sealed(manifest, path):
        raise TalkingheadError(f"{path}: it or {beside.name} was cut or edited, or the two do not belong together; export it again")
    return manifest


def seal_inside(path: Path) -> None:
    """Put into a file that holds an unsealed manifest, as plain text, the SHA-256 of itself (with the seal's digits as zeros)."""
    with _mapped(path, mmap.ACCESS_WRITE) as contents:
        at = _place_of_seal(contents, path)
        contents[at : at + 64] = hashlib.sha256(contents).hexdigest().encode()


def check_seal_inside(path: Path) -> Manifest:
    """The manifest inside a file, once the file was found to be as it was sealed.

    Raises:
        TalkingheadError: the file has no manifest, or was cut or edited.
    """
    with _mapped(path, mmap.ACCESS_COPY) as contents:
        at = _place_of_seal(contents, path)
        seal = contents[at : at + 64]
        contents[at : at + 64] = _UNSEALED.encode()
        if hashlib.sha256(contents).hexdigest().encode() != seal:
            raise TalkingheadError(f"{path}: does not match its own checksum, it was cut or edited; export or copy it again")
        if contents.find(_EXTERNAL_DATA) >= 0:
            raise TalkingheadError(f"{path}: keeps weights in another file, which its checksum does not cover; export it again")
        text = contents[contents.rfind(b"{", 0, at) : at + _MAX_MANIFEST_BYTES].decode("utf-8", "replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        end = 0
    return Manifest.from_json(text[:end], path)[0]


@contextmanager
def _mapped(path: Path, access: int) -> Iterator[mmap.mmap]:
    """Map an engine into memory, which its checksum then needs no copy of."""
    try:
        with open(path, "r+b" if access == mmap.ACCESS_WRITE else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_ENGINE_BYTES:
                raise TalkingheadError(f"{path}: is {size:,} bytes, 1 to {MAX_ENGINE_BYTES:,} were expected; export it again")
            with mmap.mmap(file.fileno(), 0, access=access) as contents:
                yield contents
    except OSError as error:
        raise TalkingheadError(f"{path}: cannot be read ({error.strerror})") from error


def _place_of_seal(contents: mmap.mmap, path: Path) -> int:
    mark = f'{{"version": {VERSION}, "sha256": "'.encode()
    at = contents.rfind(mark)
    if at < 0:
        raise TalkingheadError(
            f"{path}: is no engine of this version of talkinghead, was cut, or lacks its {sidecar(path).name}; "
            "give what `talkinghead export` wrote, with the .json beside it where there was one"
        )
    return at + len(mark)
