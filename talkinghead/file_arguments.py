"""Types of the command line's arguments that name files: what a command reads and what it writes, so that one check covers every command.

A value stays the text that was given; its type says which files it stands for.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from .checkpoint import shipped_models
from .data.outputs import check_outputs, files_in, videos_in
from .engines.manifest import sidecar


class Input(str):
    """The name of a file or folder that a command reads, or of something that is no file, such as "webcam"."""

    def paths(self) -> list[Path]:
        """Return the files and folders that are read."""
        return [Path(self)]


class VideosInput(Input):
    """A video, or a folder of which only the videos are read."""

    def paths(self) -> list[Path]:
        return videos_in(self)


class ModelInput(Input):
    """A model: a file, or the name of one that comes with the package."""

    def paths(self) -> list[Path]:
        return [shipped_models().get(self, Path(self))]


class EngineInput(Input):
    """An engine, with the file beside it that describes it."""

    def paths(self) -> list[Path]:
        return [Path(self), sidecar(self)]


class NamedInput(Input):
    """A file with a name for it, as NAME=FILE."""

    def paths(self) -> list[Path]:
        return [Path(self.partition("=")[2])]


class Output(str):
    """The name of a file that a command writes."""

    def paths(self) -> list[Path]:
        """Return the files that may be written."""
        return [Path(self)]


class EngineOutput(Output):
    """An engine to write, with the file beside it that describes it."""

    def paths(self) -> list[Path]:
        return [Path(self), sidecar(self)]


class OutputFolder(Output):
    """The name of a folder that a command writes files into; their names match `patterns`."""

    patterns: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        return files_in(self, self.patterns)


def output_folder(*patterns: str) -> Callable[[str], OutputFolder]:
    """Return a type for a folder into which files are written whose names match the patterns."""

    def parse(text: str) -> OutputFolder:
        folder = OutputFolder(text)
        folder.patterns = patterns
        return folder

    return parse


_Kind = TypeVar("_Kind", Input, Output)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments by which a command would write over what it reads.

    Raises:
        TalkingheadError: an output is one of the inputs.
    """
    check_outputs(_paths(args, Output), _paths(args, Input))


def _paths(args: argparse.Namespace, kind: type[_Kind]) -> Iterable[Path]:
    return chain.from_iterable(value.paths() for given in vars(args).values() for value in _flat(given) if isinstance(value, kind))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        yield from value
    else:
        yield value
