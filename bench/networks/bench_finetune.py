"""Fine-tuning on eight pictures, G, psi', D and w': a step against the textbook's, and on a GPU the whole of
it.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.lib.harness import DEVICE, Case, compiled
from bench.lib.timing import Budget, time_interleaved
from bench.networks.baseline_learner import BaselineLearner, BaselineLite0
from talkinghead.clip import Clip, Track
from talkinghead.engines.precision import DTYPES
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import Person, networks_of, random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.pretrained.perceptual import VGG19, EfficientNetLite0, PerceptualNetwork, VGGFace, vgg_layers
from talkinghead.system.device import training_precision
from talkinghead.training.finetune import embed
from talkinghead.training.finetune_inputs import prepare_images
from talkinghead.training.finetune_trainer import FinetuneTrainer

SHOTS = 8
PRECISION = training_precision(torch.device(DEVICE), "bf16")
TERMS = ("content", "pixel", "adversarial", "feature_matching", "discriminator")


def perceptual(network: str) -> tuple[list[PerceptualNetwork], list[PerceptualNetwork]]:
    """Return the networks of the content loss, of this project and of the baseline.

    Those of preset `paper` have random weights, which do not change the time.
    """
    if network != "paper":
        baseline = BaselineLite0()
        return [EfficientNetLite0().to(DEVICE)], [baseline]
    networks: list[PerceptualNetwork] = []
    for kind in (VGG19, VGGFace):
        layers = vgg_layers(kind.plan)[0].state_dict()
        networks.append(
            kind({f"features.{name}": torch.randn_like(tensor) / 50 for name, tensor in layers.items()}).to(
                DEVICE
            )
        )
    return networks, copy.deepcopy(networks)


@pytest.mark.parametrize("network", ["tiny", "small"] if DEVICE == "cpu" else ["tiny", "small", "paper"])
def test_finetune(bench, request, network):
    model = random_model(network)
    for module in networks_of(model).values():
        module.to(DEVICE)
    size, config = model.config.networks.image_size, replace(model.config.finetune, precision=PRECISION)
    shots = 1 if request.config.getoption("quick") else SHOTS
    real = torch.rand(shots, 3, size, size, device=DEVICE) * 2 - 1
    landmark_images = landmark_image(torch.rand(shots, 68, 2, device=DEVICE), size)
    embedding = torch.randn(1, model.config.networks.embedding, device=DEVICE) / 100
    ours = FinetuneTrainer(model, embedding, config, adversarial=True)
    networks, baseline_networks = perceptual(network)

    def step() -> Tensor:
        figures = ours.step(networks, real, landmark_images)
        return torch.stack([figures[name] for name in TERMS])

    def baseline(memory_format: torch.memory_format, **changes: Any) -> BaselineLearner:
        return BaselineLearner(
            model,
            embedding,
            replace(config, **changes.pop("config", {})),
            baseline_networks,
            memory_format,
            **changes,
        )

    expected = baseline(torch.contiguous_format, config={"precision": "fp32"}).step(real, landmark_images)
    formats = {name: getattr(torch, name) for name in ("contiguous_format", "channels_last")}
    tried = {
        name: partial(baseline(memory_format).step, real, landmark_images)
        for name, memory_format in formats.items()
    }
    best = "channels_last"
    if DEVICE == "cpu":
        times = time_interleaved(tried, Budget(0.0, 2, 2))
        best = min(tried, key=lambda name: times[name].median)
    providers = {"ours": step, "baseline": partial(baseline(formats[best]).step, real, landmark_images)}
    if request.config.getoption("thorough"):
        providers["compile"] = partial(baseline(formats[best], wrap=compiled).step, real, landmark_images)
    bench(
        Case(
            "fine-tuning",
            "step",
            network,
            shots,
            DTYPES[PRECISION],
            bytes_moved=0,
            expected=(expected,),
            providers=providers,
            tolerance=0.02,  # of the first step's losses; later ones go their own ways
        )
    )


def test_person(bench, request):
    """Time the whole fine-tuning of a person, on a GPU including the capture of graphs.

    Results are compared by how far frames move, as rounding errors grow from random weights on.
    """
    quick = request.config.getoption("quick")
    if DEVICE == "cpu" and not quick:
        pytest.skip("takes minutes a round on a CPU, where one step is measured")
    model = random_model("tiny" if quick else "paper").to(torch.device(DEVICE))
    model = replace(
        model,
        config=replace(
            model.config, finetune=replace(model.config.finetune, precision=PRECISION, jitter=0.0)
        ),
    )
    config, size = model.config.finetune, model.config.networks.image_size
    steps = 2 if quick else config.steps(SHOTS)
    random = np.random.default_rng(0)
    landmarks = random.uniform(0, size, (SHOTS, 68, 2)).astype(np.float32)
    clip = Clip(Track(landmarks, (size, size)), random.integers(0, 256, (SHOTS, size, size, 3), np.uint8))
    pictures = prepare_images(model, clip)
    real, landmark_images = pictures.small_images, pictures.landmark_images
    networks, baseline_networks = perceptual("tiny" if quick else "paper")
    embedding = embed(model, clip)

    @torch.no_grad()
    def render(generator: Callable[..., Tensor], styles: Tensor) -> Tensor:
        return generator(landmark_images, styles.expand(SHOTS, -1)).float()

    with torch.no_grad():
        before = render(model.generator, model.generator.project(embedding))

    def frame_changes(frames: Tensor) -> Tensor:
        return (frames - before).flatten(1).norm(dim=1)

    def ours() -> Tensor:
        person: Person = finetune(model, clip, steps, perceptual=networks, fast=True)
        return frame_changes(render(person.generator, person.styles))

    def baseline(precision: str = PRECISION) -> Tensor:
        learner = BaselineLearner(
            model,
            embed(model, clip),
            replace(config, precision=precision),
            baseline_networks,
            torch.channels_last,
        )
        for _ in range(steps):
            learner.step(real, landmark_images)
        learner.finish()
        return frame_changes(render(learner.generator, learner.styles))

    bench(
        Case(
            "fine-tuning",
            f"{steps} steps, a person",
            f"{size}x{size}",
            SHOTS,
            DTYPES[PRECISION],
            bytes_moved=0,
            expected=(baseline("fp32"),),
            providers={"ours": ours, "baseline": baseline},
            tolerance=0.3,  # who learns nothing is off by 1
            wall_clock=True,
        ),
        Budget(0.0, 2, 2),
    )
