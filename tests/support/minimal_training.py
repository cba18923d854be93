"""Training run of a minimal network, whose steps take milliseconds, and its data."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # torch's optimisers import it when they are created

from talkinghead import config
from talkinghead.config import Config, NetworkConfig, preset
from talkinghead.data.crop import Crop
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.training import meta

STEPS = 8
_SIDE = 32


def minimal_config() -> Config:
    """Return preset `tiny` with images of 32 pixels, few channels, and no network for the content loss."""
    networks = NetworkConfig(
        image_size=_SIDE,
        encoder=(8, 16),
        encoder_attention=1,
        down=(8, 16),
        down_attention=1,
        residual=1,
        up=(16, 8),
        up_attention=1,
        spectral_embedder=False,
        spectral_generator=False,
        spectral_discriminator=False,
    )
    tiny = preset("tiny")
    return dataclasses.replace(
        tiny, networks=networks, perceptual=(), meta=dataclasses.replace(tiny.meta, batch=2, precision="fp32")
    )


def write_data(folder: Path) -> Path:
    """Write shards of two people whose frames are noise."""
    random = np.random.default_rng(0)
    points = ((MEAN_FACE[:, :2] * 0.15 + 0.5) * _SIDE).astype(np.float32)
    with ShardWriter(folder) as writer:
        for person in ("first", "second"):
            digest = hashlib.sha256(person.encode()).hexdigest()
            info = ClipInfo(
                name=f"{person}.mp4",
                sha256=digest,
                person=person,
                fps=25.0,
                frame_size=(_SIDE, _SIDE),
                crop=Crop(0, 0, _SIDE),
                frames=tuple(range(12)),
                size=_SIDE,
                detector="network",
            )
            frames = random.integers(0, 255, (12, _SIDE, _SIDE, 3), np.uint8)
            writer.write(info, np.repeat(points[None], 12, 0), list(frames))
    return folder


def train_minimal(data: Path, out: Path) -> None:
    """Train the minimal network, saving after every step."""
    torch.set_num_threads(1)
    config._PRESETS["tiny"] = minimal_config()
    meta.measure_peak_flops = lambda *_: 1.0  # measuring it takes seconds
    meta.train(data, out, "tiny", steps=STEPS, seed=1, save_seconds=0.0)
