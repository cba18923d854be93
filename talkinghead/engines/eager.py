"""The eager engine: a person's generator in its final form, run by torch."""

import copy
import logging
from dataclasses import dataclass

import numpy as np
import torch
from talkinghead_kernels.cpu_features import cpu_features
from torch import Tensor

from ..checkpoint import Person
from ..device import bfloat16_is_faster, has_bfloat16
from ..landmarks.draw import landmark_image
from ..networks import ReferenceViews, final_generator, pack_
from ..torch_state import with_default_torch_state
from .engine import Engine
from .frame import DTYPES, finish
from .manifest import PRECISIONS, Manifest

log = logging.getLogger(__name__)

_MOST = 64  # frames at a time, of which a GPU keeps a graph for each number


class EagerEngine(Engine):
    """Renders a person.

    Weights are brought into their final form once. On a GPU what `run` does is captured in a CUDA graph, one for each size of batch.

    Args:
        person: whose generator and styles to run; neither is changed.
        device: where.
        precision: of weights and maps: "fp32", "bf16", "fp16", or "auto": bf16 where the device is faster with it, else fp32. What it
            cannot do falls back to fp32, with one line in the log.
        batch: how many frames at a time it is to be fast for; it takes others too.
    """

    survives_fork = True  # on a CPU; a GPU's own error says that it does not

    advice = "use --device cpu, or another --precision"

    @with_default_torch_state
    def __init__(self, person: Person, device: str | torch.device = "cpu", precision: str = "fp32", batch: int = 1) -> None:
        self.device = torch.device(device)
        # what it holds is the person it was given
        self.manifest = Manifest.of(person, "eager", choose_precision(self.device, precision), _MOST, weights="")
        self._dtype = DTYPES[self.manifest.precision]
        generator = person.generator
        if generator.out.weight.device != self.device:
            generator = copy.deepcopy(generator).to(self.device)
        self._layer_size = self.manifest.layer_size
        self._generator = pack_(final_generator(generator, self._layer_size, self._dtype).eval(), self._layer_size, batch)
        self._own = person.styles.detach().float().to(self.device)
        self._graphs: dict[int, _Graph] = {}
        self.show(person)

    @torch.inference_mode()
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
        count = len(arguments["points"])
        if self.device.type != "cuda":
            return self._render({"styles": self._own.expand(count, -1), **arguments}).numpy()
        graph = self._graphs.get(count) or self._capture(arguments)
        for name, argument in arguments.items():
            graph.inputs[name].copy_(argument, non_blocking=True)
        graph.captured.replay()
        return graph.frames.cpu().numpy()

    def _render(self, inputs: dict[str, Tensor]) -> Tensor:
        drawn = landmark_image(inputs["points"], self._layer_size).to(self._dtype, memory_format=torch.channels_last)
        views = (ReferenceViews(*(inputs[name] for name in ReferenceViews._fields)),) if self.manifest.guided else ()
        return finish(self._generator(drawn, inputs["styles"], *views), "uint8")

    def _capture(self, arguments: dict[str, Tensor]) -> "_Graph":
        count = len(arguments["points"])
        inputs = {name: argument.to(self.device) for name, argument in arguments.items()}
        inputs.setdefault("styles", self._own.expand(count, -1))
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms and take their memory before the capture
                self._render(inputs)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream):
            frames = self._render(inputs)
        self._graphs[count] = _Graph(graph, inputs, frames)
        return self._graphs[count]


@dataclass
class _Graph:
    """A captured run: it reads `inputs` and writes `frames`."""

    captured: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    frames: Tensor


def choose_precision(device: torch.device, precision: str) -> str:
    """The precision that will run.

    Raises:
        ValueError: there is none of this name.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: unknown, one of auto, {', '.join(PRECISIONS)} was expected")
    if precision == "auto":
        return "bf16" if bfloat16_is_faster(device) else "fp32"
    if device.type != "cpu":
        return precision
    able = {"fp32": True, "bf16": has_bfloat16(), "fp16": bool(cpu_features() & {"avx512_fp16", "amx_fp16"})}
    if not able[precision]:
        log.warning("precision %s: this CPU has no instructions for it; fp32 is used", precision)
        return "fp32"
    return precision
