"""Files of the rows of W, and of their moments, that the ranks of a run write at the same time.

A state of several ranks is `state.safetensors`, with all that is replicated, and one file a rank in
`shares/`, which the state's header names with their checksums. The state is written after them, so that it
never names a file that is not complete. Another number of ranks reads its rows from the files that hold them.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import TalkingheadError
from ..system.tensor_file import read_header, write_tensors
from .ranks import ONE_RANK, Ranks

VERSION = 1


@dataclass(frozen=True)
class RowShares:
    """The rows that a rank holds, and the files of all ranks' rows.

    Attributes:
        folder: of the files.
        ranks: of the run.
        names: modules and optimisers of which every rank holds other rows.
    """

    folder: Path
    ranks: Ranks = ONE_RANK
    names: tuple[str, ...] = ()

    def holds(self, tensor: str) -> bool:
        """Return whether a tensor of that name in a state has rows of this rank only."""
        return tensor.partition(".")[0] in self.names

    def fits(self, stored: list[int], own: list[int]) -> bool:
        """Return whether a stored tensor of all rows has this rank's shape."""
        return stored == own or (stored[1:] == own[1:] and len(range(stored[0])[self.ranks.share]) == own[0])

    def own_rows(self, tensor: Tensor) -> Tensor:
        """Return this rank's rows of a tensor of all rows; one without rows as it is."""
        return tensor[self.ranks.share] if tensor.dim() else tensor

    def write(self, tensors: Mapping[str, Tensor], step: int) -> dict[str, str]:
        """Write this rank's rows, and return the names and checksums of the files of all ranks, in order.

        Args:
            tensors: of this rank; those without rows are equal on all ranks.
            step: of the state.

        Raises:
            TalkingheadError: a rank's file cannot be written; then no rank leaves one.
        """
        ranks = self.ranks
        path = self.folder / f"{ranks.rank:05d}-of-{ranks.count:05d}-step-{step}.safetensors"
        header = {"kind": "share", "version": VERSION, "step": step}
        digest = ""
        try:
            with ranks.agreement():
                digest = write_tensors(path, tensors, header, rescue=False)
        except TalkingheadError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        return dict(ranks.gather((path.name, digest)))

    def open(self, files: Mapping[str, str]) -> "StoredRows":
        """Open the files that hold this rank's rows.

        Args:
            files: names and checksums, as `write` returned them.

        Raises:
            ValueError, KeyError, TypeError, OSError, SafetensorError: a file is missing or damaged.
        """
        names = list(files)
        if len(names) == self.ranks.count:
            names = [names[self.ranks.rank]]
        opened = []
        for name in names:
            if Path(name).name != name:
                raise ValueError(f"it names {name!r}")
            file = safe_open(self.folder / name, framework="pt")
            if read_header(file)["kind"] != "share" or file.metadata()["sha256"] != files[name]:
                raise ValueError(f"{name} is of another state")
            opened.append(file)
        return StoredRows(opened, self)

    def remove_others(self, used: set[str]) -> None:
        """Remove the files that no state uses."""
        with suppress(OSError):
            for path in self.folder.glob("*-of-*-step-*.safetensors"):
                if path.name not in used:
                    path.unlink()
            self.folder.rmdir()  # fails where it holds files


class StoredRows:
    """The rows of this rank in files that several ranks wrote.

    Args:
        files: opened, of all ranks that wrote, or the one of this rank.
        shares: of the run.

    Attributes:
        names: of the tensors.
    """

    def __init__(self, files: list[Any], shares: RowShares) -> None:
        self._files, self._shares = files, shares
        self.names = set(files[0].keys())

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor with the rows of all opened files."""
        shapes = [list(file.get_slice(name).get_shape()) for file in self._files]
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else []

    def read(self, name: str) -> Tensor:
        """Return this rank's rows of a tensor."""
        parts = [file.get_tensor(name) for file in self._files]
        if len(parts) == 1 or not parts[0].dim():
            return parts[0]
        merged = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
        for number, part in enumerate(parts):
            merged[number :: len(parts)] = part
        return self._shares.own_rows(merged)
