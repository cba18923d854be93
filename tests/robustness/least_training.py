"""A training run of the least network, which takes steps of milliseconds, and its data."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # which torch's optimisers import when they are made

from talkinghead import config
from talkinghead.config import Config, NetworkConfig, preset
from talkinghead.corpus.shard_writer import ShardWriter
from talkinghead.data.crop import Crop
from talkinghead.data.shards import ClipInfo
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.training import meta

STEPS = 8
_SIDE = 32


def least_config() -> Config:
    """Return preset `tiny` with pictures of 32, few channels, and no network for the content loss: a step of milliseconds."""
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
    return dataclasses.replace(tiny, networks=networks, perceptual=(), meta=dataclasses.replace(tiny.meta, batch=2, precision="fp32"))


def write_data(folder: Path) -> Path:
    """Write shards of two people whose pictures are noise."""
    chance = np.random.default_rng(0)
    points = ((MEAN_FACE[:, :2] * 0.15 + 0.5) * _SIDE).astype(np.float32)
    with ShardWriter(folder) as writer:
        for person in ("first", "second"):
            digest = hashlib.sha256(person.encode()).hexdigest()
            info = ClipInfo(f"{person}.mp4", digest, person, 25.0, (_SIDE, _SIDE), Crop(0, 0, _SIDE), tuple(range(12)), _SIDE, "dlib")
            frames = chance.integers(0, 255, (12, _SIDE, _SIDE, 3), np.uint8)
            writer.write(info, np.repeat(points[None], 12, 0), list(frames))
    return folder


def train_least(data: Path, out: Path) -> None:
    """Train the least network, saving after every step."""
    torch.set_num_threads(1)
    config._PRESETS["tiny"] = least_config()
    meta.peak_rate = lambda *_: 1.0  # which is measured, for seconds
    meta.train(data, out, "tiny", steps=STEPS, seed=1, save_seconds=0.0)
