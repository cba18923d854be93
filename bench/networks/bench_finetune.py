"""Fine-tuning on eight pictures, G, psi', D and w': a step against the textbook's, and on a GPU the whole of it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.harness import DEVICE, Case, compiled
from bench.networks.stock_learner import StockLearner, StockLite0
from bench.timing import Budget, take_turns
from talkinghead.checkpoint import Person, networks_of, random_model
from talkinghead.clip import Clip, Track
from talkinghead.device import training_precision
from talkinghead.engines.frame import DTYPES
from talkinghead.landmarks.draw import landmark_image
from talkinghead.perceptual import VGG19, EfficientNetLite0, PerceptualNetwork, VGGFace, vgg_layers
from talkinghead.training.finetune import PersonLearner, embed, finetune
from talkinghead.training.pictures import inputs

SHOTS = 8
PRECISION = training_precision(torch.device(DEVICE), "bf16")
TERMS = ("content", "pixel", "adversarial", "feature_matching", "discriminator")


def perceptual(network: str) -> tuple[list[PerceptualNetwork], list[PerceptualNetwork]]:
    """Of the content loss, ours and stock; the paper's have random weights, which time does not depend on."""
    if network != "paper":
        stock = StockLite0()
        return [EfficientNetLite0().to(DEVICE)], [stock]
    made: list[PerceptualNetwork] = []
    for kind in (VGG19, VGGFace):
        layers = vgg_layers(kind.plan)[0].state_dict()
        made.append(kind({f"features.{name}": torch.randn_like(tensor) / 50 for name, tensor in layers.items()}).to(DEVICE))
    return made, copy.deepcopy(made)


@pytest.mark.parametrize("network", ["tiny", "small"] if DEVICE == "cpu" else ["tiny", "small", "paper"])
def test_finetune(bench, request, network):
    model = random_model(network)
    for each in networks_of(model).values():
        each.to(DEVICE)
    size, config = model.config.networks.image_size, replace(model.config.finetune, precision=PRECISION)
    shots = 1 if request.config.getoption("quick") else SHOTS
    real = torch.rand(shots, 3, size, size, device=DEVICE) * 2 - 1
    drawn = landmark_image(torch.rand(shots, 68, 2, device=DEVICE), size)
    embedding = torch.randn(1, model.config.networks.embedding, device=DEVICE) / 100
    ours = PersonLearner(model, embedding, config, adversarial=True)
    networks, stock_networks = perceptual(network)

    def step() -> Tensor:
        figures = ours.step(networks, real, drawn)
        return torch.stack([figures[name] for name in TERMS])

    def stock(memory_format: torch.memory_format, **changes: Any) -> StockLearner:
        return StockLearner(model, embedding, replace(config, **changes.pop("config", {})), stock_networks, memory_format, **changes)

    expected = stock(torch.contiguous_format, config={"precision": "fp32"}).step(real, drawn)
    formats = {name: getattr(torch, name) for name in ("contiguous_format", "channels_last")}
    tried = {name: partial(stock(each).step, real, drawn) for name, each in formats.items()}
    best = "channels_last"
    if DEVICE == "cpu":
        times = take_turns(tried, Budget(0.0, 2, 2))
        best = min(tried, key=lambda name: times[name].median)
    providers = {"ours": step, "stock": partial(stock(formats[best]).step, real, drawn)}
    if request.config.getoption("thorough"):
        providers["compile"] = partial(stock(formats[best], wrap=compiled).step, real, drawn)
    bench(
        Case(
            "fine-tuning",
            "step",
            network,
            shots,
            DTYPES[PRECISION],
            moved=0,
            expected=(expected,),
            providers=providers,
            tolerance=0.02,  # of the first step's losses; later ones go their own ways
        )
    )


def test_person(bench, request):
    """From pictures in memory to a person: every step, and on a GPU capturing the first ones.

    Compared by how far frames move: from random weights each rounding goes its own way, and none farther than others.
    """
    quick = request.config.getoption("quick")
    if DEVICE == "cpu" and not quick:
        pytest.skip("takes minutes a round on a CPU, where one step is measured")
    model = random_model("tiny" if quick else "paper").to(torch.device(DEVICE))
    model = replace(model, config=replace(model.config, finetune=replace(model.config.finetune, precision=PRECISION, jitter=0.0)))
    config, size = model.config.finetune, model.config.networks.image_size
    steps = 2 if quick else config.steps(SHOTS)
    random = np.random.default_rng(0)
    landmarks = random.uniform(0, size, (SHOTS, 68, 2)).astype(np.float32)
    clip = Clip(Track(landmarks, (size, size)), random.integers(0, 256, (SHOTS, size, size, 3), np.uint8))
    pictures = inputs(model, clip)
    real, drawn = pictures.small, pictures.drawn
    networks, stock_networks = perceptual("tiny" if quick else "paper")
    embedding = embed(model, clip)

    @torch.no_grad()
    def shown(generator: Callable[..., Tensor], styles: Tensor) -> Tensor:
        return generator(drawn, styles.expand(SHOTS, -1)).float()

    with torch.no_grad():
        before = shown(model.generator, model.generator.project(embedding))

    def moved(frames: Tensor) -> Tensor:
        return (frames - before).flatten(1).norm(dim=1)

    def ours() -> Tensor:
        person: Person = finetune(model, clip, steps, perceptual=networks)
        return moved(shown(person.generator, person.styles))

    def stock(precision: str = PRECISION) -> Tensor:
        learner = StockLearner(model, embed(model, clip), replace(config, precision=precision), stock_networks, torch.channels_last)
        for _ in range(steps):
            learner.step(real, drawn)
        learner.finish()
        return moved(shown(learner.generator, learner.styles))

    bench(
        Case(
            "fine-tuning",
            f"{steps} steps, a person",
            f"{size}x{size}",
            SHOTS,
            DTYPES[PRECISION],
            moved=0,
            expected=(stock("fp32"),),
            providers={"ours": ours, "stock": stock},
            tolerance=0.3,  # who learns nothing is off by 1
            by_the_clock=True,
        ),
        Budget(0.0, 2, 2),
    )
