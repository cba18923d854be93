"""A step of fine-tuning on eight pictures, G, psi', D and w', against the textbook's and torch.compile of that."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import DEVICE, Case, compiled
from bench.networks.stock_learner import StockLearner, StockLite0
from bench.timing import Budget, take_turns
from talkinghead.checkpoint import networks_of, random_model
from talkinghead.landmarks.draw import landmark_image
from talkinghead.perceptual import VGG19, EfficientNetLite0, PerceptualNetwork, VGGFace, vgg_layers
from talkinghead.training.finetune import PersonLearner

SHOTS = 8
TERMS = ("content", "pixel", "adversarial", "feature_matching", "discriminator")


def perceptual(network: str) -> tuple[list[PerceptualNetwork], list[PerceptualNetwork]]:
    """Of the content loss, ours and stock; the paper's have random weights, which time does not depend on."""
    if network != "paper":
        return [EfficientNetLite0().to(DEVICE)], [StockLite0()]
    made: list[PerceptualNetwork] = []
    for kind in (VGG19, VGGFace):
        layers = vgg_layers(kind.plan)[0].state_dict()
        made.append(kind({f"features.{name}": torch.randn_like(tensor) / 50 for name, tensor in layers.items()}).to(DEVICE))
    return made, made


@pytest.mark.parametrize("network", ["tiny", "small"] if DEVICE == "cpu" else ["tiny", "small", "paper"])
def test_finetune(bench, request, network):
    model = random_model(network)
    for each in networks_of(model).values():
        each.to(DEVICE)
    size, config = model.config.networks.image_size, replace(model.config.finetune, precision="bf16")
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
    providers = {
        "ours": step,
        "stock": partial(stock(formats[best]).step, real, drawn),
        "compile": partial(stock(formats[best], wrap=compiled).step, real, drawn),
    }
    bench(
        Case(
            "fine-tuning",
            "step",
            network,
            shots,
            torch.bfloat16,
            moved=0,
            expected=(expected,),
            providers=providers,
            tolerance=0.02,  # of the first step's losses; later ones go their own ways
        )
    )
