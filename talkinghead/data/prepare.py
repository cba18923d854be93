"""Videos -> the data set that `train` reads."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import TalkingheadError
from ..files import replacing, sha256
from ..landmarks.detect import Detector, open_detector
from .crop import crop_around
from .pictures import natural
from .read import Progress, read_track, select, silent
from .shards import VERSION, ClipInfo, ShardWriter, has_shards, read_index
from .video import VIDEO_SUFFIXES, VideoReader

MIN_FRAMES = 16
"""A video with a face in fewer frames is rejected: 8 to learn from and some others to predict is the least."""
MIN_FACE = 48.0
"""A video is rejected when the longer side of its median face is smaller, in pixels of the source."""


@dataclass(frozen=True)
class Report:
    """What became of the videos.

    Attributes:
        out: the folder of the data set.
        taken: the videos added now.
        present: those that an earlier run had added.
        rejected: the others, with the reason.
    """

    out: Path
    taken: tuple[Path, ...]
    present: tuple[Path, ...]
    rejected: tuple[tuple[Path, str], ...]


def prepare(
    videos: Iterable[str | Path],
    out: str | Path,
    size: int = 256,
    detector: Detector | None = None,
    people: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Report:
    """Add the faces of videos to the data set in a folder.

    The folder then holds tar shards (see `talkinghead.data.shards`), `rejected.tsv` (columns file, reason; of this run) and `dataset.json`
    (version, size, detector, clips, frames, people). Shards appear one by one, each when it is whole; run again after an interruption, it
    goes on after the last. Memory does not grow with the length of a video.

    Args:
        videos: files, and folders whose videos are taken (not those of folders within).
        out: made when missing; a data set that is there is added to.
        size: side of the stored crops in pixels.
        detector: finds the landmarks; ``open_detector()`` by default.
        people: file name (without folder) -> person; a video that is not in it shows a person of its own, called like the file.
        progress: shows the advance.

    Raises:
        TalkingheadError: a video does not exist or none is given; none could be used; the folder cannot be written to, or holds clips of
            another size or detector.
    """
    files, out = _files(videos), Path(out)
    detector, people = detector or open_detector(), people or {}
    sources = _present(out, size, detector)
    taken: list[Path] = []
    present: list[Path] = []
    rejected: list[tuple[Path, str]] = []
    try:
        with ShardWriter(out) as writer:
            for path in progress(files, len(files), "videos"):
                person = people.get(path.name, path.stem)
                try:
                    digest = sha256(path)
                    known = sources.get(digest)
                    if known is None:
                        sources[digest] = _add(writer, path, digest, size, detector, person)
                        taken.append(path)
                    elif known.name == path.name and known.person == person:
                        present.append(path)
                    else:
                        raise TalkingheadError(f"{path}: is already there as {known.name}, person {known.person}")
                except TalkingheadError as error:
                    rejected.append((path, str(error)))
    except OSError as error:
        raise TalkingheadError(f"{out}: cannot be written to ({error.strerror or error}); free some space or name another place") from error
    if not taken and not present:
        raise TalkingheadError(f"none of {len(files)} videos could be used; the first: {rejected[0][1]}")
    _write_lists(out, size, detector, rejected)
    return Report(out, tuple(taken), tuple(present), tuple(rejected))


def _files(videos: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for video in map(Path, videos):
        if video.is_dir():
            inside = [path for path in video.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
            if not inside:
                raise TalkingheadError(f"{video}: holds no videos, expected files that end in {' '.join(sorted(VIDEO_SUFFIXES))}")
            files += sorted(inside, key=lambda path: natural(path.name))
        elif video.is_file():
            files.append(video)
        else:
            raise TalkingheadError(f"{video}: no such file; name a video or a folder of videos")
    if not files:
        raise TalkingheadError("prepare: no videos given, expected at least one; name videos or folders of them")
    return files


def _present(out: Path, size: int, detector: Detector) -> dict[str, ClipInfo]:
    """The clips that the folder holds, by the SHA-256 of their source."""
    clips = [clip.info for clip in read_index(out)] if has_shards(out) else []
    for clip in clips:
        if (clip.size, clip.detector) != (size, detector.name):
            have, want = f"size {clip.size} by {clip.detector}", f"size {size} by {detector.name}"
            raise TalkingheadError(f"{out}: holds clips of {have}, expected {want}; prepare into another folder")
    return {clip.sha256: clip for clip in clips}


def _add(writer: ShardWriter, path: Path, digest: str, size: int, detector: Detector, person: str) -> ClipInfo:
    track, kept, total = read_track(path, detector)
    if len(track) < MIN_FRAMES:
        raise TalkingheadError(f"{path}: shows a face in {len(track)} of its {total} frames, expected at least {MIN_FRAMES}")
    face = float(np.median(np.ptp(track.landmarks, axis=1).max(axis=1)))
    if face < MIN_FACE:
        raise TalkingheadError(f"{path}: its face is {face:.0f} pixels large, expected at least {MIN_FACE:.0f}")
    crop = crop_around(track.landmarks)
    info = ClipInfo(path.name, digest, person, track.fps, track.size, crop, tuple(kept.tolist()), size, detector.name)
    writer.write(info, crop.points(track.landmarks, size), (crop.pixels(frame, size) for frame in select(VideoReader(path), kept)))
    return info


def _write_lists(out: Path, size: int, detector: Detector, rejected: list[tuple[Path, str]]) -> None:
    clips = read_index(out)
    with replacing(out / "rejected.tsv") as beside:
        lines = ["file\treason", *(f"{path}\t{reason}" for path, reason in rejected)]
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = {
        "version": VERSION,
        "size": size,
        "detector": detector.name,
        "clips": len(clips),
        "frames": sum(map(len, clips)),
        "people": len({clip.person for clip in clips}),
    }
    with replacing(out / "dataset.json") as beside:
        beside.write_text(json.dumps(summary, indent=1) + "\n")
