"""Hashes of files."""

import hashlib
import os
from typing import BinaryIO

from ..errors import TalkingheadError


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in blocks.

    Raises:
        TalkingheadError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if hasattr(hashlib, "file_digest"):
                return hashlib.file_digest(file, "sha256").hexdigest()
            return _hash_in_blocks(file)
    except OSError as error:
        raise TalkingheadError(
            f"{path}: cannot be read ({error.strerror}); name a file that can be read"
        ) from error


def _hash_in_blocks(file: BinaryIO) -> str:
    # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
