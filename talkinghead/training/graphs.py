"""Steps of fine-tuning as CUDA graphs: a GPU runs a whole step, G and D and their optimisers, without waiting for Python."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..losses import Activations
from ..perceptual import PerceptualNetwork

_WARM = 3  # steps before a capture: libraries choose their algorithms and take their memory in them


class Learner(Protocol):
    """What has a step, such as a `PersonLearner`."""

    def step(
        self, networks: Sequence[PerceptualNetwork], real: Tensor, drawn: Tensor, wanted: Activations | None = None
    ) -> dict[str, Tensor]: ...


class GraphedSteps:
    """A learner's steps on a GPU. For each number of pictures the first few run as they are, then one is captured; all of them count.

    Args:
        learner: whose parameters, optimisers and averages stay where they are.
        networks: of the content loss.
        device: the GPU where both are.
    """

    def __init__(self, learner: Learner, networks: Sequence[PerceptualNetwork], device: torch.device) -> None:
        self._learner, self._networks, self._device = learner, networks, device
        self._stream = torch.cuda.Stream(device)
        self._seen: Counter[int] = Counter()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]] = {}

    def __call__(self, real: Tensor, drawn: Tensor, wanted: Activations | None = None) -> dict[str, Tensor]:
        """As the learner's step; the figures hold until the next call."""
        with torch.cuda.device(self._device):  # streams and graphs are of the current one
            return self._step(real, drawn, wanted)

    def _step(self, real: Tensor, drawn: Tensor, wanted: Activations | None) -> dict[str, Tensor]:
        size = len(real)
        given = [real, drawn, *(layer for layers in wanted or () for layer in layers)]
        if size in self._graphs:
            graph, inputs, figures = self._graphs[size]
            for target, source in zip(inputs, given, strict=True):
                target.copy_(source)
            graph.replay()
            return figures
        self._seen[size] += 1
        if self._seen[size] <= _WARM:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                figures = self._learner.step(self._networks, real, drawn, wanted)
            torch.cuda.current_stream().wait_stream(self._stream)
            return figures
        inputs = [tensor.clone() for tensor in given]
        layers = iter(inputs[2:])
        kept = None if wanted is None else [[next(layers) for _ in each] for each in wanted]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            figures = self._learner.step(self._networks, inputs[0], inputs[1], kept)
        graph.replay()  # what was captured has not run
        self._graphs[size] = graph, inputs, figures
        return figures
