"""Engines that hold native code: which of them this machine made, and what a package may hold.

Loading such a file runs its code with all the rights of the user. The checksum in its sidecar proves that it
is complete, not who made it. So a file is loaded only if this machine made it, or if the user trusts it.
"""

import os
import re
import zipfile
from pathlib import Path

from ..errors import TalkingheadError
from ..system.file_hash import sha256
from ..system.user_folders import state_folder

_COMPILED = re.compile(r"data/aotinductor/model/[^/\\]+\.(so|cpp|json|cubin|o|h)")
_ARCHIVE = {
    "version",
    "archive_format",
    "archive_version",
    "byteorder",
    ".format_version",
    ".data/version",
    ".data/serialization_id",
}
_MAX_PACKAGE_BYTES = 4 << 30


def engines_made_here() -> Path:
    """Return the file that lists the SHA-256 of the engines that this machine made, one per line."""
    return state_folder() / "engines_made_here"


def remember_engine(path: Path) -> bool:
    """Add an engine to the list of those made here.

    Returns:
        Whether the list could be written; if not, the user has to pass --trust.
    """
    try:
        made_here = engines_made_here()
        made_here.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(made_here, "a", encoding="ascii") as file:
            file.write(f"{sha256(path)}\n")
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return False
    return True


def check_trusted(path: Path, trust: bool) -> None:
    """Refuse an engine with native code that this machine did not make, unless the user trusts it.

    Args:
        path: the engine.
        trust: whether the user trusts it.

    Raises:
        TalkingheadError: it was made elsewhere, and the user does not trust it.
    """
    if not trust and sha256(path) not in _digests():
        raise TalkingheadError(
            f"{path}: holds native code, and this machine did not make it; export it here, or, if you trust "
            "who made it, "
            "pass --trust (in Python trust=True)"
        )


def _digests() -> set[str]:
    try:
        with open(engines_made_here(), encoding="ascii", errors="replace") as file:
            return {line.strip() for line in file}
    except (OSError, RuntimeError):
        return set()


def check_package(path: Path) -> None:
    """Refuse a .pt2 package that holds anything but compiled code: torch would unpickle an exported program
    inside it.

    Args:
        path: the package.

    Raises:
        TalkingheadError: it is no archive of compiled code, or a part of it is of another kind or
            outside its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise TalkingheadError(f"{path}: is no package of compiled code; export it again") from error
    folders = {record.filename.partition("/")[0] for record in records}
    names = [record.filename.partition("/")[2] for record in records]
    strange = [name for name in names if name not in _ARCHIVE and not _COMPILED.fullmatch(name)]
    if len(folders) != 1 or folders & {"", ".", ".."} or strange:
        part = strange[0] if strange else "several folders"
        raise TalkingheadError(f"{path}: holds {part[:80]!r}, expected compiled code alone; export it again")
    if (
        any(record.compress_type != zipfile.ZIP_STORED for record in records)
        or os.path.getsize(path) > _MAX_PACKAGE_BYTES
    ):
        raise TalkingheadError(
            f"{path}: is compressed or larger than {_MAX_PACKAGE_BYTES >> 30} GiB; export it again"
        )
