"""Locks on folders, released by the operating system when their process ends."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import TalkingheadError

if sys.platform != "win32":
    import fcntl


@contextmanager
def folder_lock(folder: Path, out: Path) -> Iterator[None]:
    """Hold a lock on a folder; it is released when this process ends, however it ends.

    Args:
        folder: exists.
        out: the folder that the user named, for the message.

    Raises:
        TalkingheadError: another process holds the lock, or the folder may not be opened.
    """
    try:
        lock = lock_folder(Path(os.path.realpath(folder)))
    except (BlockingIOError, FileNotFoundError) as error:  # not found: the other run has just removed it
        raise TalkingheadError(
            f"{out}: another run is writing to it; wait for it to end, or name another place"
        ) from error
    except OSError as error:
        raise TalkingheadError(f"{out}: cannot be locked ({error.strerror}); name another place") from error
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder without waiting, and return the descriptor that holds the lock.

    Returns:
        A descriptor; None where the platform or the file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
        FileNotFoundError: the folder does not exist.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # some network file systems cannot lock folders
            os.close(handle)
            return None
        if not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except BaseException:
        os.close(handle)
        raise
    return handle
