"""The module that engines are exported from: frames of a person from landmarks, as one network."""

import copy
from collections.abc import Mapping

import torch
from talkinghead_kernels.decompositions import decompositions
from talkinghead_kernels.warp_by_landmarks import GRID
from torch import Tensor, nn

from ..engines.frame_format import to_output_format
from ..engines.precision import DTYPES
from ..landmarks.landmark_image import landmark_image
from ..model import Person
from ..networks import ReferenceViews, prepare_for_inference

_TRANSPOSED = {"upsample_conv": "upsample", "conv_downsample": "downsample"}
RESAMPLE_FORMS = {
    "fp32": _TRANSPOSED,
    "fp16": _TRANSPOSED,
    "bf16": {**_TRANSPOSED, "upsample_conv": "upsample_shuffle"},
}
"""Form that resampling is folded to, by precision, the same on every machine: so files of one preset have the
same weights to refit. TensorRT-RTX has no transposed convolution in bf16.
"""
BROWSER_FORMS = {**_TRANSPOSED, "upsample_conv": "upsample_shuffle"}
"""The forms of a file for browsers: convolutions, which can be quantised, in place of transposed ones."""


class FrameModule(nn.Module):
    """Network from landmarks or a landmark image, and styles, to frames, prepared for inference on the CPU.

    Args:
        person: styles of a feed-forward person are an input, those of a fine-tuned one a constant.
        precision, input, output: as in `talkinghead.engines.manifest.EngineSpec`.
        forms: as for `prepare_for_inference`.
    """

    def __init__(
        self,
        person: Person,
        precision: str = "fp32",
        input: str = "points",
        output: str = "uint8",
        forms: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        networks = person.config.networks
        self.size = networks.image_size
        self.layer_size = networks.layer_size
        self.guided = networks.reference_guided
        self.num_points = networks.num_points
        self.dtype = DTYPES[precision]
        self.input, self.output = input, output
        generator = copy.deepcopy(person.generator).cpu()
        self.generator = prepare_for_inference(generator, self.layer_size, self.dtype, forms).eval()
        self.styles: Tensor | None
        self.register_buffer("styles", None if person.feed_forward else person.styles.detach().cpu().clone())

    def forward(self, landmarks: Tensor, *others: Tensor) -> Tensor:
        """Render frames.

        Args:
            landmarks: float32 [B, num_points, 2], or landmark images [B, 3, layer_size, layer_size].
            others: float32 styles [B, S] unless they are a constant; then, of a reference-guided generator,
                the three of `ReferenceViews`.
        """
        image = landmarks if self.input == "image" else landmark_image(landmarks, self.layer_size)
        views = (ReferenceViews(*others[-3:]),) if self.guided else ()
        # not len(), which would make the batch size a constant of the exported program
        styles = others[0] if self.styles is None else self.styles.expand(landmarks.shape[0], -1)
        return to_output_format(self.generator(image.to(self.dtype), styles, *views), self.output)

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return zeros as arguments of a forward of a batch, in the order of `input_names`."""
        shapes: list[tuple[int, ...]] = [(self.num_points, 2)]
        if self.input == "image":
            shapes = [(3, self.layer_size, self.layer_size)]
        if self.styles is None:
            shapes.append((self.generator.style_length,))
        if self.guided:
            shapes += [(3, self.size, self.size), (4, self.size, self.size), (2, GRID, GRID)]
        device = self.generator.out.weight.device
        return tuple(torch.zeros(batch, *shape, device=device) for shape in shapes)

    def input_names(self) -> list[str]:
        """Return the names of forward's arguments in an engine."""
        names = [self.input]
        if self.styles is None:
            names.append("styles")
        if self.guided:
            names.extend(ReferenceViews._fields)
        return names


def export_program(module: FrameModule, batch: int, decompose: bool = True) -> torch.export.ExportedProgram:
    """Export a network for 1 to `batch` frames at a time, in plain ATen if it is to be decomposed."""
    example = module.example_inputs(min(batch, 2))
    shapes = None
    if batch > 1:  # a dimension of exactly 1 has no range
        rows = {0: torch.export.Dim("batch", min=1, max=batch)}
        others = ((rows,) * (len(example) - 1),) if len(example) > 1 else ()
        shapes = (rows, *others)
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        return program.run_decompositions(decompositions()) if decompose else program
