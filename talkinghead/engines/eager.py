"""The eager engine: a person's generator in its final form, run by torch."""

import copy
import logging

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Person
from ..landmarks.draw import landmark_image
from ..networks import final_generator, pack_

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EagerEngine:
    """Renders a person.

    Weights are brought into their final form once. On a GPU what `run` does is captured in a CUDA graph, one for each size of batch.

    Args:
        person: whose generator and styles to run; neither is changed.
        device: where.
        precision: of weights and maps: "fp32", "bf16", "fp16", or "auto": bf16 where the device has instructions for it, else fp32. What it
            cannot do falls back to fp32, with one line in the log.
        batch: how many frames at a time it is to be fast for; it takes others too.

    Attributes:
        precision: what runs.
        size: height and width of the frames.
    """

    def __init__(self, person: Person, device: str | torch.device = "cpu", precision: str = "fp32", batch: int = 1) -> None:
        self.size = person.config.networks.image_size
        self.device = torch.device(device)
        self.precision = choose_precision(self.device, precision)
        self._dtype = PRECISIONS[self.precision]
        generator = person.generator
        if generator.out.weight.device != self.device:
            generator = copy.deepcopy(generator).to(self.device)
        self._generator = pack_(final_generator(generator, self.size, self._dtype).eval(), self.size, batch)
        self._styles = person.styles.detach().to(self.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.inference_mode()
    def run(self, points: np.ndarray | Tensor) -> np.ndarray:
        """Landmarks to frames.

        Args:
            points: float32 [B, 68, 2] as fractions of the person's crop.

        Returns:
            uint8 [B, size, size, 3], RGB.
        """
        points = torch.as_tensor(points, dtype=torch.float32)
        if self.device.type != "cuda":
            return self._render(points.to(self.device)).cpu().numpy()
        graph, given, made = self._graphs.get(len(points)) or self._capture(points)
        given.copy_(points, non_blocking=True)
        graph.replay()
        return made.cpu().numpy()

    def _render(self, points: Tensor) -> Tensor:
        drawn = landmark_image(points, self.size).to(self._dtype, memory_format=torch.channels_last)
        frames = self._generator(drawn, self._styles.expand(len(points), -1))
        return frames.add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _capture(self, points: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = points.to(self.device)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms and take their memory before the capture
                self._render(given)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = self._render(given)
        self._graphs[len(points)] = graph, given, made
        return self._graphs[len(points)]


def choose_precision(device: torch.device, precision: str) -> str:
    """The precision that will run.

    Raises:
        ValueError: there is none of this name.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: unknown, one of auto, {', '.join(PRECISIONS)} was expected")
    if device.type != "cpu":
        return "bf16" if precision == "auto" else precision
    has = torch.cpu.get_capabilities()
    able = {"fp32": True, "bf16": has.get("avx512_bf16") or has.get("amx_bf16"), "fp16": has.get("avx512_fp16") or has.get("amx_fp16")}
    if precision == "auto":
        return "bf16" if able["bf16"] else "fp32"
    if not able[precision]:
        log.warning("precision %s: this CPU has no instructions for it; fp32 is used", precision)
        return "fp32"
    return precision
