"""Warn of people in a data set whose clips look like two people."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..clip import Clip, Track
from ..data.few_shot import evenly_spaced_indices
from ..pretrained.face_similarity import MIN_DIFFERENT_PEOPLE_DISTANCE, looks_like_two_people
from .report import REPORT, read_report
from .shard_reader import ShardClip, read_shard

log = logging.getLogger(__name__)

MAX_CLIPS = 4
"""Clips of each person that are compared, by one picture each."""


def warn_of_mixed_people(folder: Path) -> None:
    """Log a warning for each person whose clips look like different people, by one picture of some clips.

    Raises:
        TalkingheadError: the report or a shard cannot be read.
    """
    people: dict[str, list[tuple[str, ShardClip]]] = {}
    for person, file, clip in _some_clips(folder):
        people.setdefault(person, []).append((file, clip))
    for person, clips in people.items():
        result = looks_like_two_people(_pictures(person, [clip for _, clip in clips]))
        if result is None:
            continue
        files = (clips[numbers[0] - 1][0] for numbers in (result.largest_group, result.others))
        log.warning(
            f"%s: person %s looks like different people in %s (distance {result.distance:.2f}, "
            f"{MIN_DIFFERENT_PEOPLE_DISTANCE:g} or more is another); name the people by folders or --people, "
            "and prepare into another folder",
            folder,
            person,
            " and ".join(files),
        )


def _some_clips(folder: Path) -> Iterator[tuple[str, str, ShardClip]]:
    """Yield person, file and clip of some clips of each person who has several; each shard is read once."""
    reported: dict[str, list[tuple[str, str, str]]] = {}  # person -> shard, key and file of each clip
    for line, _ in read_report(folder / REPORT):
        keys = [shot["clip"] for shot in line.get("shots", []) if "clip" in shot]
        for key in keys:
            reported.setdefault(line["person"], []).append((line["shard"], key, line["file"]))
    chosen: dict[str, dict[str, tuple[str, str]]] = {}
    for person, clips in reported.items():
        for index in evenly_spaced_indices(len(clips), MAX_CLIPS) if len(clips) > 1 else ():
            shard, key, file = clips[index]
            chosen.setdefault(shard, {})[key] = person, file
    for shard, people in sorted(chosen.items()):
        for places, clip in read_shard(folder / shard):
            if places.key in people:
                person, file = people[places.key]
                yield person, file, clip


def _pictures(person: str, clips: list[ShardClip]) -> Clip:
    """Return the middle frames of clips as a clip."""
    frames = np.concatenate([clip.frames([len(clip) // 2]) for clip in clips])
    landmarks = np.stack([clip.landmarks[len(clip) // 2] for clip in clips])
    return Clip(Track(landmarks, frames.shape[1:3]), frames, person)
