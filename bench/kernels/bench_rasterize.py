"""Batches of landmark images against drawing them one by one, with the reference and with OpenCV."""

import numpy as np
import torch
from talkinghead_kernels import draw_landmarks, use_backend

from bench.harness import DEVICE, Case, by_backend, size
from talkinghead.landmarks.draw import PARTS


def faces_like_ovals(count: int, side: int) -> torch.Tensor:
    """[count, 68, 2]: curves of the length that faces have, in pixels."""
    parts = torch.arange(68) / 68 * 2 * torch.pi
    oval = torch.stack([parts.cos(), parts.sin()], 1) * side * (0.2 + 0.15 * torch.rand(count, 68, 1)) + side / 2
    return oval.to(DEVICE)


def test_draw_landmarks(bench, faces):
    count, side = faces
    points = faces_like_ovals(count, side)
    parts, colours = [list(part) for part, _ in PARTS], [colour for _, colour in PARTS]

    def one_by_one() -> torch.Tensor:
        with use_backend("reference"):
            return torch.cat([draw_landmarks(face[None], side, parts, colours) for face in points])

    yardsticks = {}
    try:
        import cv2
    except ImportError:
        cv2 = None
    if cv2 is not None and DEVICE == "cpu":
        bits = 4
        pixels = ((points.numpy() - 0.5) * 2**bits).round().astype(np.int32)
        width = max(1, round(2 * max(1.0, side / 256)))

        def opencv() -> list[np.ndarray]:
            images = []
            for face in pixels:
                image = np.zeros((side, side, 3), np.uint8)
                for part, colour in zip(parts, colours, strict=True):
                    cv2.polylines(image, [face[part]], False, colour, width, cv2.LINE_AA, bits)
                images.append(image)
            return images

        yardsticks["opencv"] = opencv
    expected = one_by_one()
    runs = by_backend(draw_landmarks, points, side, parts, colours) | {"stock": one_by_one}
    bench(Case("draw_landmarks", "forward", f"{side}", count, torch.float32, size(expected), (expected,), runs, yardsticks))
