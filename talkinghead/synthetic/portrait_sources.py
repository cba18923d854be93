"""Sources of portraits: a folder of pictures, or a .tar of them."""

import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import TalkingheadError, one_line
from ..media.images import list_images, natural_sort_key

MAX_IMAGE_BYTES = 50_000_000
"""A larger picture is rejected."""
TAR_SUFFIXES = (".jpg", ".png")
"""Endings of the members of a .tar that are taken for pictures."""


@dataclass(frozen=True)
class Portrait:
    """A picture before it is read.

    Attributes:
        name: file name.
        path: the file, or the .tar that holds it.
        member: its name in the .tar; empty for a file.
        reason: why it cannot be used; empty when it may.
    """

    name: str
    path: Path
    member: str = ""
    reason: str = ""

    @property
    def person(self) -> str:
        """Return whom it shows, a name that fits into any file system."""
        return "portrait-" + (re.sub(r"[^A-Za-z0-9_-]+", "_", Path(self.name).stem)[:40] or "_")

    def read(self) -> bytes:
        """Return the bytes of the picture file.

        Raises:
            OSError, tarfile.TarError: it cannot be read.
        """
        if not self.member:
            return self.path.read_bytes()
        with tarfile.open(self.path, "r:") as tar:
            file = tar.extractfile(self.member)
            assert file is not None  # of a plain file it never is
            return file.read(MAX_IMAGE_BYTES)


def find_portraits(pictures: Path) -> list[Portrait]:
    """Return the pictures of a folder or a .tar in natural order of their names.

    Raises:
        TalkingheadError: it is neither, cannot be read, or holds no pictures.
    """
    if os.path.isdir(pictures):
        files = list_images(pictures)
        return [Portrait(file.name, file, reason=_too_large(os.path.getsize(file))) for file in files]
    if not os.path.lexists(pictures):
        raise TalkingheadError(f"{pictures}: no such file; name a folder of pictures or a .tar of them")
    if pictures.suffix.lower() != ".tar" or not os.path.isfile(pictures):
        raise TalkingheadError(f"{pictures}: is no folder and no .tar; name a folder or a .tar of pictures")
    try:
        with tarfile.open(pictures, "r:") as tar:
            members = [member for member in tar.getmembers() if member.isreg() and not member.issparse()]
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise TalkingheadError(f"{pictures}: cannot be read as a .tar ({error}); make it again") from error
    portraits = []
    for member in sorted(members, key=lambda member: natural_sort_key(member.name)):
        # only the last part of the name counts, so that no name leads out of a folder
        name = one_line(member.name.replace("\\", "/").rsplit("/", 1)[-1])
        if name.startswith(".") or not name.lower().endswith(TAR_SUFFIXES):
            continue
        portraits.append(Portrait(name, pictures, member.name, _too_large(member.size)))
    if not portraits:
        endings = " ".join(TAR_SUFFIXES)
        raise TalkingheadError(f"{pictures}: holds no pictures, expected names in {endings}; name another")
    return portraits


def _too_large(size: int) -> str:
    """Return why a picture of so many bytes is rejected; empty when it is not."""
    if size <= MAX_IMAGE_BYTES:
        return ""
    return f"has {size} bytes, expected at most {MAX_IMAGE_BYTES}; scale it down"
