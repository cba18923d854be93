"""Folders of the user in which the package keeps downloads and state."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of downloads: `$XDG_CACHE_HOME/talkinghead`, by default `~/.cache/talkinghead`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talkinghead"


def state_folder() -> Path:
    """Return the folder of what this machine remembers.

    It is `$XDG_STATE_HOME/talkinghead`, by default `~/.local/state/talkinghead`.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "talkinghead"


def data_folder() -> Path:
    """Return the folder of what a user made: `$XDG_DATA_HOME/talkinghead`, by default
    `~/.local/share/talkinghead`.
    """
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "talkinghead"
