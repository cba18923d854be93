"""The torch engine: a person's generator, prepared for inference, run by torch."""

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..landmarks.landmark_image import landmark_image
from ..model import Person
from ..networks import ReferenceViews, pack_weights_, prepare_for_inference
from ..system.cuda_graph import capture
from ..system.device import ops_on
from ..system.torch_state import with_default_torch_state
from .base import Engine
from .frame_format import to_output_format
from .manifest import EngineSpec
from .precision import DTYPES, choose_precision

_MAX_BATCH = 64
"""Frames in one run; a GPU keeps a CUDA graph for each number of them."""


class TorchEngine(Engine):
    """Engine in memory, of a person.

    Weights are prepared for inference once.

    Args:
        person: whose generator and styles to run; neither is changed.
        device: where to run.
        precision: of weights and feature maps, as for `choose_precision`.
        batch: the number of frames at a time it is to be fast for; others run too.
        fast: on a GPU, run this package's kernels instead of torch's own, and capture each batch size in a
            CUDA graph. Neither has a measurement yet.
    """

    survives_fork = True  # on a CPU; a CUDA call in a forked process raises CUDA's own error

    advice = "use --device cpu, or another --precision"

    @with_default_torch_state
    def __init__(
        self,
        person: Person,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        batch: int = 1,
        fast: bool = False,
    ) -> None:
        self.device, self._fast = torch.device(device), fast
        networks = person.config.networks
        self.spec = EngineSpec(
            format="torch",
            size=networks.image_size,
            layer_size=networks.layer_size,
            precision=choose_precision(self.device, precision),
            batch=_MAX_BATCH,
            input="points",
            output="uint8",
            styles="input" if person.feed_forward else "constant",
            style_length=person.generator.style_length,
            guided=networks.reference_guided,
            num_points=networks.num_points,
        )
        self._dtype = DTYPES[self.spec.precision]
        generator = person.generator
        if generator.out.weight.device != self.device:
            generator = copy.deepcopy(generator).to(self.device)
        inference_generator = prepare_for_inference(generator, self.spec.layer_size, self._dtype).eval()
        self._generator = pack_weights_(inference_generator, self.spec.layer_size, batch)
        self._person_styles = person.styles.detach().float().to(self.device)
        self._graphs: dict[int, _Graph] = {}
        self.set_person(person)

    @torch.inference_mode()
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
        count = len(arguments["points"])
        if self.device.type != "cuda" or not self._fast:
            moved = {name: argument.to(self.device) for name, argument in arguments.items()}
            with ops_on(self.device, self._fast):
                frames = self._render({"styles": self._person_styles.expand(count, -1), **moved})
            return frames.cpu().numpy()
        graph = self._graphs.get(count) or self._capture_graph(arguments)
        for name, argument in arguments.items():
            graph.inputs[name].copy_(argument, non_blocking=True)
        graph.cuda_graph.replay()
        return graph.output.cpu().numpy()

    def _render(self, inputs: dict[str, Tensor]) -> Tensor:
        """Render frames uint8 [B, size, size, 3] from the arguments of a run."""
        image = landmark_image(inputs["points"], self.spec.layer_size).to(
            self._dtype, memory_format=torch.channels_last
        )
        views = []
        if self.spec.guided:
            views.append(ReferenceViews(*(inputs[name] for name in ReferenceViews._fields)))
        return to_output_format(self._generator(image, inputs["styles"], *views), "uint8")

    def _capture_graph(self, arguments: dict[str, Tensor]) -> "_Graph":
        """Capture a run of as many frames as the arguments have."""
        count = len(arguments["points"])
        inputs = {name: argument.to(self.device) for name, argument in arguments.items()}
        inputs.setdefault("styles", self._person_styles.expand(count, -1))
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose algorithms and allocate memory before the capture
                self._render(inputs)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        with torch.cuda.device(self.device):
            graph, output = capture(partial(self._render, inputs), stream)
        self._graphs[count] = _Graph(graph, inputs, output)
        return self._graphs[count]


@dataclass
class _Graph:
    """A captured run: it reads `inputs` and writes `output`."""

    cuda_graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    output: Tensor
