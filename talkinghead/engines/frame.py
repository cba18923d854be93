"""What every engine is built from: one frame of a person, from landmarks to what is shown, as one module."""

import copy
from collections.abc import Mapping

import torch
from talkinghead_kernels.warp_by_landmarks import GRID
from torch import Tensor, nn

from ..checkpoint import Person
from ..clip import POINTS
from ..landmarks.draw import landmark_image
from ..networks import ReferenceViews, final_generator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrameNetwork(nn.Module):
    """Landmarks or a landmark image, and styles, to a frame; weights in their final form. On the CPU, wherever the person is.

    Args:
        person: a feed-forward person's styles are an input, a fine-tuned one's are a constant.
        precision, input, output: as in `Manifest`.
        forms: as for `final_generator`.
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
        self.size, self.layer_size, self.guided = networks.image_size, networks.layer_size, networks.reference_guided
        self.dtype, self.drawn, self.wanted = DTYPES[precision], input == "image", output
        self.generator = final_generator(copy.deepcopy(person.generator).cpu(), self.layer_size, self.dtype, forms).eval()
        self.styles: Tensor | None
        self.register_buffer("styles", None if person.feed_forward else person.styles.detach().cpu().clone())

    def forward(self, given: Tensor, *others: Tensor) -> Tensor:
        """Render frames.

        Args:
            given: float32 [B, 68, 2] or [B, 3, size, size], size being the networks'.
            others: float32 styles [B, S] unless they are a constant; then, of a reference-guided generator, the three of `ReferenceViews`.
        """
        drawn = given if self.drawn else landmark_image(given, self.layer_size)
        views = (ReferenceViews(*others[-3:]),) if self.guided else ()
        # len() would make the number of rows a constant
        styles = others[0] if self.styles is None else self.styles.expand(given.shape[0], -1)
        return finish(self.generator(drawn.to(self.dtype), styles, *views), self.wanted)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return arguments of a forward of so many frames, as named by `input_names`."""
        like = self.generator.out.weight.new_zeros((), dtype=torch.float32)
        shapes: list[tuple[int, ...]] = [(3, self.layer_size, self.layer_size) if self.drawn else (POINTS, 2)]
        if self.styles is None:
            shapes.append((self.generator.style_length,))
        if self.guided:
            shapes += [(3, self.size, self.size), (4, self.size, self.size), (2, GRID, GRID)]
        return tuple(like.new_zeros(batch, *shape) for shape in shapes)

    def input_names(self) -> list[str]:
        """Return what an engine calls the arguments of forward."""
        names = ["image" if self.drawn else "points"] + ["styles"] * (self.styles is None)
        return names + list(ReferenceViews._fields) * self.guided


def finish(pictures: Tensor, output: str) -> Tensor:
    """Pictures float32 [B, 3, H, W] in [-1, 1] as they are, or as uint8 [B, H, W, 3]."""
    if output == "float":
        return pictures
    # the cast comes last, for TensorRT has uint8 at its very ends alone
    return pictures.add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).contiguous().to(torch.uint8)
