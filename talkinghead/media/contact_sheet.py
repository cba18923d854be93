"""Contact sheets: labelled panels side by side, and rows of images with captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .drawing import Text, draw_text
from .images import resize

BACKGROUND = (24, 26, 31)
BRIGHT = (236, 238, 242)
FAINT = (150, 156, 168)
GAP = 8
"""Pixels between images."""
LABEL_HEIGHT = 40
"""Pixels of the labels above panels."""
_MARGIN = 20
_ROW_LABEL_WIDTH = 156
_TITLE_HEIGHT = 64
_CAPTION_HEIGHT = 20
_LINE_HEIGHT = 16


def blank_canvas(height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width, 3] of the background colour."""
    return np.broadcast_to(np.array(BACKGROUND, np.uint8), (height, width, 3)).copy()


class Panels:
    """Layout of labelled panels side by side, the same for all frames of a video.

    Args:
        labels: (name, explanation) of each panel.
        side: height and width of a panel in pixels.
    """

    def __init__(self, labels: Sequence[tuple[str, str]], side: int) -> None:
        self.side = side
        self.lefts = [GAP + index * (side + GAP) for index in range(len(labels))]
        width = GAP + len(labels) * (side + GAP)
        self.size = (_round_up_to_even(LABEL_HEIGHT + side + GAP), _round_up_to_even(width))
        texts = []
        for left, (name, explanation) in zip(self.lefts, labels, strict=True):
            texts.append(Text(left=left, top=6, text=name, height=15, colour=BRIGHT))
            texts.append(Text(left=left, top=23, text=explanation, height=12, colour=FAINT))
        self._canvas = draw_text(blank_canvas(*self.size), texts)

    def frame(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return uint8 [*size, 3] that shows one uint8 [H, W, 3] a panel, resized to fill it."""
        canvas = self._canvas.copy()
        for left, image in zip(self.lefts, images, strict=True):
            canvas[LABEL_HEIGHT : LABEL_HEIGHT + self.side, left : left + self.side] = resize(
                image, self.side
            )
        return canvas


@dataclass(frozen=True)
class SheetRow:
    """Row of a contact sheet: a label at the left, images, and a caption under each (or none)."""

    name: str
    explanation: str
    images: Sequence[np.ndarray] | np.ndarray
    captions: Sequence[str] = ()


def draw_contact_sheet(
    title: str, subtitle: str, rows: Sequence[SheetRow], side: int = 144, height: int | None = None
) -> np.ndarray:
    """Return uint8 [H, W, 3]: a title and rows of images.

    Args:
        title, subtitle: text above the rows.
        rows: from top to bottom.
        side: width of every image in pixels; images are resized to squares of this side.
        height: height of the images, which then must be `side` wide already.
    """
    image_height = height or side
    columns = max(len(row.images) for row in rows)
    row_heights = [image_height + (_CAPTION_HEIGHT if row.captions else 0) + GAP for row in rows]
    first_left = _MARGIN + _ROW_LABEL_WIDTH
    canvas = blank_canvas(
        _TITLE_HEIGHT + sum(row_heights) + _MARGIN - GAP, first_left + columns * (side + GAP) - GAP + _MARGIN
    )
    texts = [
        Text(left=_MARGIN, top=14, text=title, height=20, colour=BRIGHT),
        Text(left=_MARGIN, top=39, text=subtitle, height=13, colour=FAINT),
    ]
    top = _TITLE_HEIGHT
    for row, row_height in zip(rows, row_heights, strict=True):
        texts += _row_label(row, top + image_height // 2)
        for column, image in enumerate(row.images):
            left = first_left + column * (side + GAP)
            pixels = image if height else resize(image, side)
            canvas[top : top + image_height, left : left + side] = pixels
            if row.captions:
                caption = row.captions[column]
                texts.append(
                    Text(left=left, top=top + image_height + 3, text=caption, height=12, colour=FAINT)
                )
        top += row_height
    return draw_text(canvas, texts)


def _row_label(row: SheetRow, middle: int) -> list[Text]:
    """Return the name and the explanation of a row, centred about the pixel row `middle`."""
    return [
        Text(left=_MARGIN, top=middle - 18, text=row.name, height=16, colour=BRIGHT),
        *(
            Text(left=_MARGIN, top=middle + 4 + _LINE_HEIGHT * line, text=text, height=12, colour=FAINT)
            for line, text in enumerate(row.explanation.split("\n"))
        ),
    ]


def _round_up_to_even(length: int) -> int:
    # yuv420p has one colour sample for two pixels
    return length + length % 2
