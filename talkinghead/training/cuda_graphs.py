"""Fine-tuning steps as CUDA graphs: a GPU runs a whole step, G and D and their optimisers, without waiting
for Python.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..pretrained.perceptual import PerceptualNetwork
from ..system.cuda_graph import capture
from .losses import Features

_WARM_UP_STEPS = 3
"""Steps before a capture, in which libraries choose their algorithms and allocate their memory."""


class Trainer(Protocol):
    """An object with a training step, such as a `FinetuneTrainer`."""

    def step(
        self,
        networks: Sequence[PerceptualNetwork],
        real: Tensor,
        landmark_images: Tensor,
        target_features: Features | None = None,
    ) -> dict[str, Tensor]:
        """Take one step and return the metrics."""


class GraphedSteps:
    """A trainer's steps on a GPU, which run as a CUDA graph.

    For each number of images the first steps run without a graph, then a step is captured. All of them train.

    Args:
        trainer: whose parameters, optimisers and averages keep their memory addresses.
        networks: of the content loss.
        device: the GPU of both.
    """

    def __init__(self, trainer: Trainer, networks: Sequence[PerceptualNetwork], device: torch.device) -> None:
        self._trainer, self._networks, self._device = trainer, networks, device
        self._stream = torch.cuda.Stream(device)
        self._warm_ups: Counter[int] = Counter()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]] = {}

    def __call__(
        self, real: Tensor, landmark_images: Tensor, target_features: Features | None = None
    ) -> dict[str, Tensor]:
        """Take one step like the trainer's; the metrics are valid until the next call."""
        with torch.cuda.device(self._device):  # streams and graphs belong to the current device
            return self._step(real, landmark_images, target_features)

    def _step(
        self, real: Tensor, landmark_images: Tensor, target_features: Features | None
    ) -> dict[str, Tensor]:
        """Take one step on the current device."""
        size = len(real)
        tensors = [real, landmark_images, *(layer for layers in target_features or () for layer in layers)]
        if size in self._graphs:
            graph, inputs, metrics = self._graphs[size]
            for target, source in zip(inputs, tensors, strict=True):
                target.copy_(source)
            graph.replay()
            return metrics
        self._warm_ups[size] += 1
        if self._warm_ups[size] <= _WARM_UP_STEPS:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = self._trainer.step(self._networks, real, landmark_images, target_features)
            torch.cuda.current_stream().wait_stream(self._stream)
            return metrics
        inputs = [tensor.clone() for tensor in tensors]
        graph, metrics = self._capture_graph(inputs, target_features)
        graph.replay()  # capturing does not run the step
        self._graphs[size] = graph, inputs, metrics
        return metrics

    def _capture_graph(
        self, inputs: list[Tensor], target_features: Features | None
    ) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        """Capture a step that reads its inputs from these tensors, and return its graph and metrics."""
        static_features: Features | None = None
        if target_features is not None:
            tensors = iter(inputs[2:])
            static_features = [[next(tensors) for _ in layers] for layers in target_features]
        step = partial(self._trainer.step, self._networks, inputs[0], inputs[1], static_features)
        return capture(step, self._stream)
