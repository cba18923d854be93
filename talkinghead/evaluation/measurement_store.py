"""A folder with a file for each measurement; what was measured once is read from there."""

import hashlib
import io
import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write


@dataclass(frozen=True)
class MeasurementKey:
    """All that a measurement depends on.

    Attributes:
        clip: the clip's digest.
        label: what is measured on it, such as "T8-nearest".
        settings: section -> plain values, which may be shared with other keys.
    """

    clip: str
    label: str
    settings: dict[str, Any]

    @cached_property
    def text(self) -> str:
        """The key as a text; equal keys have equal texts."""
        return json.dumps([self.clip, self.label, self.settings], sort_keys=True)

    @property
    def prefix(self) -> str:
        """The start of the names of all files of this clip and label, whatever the settings."""
        return f"{hashlib.sha256(self.clip.encode()).hexdigest()[:16]}-{self.label}-"

    @property
    def file_name(self) -> str:
        """The name of the measurement's file."""
        return f"{self.prefix}{hashlib.sha256(self.text.encode()).hexdigest()[:32]}.pt"


class MeasurementStore:
    """Measurements in a folder, each written atomically as soon as it is known.

    Args:
        folder: created by the first measurement.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = {path.name for path in folder.glob("*.pt")}

    def __contains__(self, key: MeasurementKey) -> bool:
        return key.file_name in self._names

    def read(self, key: MeasurementKey) -> dict[str, Any]:
        """Read a measurement.

        Raises:
            TalkingheadError: its file is damaged.
        """
        path = self.folder / key.file_name
        text, values = read_measurement(path)
        if text != key.text:
            raise _damaged(path)
        return values

    def write(self, key: MeasurementKey, values: dict[str, Any]) -> None:
        """Write a measurement.

        Raises:
            TalkingheadError: it cannot be written.
        """
        content = io.BytesIO()  # torch.save to a file reports a full disk as a RuntimeError
        torch.save({"key": key.text, "values": values}, content)
        with atomic_write(self.folder / key.file_name) as temp_path:
            temp_path.write_bytes(content.getbuffer())
        self._names.add(key.file_name)

    def changed_settings(self, keys: Collection[MeasurementKey]) -> dict[str, int]:
        """Return in which sections stored measurements of the same clips and labels differ: section -> count.

        Of several files of a clip and label the one that differs in the fewest sections counts.
        """
        counts: dict[str, int] = {}
        for key in keys:
            stored = [_settings(self.folder / name) for name in self._names if name.startswith(key.prefix)]
            differing = [_differing(key.settings, settings) for settings in stored if settings]
            for section in min(differing, key=len, default=[]):
                counts[section] = counts.get(section, 0) + 1
        return counts


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings of a stored measurement, none if its file is damaged."""
    try:
        settings = json.loads(read_measurement(path)[0])[2]
    except (TalkingheadError, ValueError, IndexError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _differing(settings: dict[str, Any], others: dict[str, Any]) -> list[str]:
    known = json.loads(json.dumps(settings))
    return [section for section in known if known[section] != others.get(section)]


def read_measurement(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the key's text and the values of a measurement's file.

    Raises:
        TalkingheadError: the file is damaged.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":  # otherwise torch reads it as a pickle of its old format
                raise ValueError("it is no archive")
        _check_archive(path)
        content = torch.load(path, weights_only=True)
        text, values = content["key"], content["values"]
        if not (isinstance(text, str) and isinstance(values, dict)):
            raise ValueError("it holds something else")
        return text, values
    except Exception as error:  # torch raises several types
        raise _damaged(path) from error


def _damaged(path: Path) -> TalkingheadError:
    return TalkingheadError(f"{path}: cannot be read again; remove it, it is then measured once more")


def _check_archive(path: Path) -> None:
    """Check sizes and checksums of an archive, since torch checks neither.

    Raises:
        ValueError: the archive is damaged, or claims to hold more bytes than it has.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its index is damaged")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
