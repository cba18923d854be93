"""The hidden folder of incomplete files in a data set's folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..system.folder_lock import folder_lock

_HIDDEN = ".prepare"


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder for incomplete files, locked for this run; remove what a killed run left behind.

    Args:
        out: the data set's folder; created when missing, and removed at the end if it is still empty.

    Raises:
        TalkingheadError: another run is writing to the data set.
        OSError: the folder cannot be created.
    """
    hidden, is_new = out / _HIDDEN, not out.exists()
    hidden.mkdir(parents=True, exist_ok=True)
    with folder_lock(hidden, out):
        for path in [*hidden.iterdir(), *out.glob(".shard-*.tar.part"), *out.glob(".dataset.*.json")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        try:
            yield Path(tempfile.mkdtemp(dir=hidden))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            if is_new:
                with suppress(OSError):  # the folder is not empty if something was written
                    out.rmdir()
