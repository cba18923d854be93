"""Argument types that name files: those a command reads and those it writes.

A value stays the text of the command line; its type says which files it stands for, so that one check covers
every command.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from ..constants import DETECTORS, ENGINE_ENDINGS, WEB_FORMAT
from ..errors import TalkingheadError
from ..system.hub import PREFIX
from ..weights import shipped_models


class InputPath(str):
    """Name of a file or folder that a command reads, or of a source that is no file, such as "webcam"."""

    def paths(self) -> list[Path]:
        """Return the files and folders that are read."""
        return [Path(self)]

    def check_content(self) -> None:
        """Check a file that holds options, before they are printed.

        Raises:
            TalkingheadError: it is missing or wrong.
        """


class PresetPath(InputPath):
    """TOML file of a preset."""

    def check_content(self) -> None:
        """Check the preset."""
        from ..config_file import resolve_preset

        resolve_preset(str(self))


class VideosPath(InputPath):
    """Video, or folder of which only the videos are read."""

    def paths(self) -> list[Path]:
        """Return the videos."""
        from ..data.output_paths import videos_in

        return videos_in(self)


class PartsPath(InputPath):
    """Folder of a part of a data set, or of several parts."""

    def paths(self) -> list[Path]:
        """Return the files of the parts; a folder without parts is refused when they are read."""
        from ..data.output_paths import files_in
        from ..dataset.parts import parts_in
        from ..dataset.prepare import FILES

        return [file for part in parts_in(Path(self)) for file in files_in(part, FILES)]


class ModelPath(InputPath):
    """Model file, name of a model that ships with the package, or address on the Hugging Face Hub."""

    def paths(self) -> list[Path]:
        """Return the file of the model, none of an address."""
        if self.startswith(PREFIX):
            return []
        return [shipped_models().get(self, Path(self))]


class DetectorName(InputPath):
    """Name of a landmark detector, or file of one."""

    def paths(self) -> list[Path]:
        """Return the file, none for a name."""
        return [] if self in DETECTORS else [Path(self)]


class EnginePath(InputPath):
    """Engine, with its sidecar."""

    def paths(self) -> list[Path]:
        """Return the engine and its sidecar."""
        return _engine_files(self)


class NamedPath(InputPath):
    """File with a name, as NAME=FILE."""

    def paths(self) -> list[Path]:
        """Return the file."""
        return [Path(self.partition("=")[2])]


class OutputPath(str):
    """Name of a file that a command writes."""

    def paths(self) -> list[Path]:
        """Return the files that may be written."""
        return [Path(self)]

    def check_ending(self, args: argparse.Namespace) -> None:
        """Check that the name ends as such files do.

        Args:
            args: the other arguments of the command.

        Raises:
            TalkingheadError: it has the ending of another kind of file.
        """

    def ending_error(self, kind: str, ending: str) -> TalkingheadError:
        """Return the error for a name that lacks the ending of its kind of file."""
        from ..data.output_paths import ending_error

        return ending_error(self, kind, ending)


class PersonOutputPath(OutputPath):
    """Person to write."""

    def check_ending(self, args: argparse.Namespace) -> None:
        """Refuse endings of other files; none at all is accepted."""
        from ..data.output_paths import check_ending

        check_ending(self, "a person", (".safetensors",))


class VideoOutputPath(OutputPath):
    """Video to write."""

    def check_ending(self, args: argparse.Namespace) -> None:
        """Refuse all but .mp4."""
        if Path(self).suffix.lower() != ".mp4":
            raise self.ending_error("a video", ".mp4")


class SinkPath(VideoOutputPath):
    """Video to write, or a sink that is no file, such as "window"."""

    def check_ending(self, args: argparse.Namespace) -> None:
        """Refuse files that are no .mp4."""
        if Path(self).suffix:  # the sink itself reports unknown names
            super().check_ending(args)


class PictureOrVideoOutputPath(OutputPath):
    """Picture or video to write."""

    def check_ending(self, args: argparse.Namespace) -> None:
        """Refuse endings of other files."""
        from ..media.images import WRITABLE_SUFFIXES

        if Path(self).suffix.lower() not in {".mp4", *WRITABLE_SUFFIXES}:
            raise self.ending_error("a picture is a .png or .jpg, a video", ".mp4")


class ExportOutputPath(OutputPath):
    """Engine to write, with its sidecar; or folder of a page."""

    def paths(self) -> list[Path]:
        """Return the engine and its sidecar."""
        return _engine_files(self)

    def check_ending(self, args: argparse.Namespace) -> None:
        """Refuse endings of other files and of other formats."""
        from ..data.output_paths import check_ending

        if args.format != WEB_FORMAT:
            check_ending(self, f"an engine of format {args.format}", ENGINE_ENDINGS[args.format])


class OutputFolder(OutputPath):
    """Name of a folder that a command writes files into; `patterns()` returns patterns of their names."""

    patterns: Callable[[], tuple[str, ...]]

    def paths(self) -> list[Path]:
        """Return the files in the folder that may be overwritten."""
        from ..data.output_paths import files_in

        return files_in(self, self.patterns())


class FolderType:
    """Argument type of a folder into which files are written whose names match the patterns."""

    def __init__(self, patterns: Callable[[], tuple[str, ...]]) -> None:
        self._patterns = patterns

    def __call__(self, text: str) -> OutputFolder:
        """Return the folder of this name."""
        folder = OutputFolder(text)
        folder.patterns = self._patterns
        return folder


_Kind = TypeVar("_Kind", InputPath, OutputPath)


def check_arguments(args: argparse.Namespace) -> None:
    """Check that a command writes over none of its inputs, and that names of outputs have their endings.

    Raises:
        TalkingheadError: an output is one of the inputs, or its name ends as another kind of file does.
    """
    from ..data.output_paths import check_outputs

    check_outputs(_paths(args, OutputPath), _paths(args, InputPath))
    for value in vars(args).values():
        if isinstance(value, OutputPath):
            value.check_ending(args)


def _engine_files(name: str) -> list[Path]:
    from ..engines.manifest import sidecar

    return [Path(name), sidecar(name)]


def _paths(args: argparse.Namespace, kind: type[_Kind]) -> Iterable[Path]:
    return chain.from_iterable(
        value.paths()
        for argument in vars(args).values()
        for value in _flatten(argument)
        if isinstance(value, kind)
    )


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        yield from value
    else:
        yield value
