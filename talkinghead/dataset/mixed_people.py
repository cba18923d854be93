"""Warn of people in a data set whose clips look like two people."""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..data.few_shot import evenly_spaced_indices
from ..errors import TalkingheadError
from ..pretrained.face_similarity import (
    MIN_DIFFERENT_PEOPLE_DISTANCE,
    TwoPeople,
    face_similarity_network,
    group_by_person,
)
from ..system.progress import Progress, no_progress
from .report import REPORT, read_report
from .shard_reader import read_shard

log = logging.getLogger(__name__)

MAX_CLIPS = 4
"""Clips of each person that are compared, by one picture each."""


def warn_of_mixed_people(folder: Path, people: Collection[str], progress: Progress = no_progress) -> None:
    """Log a warning for each person whose clips look like different people, by one picture of some clips.

    A shard that cannot be read is a warning too, and not all of its clips are compared.

    Args:
        folder: the data set.
        people: names of those who are compared.
        progress: shows how many clips have been read.

    Raises:
        TalkingheadError: the report cannot be read.
    """
    chosen = _choose_clips(folder, people)
    total = sum(map(len, chosen.values()))
    if not total:
        return
    files: dict[str, list[str]] = {}
    vectors: dict[str, list[np.ndarray]] = {}  # 64 numbers of each picture, since data sets have thousands
    for person, file, vector in progress(_embed(folder, chosen), desc="comparing people", total=total):
        files.setdefault(person, []).append(file)
        vectors.setdefault(person, []).append(vector)
    for person, of_person in vectors.items():
        if two_people := group_by_person(np.stack(of_person)):
            log.warning("%s: person %s %s", folder, person, _describe(two_people, files[person]))


def _choose_clips(folder: Path, people: Collection[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Choose some clips of each person who has several: shard -> key of a clip -> its person and file."""
    reported: dict[str, list[tuple[str, str, str]]] = {}  # person -> shard, key and file of each clip
    for line, _ in read_report(folder / REPORT):
        shots = line.get("shots", []) if line.get("person") in people else []
        for key in [shot["clip"] for shot in shots if "clip" in shot]:
            reported.setdefault(line["person"], []).append((line["shard"], key, line["file"]))
    chosen: dict[str, dict[str, tuple[str, str]]] = {}
    for person, clips in reported.items():
        for index in evenly_spaced_indices(len(clips), MAX_CLIPS) if len(clips) > 1 else ():
            shard, key, file = clips[index]
            chosen.setdefault(shard, {})[key] = person, file
    return chosen


def _embed(
    folder: Path, chosen: Mapping[str, Mapping[str, tuple[str, str]]]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield person, file and vector [64] of the middle picture of each clip; each shard is read once."""
    network = face_similarity_network()
    for shard, clips in sorted(chosen.items()):
        for key, frames, landmarks in _middle_pictures(folder / shard, clips):
            person, file = clips[key]
            yield person, file, network.embed(frames, landmarks)[0]


def _middle_pictures(shard: Path, keys: Collection[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield key, frame in the middle uint8 [1, S, S, 3] and its landmarks [1, 68, 2] of clips of a shard."""
    try:
        for places, clip in read_shard(shard):
            if places.key in keys:
                middle = len(clip) // 2
                yield places.key, clip.frames([middle]), clip.landmarks[[middle]]
    except TalkingheadError as error:  # new clips are whole, whatever became of earlier ones
        log.warning("%s; not all of its clips were compared", error)


def _describe(two_people: TwoPeople, files: list[str]) -> str:
    """Return in which files someone looks like different people, and what to do about it."""
    first, others = (
        [files[number - 1] for number in numbers] for numbers in (two_people.largest_group, two_people.others)
    )
    distance = f"(distance {two_people.distance:.2f}, {MIN_DIFFERENT_PEOPLE_DISTANCE:g} or more is another)"
    # the clips of a file are its shots
    both = next((file for file in first if file in others), None)
    if both is not None:
        return (
            f"looks like different people in shots of one file, {both} {distance}; cut it into a video of "
            "each person, or leave it out, and prepare into another folder"
        )
    return (
        f"looks like different people in {first[0]} and {others[0]} {distance}; name the people by folders "
        "or --people, and prepare into another folder"
    )
