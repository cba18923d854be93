"""Text and lines drawn on images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .pillow import pil


@dataclass(frozen=True)
class Text:
    """A line of text: its top left corner, its height (both in pixels) and its RGB colour."""

    left: int
    top: int
    text: str
    height: int
    colour: tuple[int, int, int]


def draw_text(canvas: np.ndarray, texts: Iterable[Text]) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] with the texts drawn on it, in Pillow's built-in font."""
    fonts = pil("ImageFont")
    image = pil("Image").fromarray(canvas)
    draw = pil("ImageDraw").Draw(image)
    for text in texts:
        draw.text((text.left, text.top), text.text, fill=text.colour, font=fonts.load_default(text.height))
    return np.array(image)


@dataclass(frozen=True)
class Polyline:
    """A line through points [n, 2], x and y in continuous pixels; its RGB colour and its width in pixels."""

    points: np.ndarray
    colour: tuple[int, int, int]
    width: int


def draw_polylines(canvas: np.ndarray, lines: Iterable[Polyline]) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] with antialiased lines drawn on it in this order; they may reach
    beyond it.
    """
    image = pil("Image")
    height, width = canvas.shape[:2]
    doubled = image.fromarray(canvas).resize((2 * width, 2 * height), image.Resampling.NEAREST)
    draw = pil("ImageDraw").Draw(doubled)
    for line in lines:
        # Pillow's pixel i has its centre at i
        draw.line(
            (2 * line.points - 0.5).ravel().tolist(), fill=line.colour, width=2 * line.width, joint="curve"
        )
    return np.array(doubled.reduce(2))
