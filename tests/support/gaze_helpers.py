"""Models, clips and data sets with irises."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from conftest import face_clip, face_points
from talkinghead.clip import Clip
from talkinghead.config import Config
from talkinghead.data.crop import Crop
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.landmarks.gaze import look_ahead
from talkinghead.model import Model

SIDE = 64


def config_with_irises(config: Config) -> Config:
    """Return the configuration with landmark images that show irises."""
    return dataclasses.replace(config, networks=dataclasses.replace(config.networks, irises=True))


def model_with_irises(model: Model) -> Model:
    """Return a model of the same weights whose landmark images show irises."""
    return dataclasses.replace(model, config=config_with_irises(model.config), digest="")


def gaze_clip(count: int = 4, seed: int = 0, fps: float = 0.0) -> Clip:
    """Return pictures of a moving head, whose gaze moves too."""
    moves = [(0.02 * np.sin(number), 0.02 * np.cos(number)) for number in range(count)]
    clip = face_clip(face_points(*moves), SIDE, seed)
    gaze = np.stack([np.cos(np.arange(count)), 0.3 * np.sin(np.arange(count))], axis=1)
    irises = look_ahead(clip.track.landmarks) + gaze[:, None, None].astype(np.float32)
    return dataclasses.replace(clip, track=dataclasses.replace(clip.track, irises=irises, fps=fps))


def without_irises(clip: Clip) -> Clip:
    """Return the same clip with unknown irises."""
    return dataclasses.replace(clip, track=dataclasses.replace(clip.track, irises=None))


def write_gaze_shards(folder: Path, **has_irises: bool) -> Path:
    """Write a clip of each person, with irises or without."""
    folder.mkdir()
    with ShardWriter(folder) as writer:
        for number, (person, known) in enumerate(has_irises.items()):
            clip = gaze_clip(12, seed=number)
            info = ClipInfo(
                name=f"{person}.mp4",
                sha256=hashlib.sha256(f"{person}{known}".encode()).hexdigest(),
                person=person,
                fps=25.0,
                frame_size=(SIDE, SIDE),
                crop=Crop(0, 0, SIDE),
                frames=tuple(range(len(clip))),
                size=SIDE,
                detector="network",
            )
            irises = clip.track.irises if known else None
            writer.write(info, clip.track.landmarks, clip.frames, irises=irises)
    return folder
