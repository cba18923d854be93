"""Which videos a corpus holds, and whom each shows as far as its layout tells.

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
from ..media.pictures import natural
from ..media.video import VIDEO_SUFFIXES

log = logging.getLogger(__name__)

_SHARE = 0.9  # of the videos must be named as a layout names them
_LEAST = 3  # videos, and fewer prove no layout


@dataclass(frozen=True)
class Source:
    """A video of a corpus.

    Attributes:
        path: the file.
        person: whom it shows.
        layout: what told so.
        problem: why it cannot be used (a folder that cannot be read); empty for a video.
    """

    path: Path
    person: str
    layout: str
    problem: str = ""


def find_videos(given: Iterable[str | Path], people: Mapping[str, str] | None = None) -> list[Source]:
    """The videos that were named or lie in the named folders and their subfolders, in natural order of their names.

    Linked folders are followed, but no folder is read twice; hidden files and folders are left out, and a file that is named again;
    what else lies there is logged. What layout a named folder has is told by nine tenths of its videos; so it is for all the videos that
    are named themselves.

    Args:
        given: files and folders.
        people: file name -> person, which goes before the layout. A name may begin with some of the folders it lies in; the longest counts.

    Raises:
        TalkingheadError: nothing is given, a file or folder is not there, or a folder holds no videos.
    """
    found: list[tuple[Path | None, Path, str]] = []  # the named folder, the video in it, what is wrong
    for named in map(Path, given):
        if os.path.isdir(named):
            others: Counter[str] = Counter()
            inside = [(named, path, problem) for path, problem in _walk(named, others)]
            if others:
                log.info("%s: not taken, as they are no videos: %s", named, ", ".join(f"{n} {kind}" for kind, n in others.most_common()))
            if not inside:
                raise TalkingheadError(f"{named}: holds no videos, expected files that end in {' '.join(sorted(VIDEO_SUFFIXES))}")
            found += inside
        elif os.path.lexists(named):
            found.append((None, named, ""))
        else:
            raise TalkingheadError(f"{named}: no such file; name a video or a folder of videos")
    if not found:
        raise TalkingheadError("prepare: no videos given, expected at least one; name videos or folders of them")
    videos: dict[Path | None, list[Path]] = {}
    for root, path, problem in found:
        videos.setdefault(root, []).extend([] if problem else [path])
    layouts = {root: _recognise(paths) for root, paths in videos.items()}
    sources: dict[str, Source] = {}
    for root, path, problem in found:
        layout, tells = layouts[root]
        person = _listed(path, people or {})
        if person is not None:
            layout = "table of people"
        else:
            person = tells(_parts(path))
        if person is None:
            folders = path.relative_to(root).parts[:-1] if root is not None else ()
            layout, person = ("folder name", folders[0]) if folders else ("file name", path.stem)
        sources.setdefault(os.path.abspath(path), Source(path, person, layout, problem))
    return list(sources.values())


def _walk(folder: Path, others: Counter[str]) -> Iterator[tuple[Path, str]]:
    """The videos in a folder and its subfolders, and, with what is wrong, the subfolders that cannot be read.

    Other files are counted in `others`, by the ending of their names.
    """
    read: set[tuple[int, int]] = set()
    ahead = [folder]
    while ahead:
        path = ahead.pop()
        if not os.path.isdir(path):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield path, ""
            else:
                others[path.suffix.lower() or "without an ending"] += 1
            continue
        try:
            status = os.stat(path)
            # a folder that links lead to twice, or in a circle, is read once
            if (status.st_dev, status.st_ino) not in read:
                read.add((status.st_dev, status.st_ino))
                names = [name for name in os.listdir(path) if not name.startswith(".")]
                ahead += [path / name for name in sorted(names, key=natural, reverse=True)]
        except OSError as error:
            yield path, f"the folder cannot be read ({error.strerror})"


def _parts(path: Path) -> tuple[str, ...]:
    return Path(os.path.abspath(path)).parts


def _listed(path: Path, people: Mapping[str, str]) -> str | None:
    parts = _parts(path)
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((people[name] for name in names if name in people), None)


_Tells = Callable[[Sequence[str]], str | None]


def _recognise(paths: Sequence[Path]) -> tuple[str, _Tells]:
    """The layout that most of the videos have: its name, and what tells the person from a path's parts."""
    for name, tells in _LAYOUTS.items():
        people = [tells(_parts(path)) for path in paths]
        told = [person for person in people if person is not None]
        if len(told) >= max(_LEAST, _SHARE * len(paths)) and (tells is not _celebv_hq or _of_youtube(set(told))):
            return name, tells
    return "", lambda parts: None


def _voxceleb(parts: Sequence[str]) -> str | None:
    if len(parts) >= 3 and re.fullmatch(r"id\d{5}", parts[-3]) and re.fullmatch(_YOUTUBE, parts[-2]):
        return parts[-3]
    return None


def _voxceleb_flat(parts: Sequence[str]) -> str | None:
    found = re.match(rf"(id\d{{5}})#{_YOUTUBE}#", parts[-1])
    return found and found[1]


def _hdtf(parts: Sequence[str]) -> str | None:
    found = re.match(r"(?:RD|WDA|WRA)_([A-Za-z]+)(\d*)_\d{3}(?:[._]|$)", parts[-1])
    if not found:
        return None
    # the number tells several videos of one person apart, but whom the radio shows is not said
    return found[1] + (found[2] if found[1] == "Radio" else "")


def _celebv_hq(parts: Sequence[str]) -> str | None:
    found = re.match(rf"({_YOUTUBE})_\d+(?:_\d+)?\.", parts[-1])
    return found and found[1]


def _of_youtube(names: set[str]) -> bool:
    """Whether they look drawn from 64 letters, as the names of YouTube's videos are: 9 of 10 of those do."""
    looks = [all(re.search(kind, name) for kind in ("[a-z]", "[A-Z]", "[0-9_-]")) for name in names]
    return sum(looks) >= 0.75 * len(looks)


_YOUTUBE = r"[A-Za-z0-9_-]{11}"
_LAYOUTS: dict[str, _Tells] = {
    "VoxCeleb": _voxceleb,
    "VoxCeleb, flattened": _voxceleb_flat,
    "HDTF": _hdtf,
    "CelebV-HQ": _celebv_hq,
}
