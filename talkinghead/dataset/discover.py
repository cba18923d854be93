"""Find the videos of a data set, and the person in each as far as the layout of the data set tells.

| layout | looks like | person |
|---|---|---|
| VoxCeleb | id10001/7w0IBEWc9Qw/00001.mp4 | id10001 |
| VoxCeleb, flattened | id10001#7w0IBEWc9Qw#000993#001143.mp4 | id10001 |
| HDTF | WRA_AdamKinzinger0_000.mp4, RD_Radio10_000.mp4 | AdamKinzinger, Radio10 |
| CelebV-HQ | _b8ITBB5Oxk_13_0.mp4 | _b8ITBB5Oxk: all of one YouTube video, for it tells no identity |
| folder name | anna/2.mp4 in the named folder | anna |
| file name | 2.mp4 in the named folder, or named itself | 2, each its own |
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import TalkingheadError
from ..media.images import natural_sort_key
from ..media.video import VIDEO_SUFFIXES

log = logging.getLogger(__name__)

FILE_NAME = "file name"
"""The layout of a video that is the only one of its person, as far as is known."""
_MIN_SHARE = 0.9  # of the videos must have names of a layout
_MIN_VIDEOS = 3  # fewer videos prove no layout


@dataclass(frozen=True)
class SourceVideo:
    """A video to prepare.

    Attributes:
        path: the file.
        person: name of the person in it.
        layout: the detected layout that the name comes from.
        problem: why it cannot be used (a folder that cannot be read); empty for a video.
    """

    path: Path
    person: str
    layout: str
    problem: str = ""


def find_videos(paths: Iterable[str | Path], people: Mapping[str, str] | None = None) -> list[SourceVideo]:
    """List the named videos and those in the named folders, in natural order of names.

    Subfolders and linked folders are read, but no folder is read twice; hidden files and folders and repeated
    files are skipped; the number of other files is logged. The layout of a named folder is the one of nine
    tenths of its videos; the videos that are named themselves form another such group.

    Args:
        paths: files and folders.
        people: file name -> person, which overrides the layout. A name may begin with some of the folders
            that the file lies in; the longest match counts.

    Raises:
        TalkingheadError: there are no paths, a path does not exist, or a folder holds no videos.
    """
    entries: list[tuple[Path | None, Path, str]] = []  # the named folder, the video in it, its problem
    for path in map(Path, paths):
        if os.path.isdir(path):
            entries += [(path, file, problem) for file, problem in _videos_in(path)]
        elif os.path.lexists(path):
            entries.append((None, path, ""))
        else:
            raise TalkingheadError(f"{path}: no such file; name a video or a folder of videos")
    if not entries:
        raise TalkingheadError("no videos were given, expected at least one; name videos or folders of them")
    videos: dict[Path | None, list[Path]] = {}
    for root, path, problem in entries:
        videos.setdefault(root, []).extend([] if problem else [path])
    layouts = {root: _detect_layout(files) for root, files in videos.items()}
    sources: dict[str, SourceVideo] = {}
    for root, path, problem in entries:
        layout, person_of = layouts[root]
        person = _person_in_table(path, people or {})
        if person is not None:
            layout = "table of people"
        else:
            person = person_of(_parts(path))
        if person is None:
            folders = path.relative_to(root).parts[:-1] if root is not None else ()
            layout, person = ("folder name", folders[0]) if folders else (FILE_NAME, path.stem)
        sources.setdefault(os.path.abspath(path), SourceVideo(path, person, layout, problem))
    return list(sources.values())


def _videos_in(folder: Path) -> list[tuple[Path, str]]:
    """List the videos in a named folder, each with its problem, and log the other files.

    Raises:
        TalkingheadError: there are none.
    """
    others: Counter[str] = Counter()
    videos = list(_walk(folder, others))
    if others:
        log.info(
            "%s: not taken, as they are no videos: %s",
            folder,
            ", ".join(f"{count} {kind}" for kind, count in others.most_common()),
        )
    if not videos:
        raise TalkingheadError(
            f"{folder}: holds no videos; name a folder of files that end in "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return videos


def _walk(folder: Path, others: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Yield the videos in a folder and its subfolders, and unreadable folders with the problem.

    Other files are counted in `others` by their suffixes.
    """
    visited: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        path = pending.pop()
        if not os.path.isdir(path):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield path, ""
            else:
                others[path.suffix.lower() or "without an ending"] += 1
            continue
        try:
            status = os.stat(path)
            # read a folder once that several links or a circle of links lead to
            if (status.st_dev, status.st_ino) not in visited:
                visited.add((status.st_dev, status.st_ino))
                names = [name for name in os.listdir(path) if not name.startswith(".")]
                pending += [path / name for name in sorted(names, key=natural_sort_key, reverse=True)]
        except OSError as error:
            yield path, f"the folder cannot be read ({error.strerror})"


def _parts(path: Path) -> tuple[str, ...]:
    return Path(os.path.abspath(path)).parts


def _person_in_table(path: Path, people: Mapping[str, str]) -> str | None:
    parts = _parts(path)
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((people[name] for name in names if name in people), None)


_PersonOf = Callable[[Sequence[str]], str | None]
"""A function from the parts of a path to the person, None where the path does not have the layout."""


def _detect_layout(paths: Sequence[Path]) -> tuple[str, _PersonOf]:
    """Detect the layout of most of the videos: return its name and its function from path to person."""
    for name, person_of in _LAYOUTS.items():
        people = [person for path in paths if (person := person_of(_parts(path))) is not None]
        if len(people) < max(_MIN_VIDEOS, _MIN_SHARE * len(paths)):
            continue
        if person_of is not _celebv_hq or _look_like_youtube_ids(set(people)):
            return name, person_of
    return "", lambda parts: None


def _voxceleb(parts: Sequence[str]) -> str | None:
    if len(parts) >= 3 and re.fullmatch(r"id\d{5}", parts[-3]) and re.fullmatch(_YOUTUBE_ID, parts[-2]):
        return parts[-3]
    return None


def _voxceleb_flat(parts: Sequence[str]) -> str | None:
    match = re.match(rf"(id\d{{5}})#{_YOUTUBE_ID}#", parts[-1])
    return match and match[1]


def _hdtf(parts: Sequence[str]) -> str | None:
    match = re.match(r"(?:RD|WDA|WRA)_([A-Za-z]+)(\d*)_\d{3}(?:[._]|$)", parts[-1])
    if not match:
        return None
    # the number distinguishes several videos of a person; only "Radio" is no person's name
    return match[1] + (match[2] if match[1] == "Radio" else "")


def _celebv_hq(parts: Sequence[str]) -> str | None:
    match = re.match(rf"({_YOUTUBE_ID})_\d+(?:_\d+)?\.", parts[-1])
    return match and match[1]


def _look_like_youtube_ids(names: set[str]) -> bool:
    """Return whether names look random over 64 letters, as 9 of 10 of YouTube's ids do."""
    kinds = ("[a-z]", "[A-Z]", "[0-9_-]")
    mixed = sum(all(re.search(kind, name) for kind in kinds) for name in names)
    return mixed >= 0.75 * len(names)


_YOUTUBE_ID = r"[A-Za-z0-9_-]{11}"
_LAYOUTS: dict[str, _PersonOf] = {
    "VoxCeleb": _voxceleb,
    "VoxCeleb, flattened": _voxceleb_flat,
    "HDTF": _hdtf,
    "CelebV-HQ": _celebv_hq,
}


def list_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return one path or several as a list."""
    if isinstance(paths, (str, os.PathLike)):
        return [Path(paths)]
    return [Path(path) for path in paths]
