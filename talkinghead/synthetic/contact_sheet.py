"""Contact sheet of a data set."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from ..dataset.shard_reader import ShardClip, read_index
from ..landmarks.landmark_image import landmark_image
from ..media.contact_sheet import SheetRow, draw_contact_sheet
from ..media.images import write_image

_MAX_PEOPLE = 24
_PEOPLE_PER_ROW = 3
_SIDE = 128  # pixels
_SHOTS = 3  # frames of each person


def write_contact_sheet(folder: Path, path: Path) -> None:
    """Write an image of the first people of a data set.

    It shows three frames of each person, from different clips if there are several, and the landmarks of the
    third frame.

    Args:
        folder: the data set.
        path: the image to write.

    Raises:
        TalkingheadError: the data set cannot be read, or the image cannot be written.
    """
    clips = read_index(folder)
    groups = [list(group) for _, group in groupby(clips, key=lambda clip: clip.person)][:_MAX_PEOPLE]
    panels = [_render_person(group) for group in groups]
    rows = []
    for start in range(0, len(groups), _PEOPLE_PER_ROW):
        last = min(start + _PEOPLE_PER_ROW, len(groups)) - 1
        name = f"{start + 1} to {last + 1}" if last > start else str(start + 1)
        rows.append(
            SheetRow(
                name, groups[start][0].person, [image for row in panels[start : last + 1] for image in row]
            )
        )
    people = len({clip.person for clip in clips})
    frames = sum(map(len, clips))
    title = (
        f"{people} synthetic people, {len(clips)} clips, {frames} frames of {clips[0].size}x{clips[0].size}"
    )
    write_image(
        path, draw_contact_sheet(title, "three frames of each, and the landmarks of the third", rows, _SIDE)
    )


def _render_person(clips: Sequence[ShardClip]) -> list[np.ndarray]:
    """Return frames of a person from different clips, and the landmark image of the last one."""
    frames = []
    for shot in range(_SHOTS):
        clip = clips[shot * len(clips) // _SHOTS]
        index = (len(clip) * (2 * shot + 1)) // (2 * _SHOTS)
        frames.append(clip.frames([index])[0])
    points = torch.from_numpy(clip.landmarks[index][None] / clip.size)
    landmarks = landmark_image(points, _SIDE)[0].permute(1, 2, 0).numpy()
    return [*frames, ((landmarks + 1) * 127.5).astype(np.uint8)]
