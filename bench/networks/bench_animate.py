"""A second of video from landmarks: drawn, generated and encoded, against the baseline network in the loop a
user would write.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.lib.harness import DEVICE, Case
from bench.networks.baseline import BaselineGenerator
from talkinghead.engines.precision import DTYPES, choose_precision
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.media.video import write_video
from talkinghead.model import Person, random_model
from talkinghead.networks import Generator
from talkinghead.pipelines.animate import BATCH
from talkinghead.system.prefetch import prefetch

FRAMES = 25


def test_animate(bench, request, tmp_path):
    pytest.importorskip("av", reason="frames are encoded with PyAV: pip install 'talkinghead[app]'")
    name, frames = ("tiny", 4) if request.config.getoption("quick") else ("small", FRAMES)
    model = random_model(name)
    config, precision = model.config.networks, choose_precision(torch.device(DEVICE), "auto")
    dtype = DTYPES[precision]
    generator = Generator(config, projection=False)
    styles = torch.randn(1, generator.style_length)
    points = torch.rand(frames, 68, 2)
    person = Person(model.config, generator, styles, points[0].numpy(), model.digest, feed_forward=False)
    baseline = (
        BaselineGenerator(generator)
        .eval()
        .requires_grad_(False)
        .to(DEVICE, dtype, memory_format=torch.channels_last)
    )
    engine = TorchEngine(person, DEVICE, precision, BATCH, fast=True)

    def encode(stream: Iterator[np.ndarray]) -> Tensor:
        kept = []
        with write_video(tmp_path / "out.mp4", Fraction(25), (config.image_size,) * 2) as video:
            for frame in stream:
                video.write(frame)
                kept.append(frame)
        return torch.from_numpy(np.stack(kept))

    def ours() -> Tensor:
        return encode(
            prefetch(
                (
                    frame
                    for start in range(0, frames, BATCH)
                    for frame in engine.run(points[start : start + BATCH])
                ),
                2 * BATCH,
            )
        )

    @torch.inference_mode()
    def one_by_one() -> Iterator[np.ndarray]:
        for point_set in points:
            landmark_input = landmark_image(point_set[None].to(DEVICE), config.image_size).to(
                dtype, memory_format=torch.channels_last
            )
            picture = baseline(landmark_input, styles.to(DEVICE))
            yield (
                ((picture[0].permute(1, 2, 0) + 1) * 127.5)
                .round()
                .clamp(0, 255)
                .to(torch.uint8)
                .cpu()
                .numpy()
            )

    with torch.no_grad():
        plain = BaselineGenerator(generator)(
            landmark_image(points, config.image_size), styles.expand(frames, -1)
        )
    bench(
        Case(
            "animate",
            f"{frames} frames, encoding included",
            f"{name} {config.image_size}x{config.image_size}",
            BATCH,
            dtype,
            bytes_moved=0,
            expected=((plain.permute(0, 2, 3, 1) + 1) * 127.5,),
            providers={"ours": ours, "baseline": lambda: encode(one_by_one())},
            tolerance=0.05,
            wall_clock=True,
        )
    )
