"""Pictures to look at: labelled panels side by side, and a sheet of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .pictures import Text, resize, write_text

BACKGROUND = (24, 26, 31)
BRIGHT = (236, 238, 242)
FAINT = (150, 156, 168)
GAP = 8
STRIP = 40


def blank(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3] of the background colour."""
    return np.broadcast_to(np.array(BACKGROUND, np.uint8), (height, width, 3)).copy()


class Panels:
    """Labelled panels side by side, the labels above; one layout for all frames of a video.

    Args:
        labels: (name, explanation) of each panel.
        side: of a panel, in pixels.
    """

    def __init__(self, labels: Sequence[tuple[str, str]], side: int) -> None:
        self.side = side
        self.lefts = [GAP + index * (side + GAP) for index in range(len(labels))]
        self.size = (_even(STRIP + side + GAP), _even(GAP + len(labels) * (side + GAP)))
        texts = []
        for left, (name, explanation) in zip(self.lefts, labels, strict=True):
            texts += [Text(left, 6, name, 15, BRIGHT), Text(left, 23, explanation, 12, FAINT)]
        self._canvas = write_text(blank(*self.size), texts)

    def frame(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [*size, 3] of one uint8 [H, W, 3] a panel, enlarged (or reduced) to fill it."""
        canvas = self._canvas.copy()
        for left, picture in zip(self.lefts, pictures, strict=True):
            canvas[STRIP : STRIP + self.side, left : left + self.side] = resize(picture, self.side)
        return canvas


@dataclass(frozen=True)
class Row:
    """One row of a sheet: a label at the left, pictures, and a caption under each (or none)."""

    name: str
    explanation: str
    pictures: Sequence[np.ndarray] | np.ndarray
    captions: Sequence[str] = ()


def sheet(title: str, subtitle: str, rows: Sequence[Row], side: int = 144, height: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: a title, then the rows under each other, every picture `side` pixels wide.

    The pictures are brought to squares; with `height`, they are that high and `side` wide already.
    """
    tall = height or side
    margin, label, head, caption = 20, 156, 64, 20
    columns = max(len(row.pictures) for row in rows)
    heights = [tall + (caption if row.captions else 0) + GAP for row in rows]
    canvas = blank(head + sum(heights) + margin - GAP, margin + label + columns * (side + GAP) - GAP + margin)
    texts = [Text(margin, 14, title, 20, BRIGHT), Text(margin, 39, subtitle, 13, FAINT)]
    top = head
    for row, step in zip(rows, heights, strict=True):
        texts.append(Text(margin, top + tall // 2 - 18, row.name, 16, BRIGHT))
        texts += [Text(margin, top + tall // 2 + 4 + 16 * line, text, 12, FAINT) for line, text in enumerate(row.explanation.split("\n"))]
        for column, picture in enumerate(row.pictures):
            left = margin + label + column * (side + GAP)
            canvas[top : top + tall, left : left + side] = picture if height else resize(picture, side)
            if row.captions:
                texts.append(Text(left, top + tall + 3, row.captions[column], 12, FAINT))
        top += step
    return write_text(canvas, texts)


def _even(length: int) -> int:
    # yuv420p has one colour sample for two pixels
    return length + length % 2
