"""Write safetensors files with a header and a checksum.

Equal content gives equal bytes, and a full disk loses no data.
"""

import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TalkingheadError
from .atomic_file import atomic_write


def checksum(fields: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a header and of the names, types, shapes and values of tensors.

    The tensors are looked up one by one, so that a lazy mapping needs little memory.
    """
    digest = hashlib.sha256(fields.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    keep: Path | None = None,
    rescue: bool = True,
) -> str:
    """Write tensors with a header of plain values, and return the checksum, which the file also contains.

    Where `path` cannot be written to, the file is written to a new temporary folder, and the error names it.

    Args:
        path: the file to write.
        tensors: name -> tensor.
        header: values that JSON supports.
        keep: as for `atomic_write`.
        rescue: False writes nothing elsewhere.

    Raises:
        TalkingheadError: `path` cannot be written to, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    fields = json.dumps(header, sort_keys=True)
    metadata = {"sha256": checksum(fields, tensors), "talkinghead": fields}
    try:
        _write(Path(path), tensors, metadata, keep)
    except TalkingheadError as error:
        rescued = _rescue(Path(path).name, tensors, metadata) if rescue else None
        if rescued is None:
            raise
        raise TalkingheadError(f"{error}; it was written to {rescued} instead, move it from there") from error
    return metadata["sha256"]


def read_header(file: Any) -> dict[str, Any]:
    """Return the header of an open file of `write_tensors`, after its checksum was verified.

    Args:
        file: from `safetensors.safe_open`.

    Raises:
        KeyError, TypeError, ValueError, RecursionError: something else wrote it, or it was changed.
    """
    metadata = file.metadata() or {}
    header = json.loads(metadata["talkinghead"])
    if checksum(metadata["talkinghead"], _StoredTensors(file)) != metadata["sha256"]:
        raise ValueError("its checksum does not match")
    return header


def tensor_offset(path: str | os.PathLike[str], name: str) -> int:
    """Return where the values of a tensor begin in a safetensors file, in bytes.

    Raises:
        KeyError, ValueError, OSError: it has no such tensor, or is no such file.
    """
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length + int(json.loads(file.read(length))[name]["data_offsets"][0])


class _StoredTensors(Mapping[str, Tensor]):
    """The tensors of an open file, each read on access."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], keep: Path | None = None
) -> None:
    with atomic_write(path, keep) as temp_path:
        try:
            save_file(tensors, temp_path, metadata)
        except SafetensorError as error:  # its text is the only trace of an OSError
            number = re.search(r"os error (\d+)", str(error))
            raise (
                OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
            ) from error
        _sort_metadata(temp_path)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which safetensors writes in random order."""
    with open(path, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def _rescue(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path | None:
    """Write the file to a new temporary folder, and return its path; None where that fails too."""
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="talkinghead-"))
        _write(folder / name, tensors, metadata)
        return folder / name
    except (OSError, TalkingheadError):
        if folder is not None:
            folder.rmdir()
        return None
