"""What every engine is built from: one frame of a person, from landmarks to what is shown, as one module."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checkpoint import Person
from ..clip import POINTS
from ..landmarks.draw import landmark_image
from ..networks import final_generator

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
        self.size = person.config.networks.image_size
        self.dtype, self.drawn, self.wanted = DTYPES[precision], input == "image", output
        self.generator = final_generator(copy.deepcopy(person.generator).cpu(), self.size, self.dtype, forms).eval()
        self.styles: Tensor | None
        self.register_buffer("styles", None if person.feed_forward else person.styles.detach().cpu().clone())

    def forward(self, given: Tensor, styles: Tensor | None = None) -> Tensor:
        """given [B, 68, 2] or [B, 3, size, size], float32; styles [B, S] unless they are a constant."""
        drawn = given if self.drawn else landmark_image(given, self.size)
        if styles is None:
            assert self.styles is not None
            styles = self.styles.expand(given.shape[0], -1)  # len() would make it a constant
        return finish(self.generator(drawn.to(self.dtype), styles), self.wanted)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Arguments of a forward of so many frames."""
        like = self.generator.out.weight.new_zeros((), dtype=torch.float32)
        given = like.new_zeros(batch, 3, self.size, self.size) if self.drawn else like.new_zeros(batch, POINTS, 2)
        return (given,) if self.styles is not None else (given, like.new_zeros(batch, self.generator.style_length))


def finish(pictures: Tensor, output: str) -> Tensor:
    """Pictures float32 [B, 3, H, W] in [-1, 1] as they are, or as uint8 [B, H, W, 3]."""
    if output == "float":
        return pictures
    # the cast comes last, for TensorRT has uint8 at its very ends alone
    return pictures.add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).contiguous().to(torch.uint8)
