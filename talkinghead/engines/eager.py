"""The eager engine: a person's generator in its final form, run by torch."""

import copy
import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Person
from ..device import bfloat16_is_faster, has_bfloat16
from ..landmarks.draw import landmark_image
from ..networks import final_generator, pack_
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

    advice = "use --device cpu, or another --precision"

    def __init__(self, person: Person, device: str | torch.device = "cpu", precision: str = "fp32", batch: int = 1) -> None:
        self.device = torch.device(device)
        generator = person.generator
        # what it holds is the person it was given
        self.manifest = Manifest.of(person, "eager", choose_precision(self.device, precision), _MOST, weights="")
        self._dtype = DTYPES[self.manifest.precision]
        if generator.out.weight.device != self.device:
            generator = copy.deepcopy(generator).to(self.device)
        self._generator = pack_(final_generator(generator, self.size, self._dtype).eval(), self.size, batch)
        self._own = person.styles.detach().float().to(self.device)
        self.styles = self._own.cpu().numpy() if person.feed_forward else None
        self._graphs: dict[int, _Graph] = {}

    @torch.inference_mode()
    def _run(self, given: np.ndarray, styles: np.ndarray | None) -> np.ndarray:
        points, rows = torch.from_numpy(given), None if styles is None else torch.from_numpy(styles)
        if self.device.type != "cuda":
            return self._render(points, self._own.expand(len(points), -1) if rows is None else rows).numpy()
        graph = self._graphs.get(len(points)) or self._capture(points, rows)
        graph.points.copy_(points, non_blocking=True)
        if rows is not None:
            graph.styles.copy_(rows, non_blocking=True)
        graph.captured.replay()
        return graph.made.cpu().numpy()

    def _render(self, points: Tensor, styles: Tensor) -> Tensor:
        drawn = landmark_image(points, self.size).to(self._dtype, memory_format=torch.channels_last)
        return finish(self._generator(drawn, styles), "uint8")

    def _capture(self, points: Tensor, rows: Tensor | None) -> "_Graph":
        given = points.to(self.device)
        styles = self._own.expand(len(points), -1) if rows is None else rows.to(self.device)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms and take their memory before the capture
                self._render(given, styles)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream):
            made = self._render(given, styles)
        self._graphs[len(points)] = _Graph(graph, given, styles, made)
        return self._graphs[len(points)]


@dataclass
class _Graph:
    """A captured run: it reads `points` and `styles` and writes `made`."""

    captured: torch.cuda.CUDAGraph
    points: Tensor
    styles: Tensor
    made: Tensor


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
    has = torch.cpu.get_capabilities()
    able = {"fp32": True, "bf16": has_bfloat16(), "fp16": has.get("avx512_fp16") or has.get("amx_fp16")}
    if not able[precision]:
        log.warning("precision %s: this CPU has no instructions for it; fp32 is used", precision)
        return "fp32"
    return precision
