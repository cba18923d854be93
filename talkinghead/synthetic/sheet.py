"""A contact sheet of a data set, to look at."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from ..data.shards import ShardClip, read_index
from ..landmarks.draw import landmark_image
from ..media.panels import Row, sheet
from ..media.pictures import write_picture

_PEOPLE, _ACROSS = 24, 3
_SIDE = 128


def write_sheet(folder: Path, path: Path) -> None:
    """A picture of the first people of a data set: three frames of each, from different clips where there are, and the third's landmarks.

    Raises:
        TalkingheadError: the data set cannot be read, or the picture not written.
    """
    clips = read_index(folder)
    groups = [list(group) for _, group in groupby(clips, key=lambda clip: clip.person)][:_PEOPLE]
    pictures = [_of_one(group) for group in groups]
    rows = []
    for start in range(0, len(groups), _ACROSS):
        last = min(start + _ACROSS, len(groups)) - 1
        name = f"{start + 1} to {last + 1}" if last > start else str(start + 1)
        rows.append(Row(name, groups[start][0].person, [each for one in pictures[start : last + 1] for each in one]))
    people = len({clip.person for clip in clips})
    frames = sum(map(len, clips))
    title = f"{people} synthetic people, {len(clips)} clips, {frames} frames of {clips[0].size}x{clips[0].size}"
    write_picture(path, sheet(title, "three frames of each, and the landmarks of the third", rows, _SIDE))


def _of_one(clips: Sequence[ShardClip]) -> list[np.ndarray]:
    taken = []
    for turn in range(3):
        clip = clips[turn * len(clips) // 3]
        index = (len(clip) * (2 * turn + 1)) // 6
        taken.append(clip.frames([index])[0])
    points = torch.from_numpy(clip.landmarks[index][None] / clip.size)
    drawn = landmark_image(points, _SIDE)[0].permute(1, 2, 0).numpy()
    return [*taken, ((drawn + 1) * 127.5).astype(np.uint8)]
