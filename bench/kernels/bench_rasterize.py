"""Batches of landmark images against drawing them one by one, with the reference and with OpenCV."""

import numpy as np
import torch
from talkinghead_kernels import draw_polylines, use_backend

from bench.lib.harness import DEVICE, Case, by_backend, size
from talkinghead.landmarks.landmark_image import POLYLINES


def faces_like_ovals(count: int, side: int) -> torch.Tensor:
    """Return points [count, 68, 2] of ovals about as long as the outlines of faces, in pixels."""
    parts = torch.arange(68) / 68 * 2 * torch.pi
    oval = (
        torch.stack([parts.cos(), parts.sin()], 1) * side * (0.2 + 0.15 * torch.rand(count, 68, 1)) + side / 2
    )
    return oval.to(DEVICE)


def test_draw_polylines(bench, faces):
    count, side = faces
    points = faces_like_ovals(count, side)
    parts, colours = [list(part) for part, _ in POLYLINES], [colour for _, colour in POLYLINES]

    def one_by_one() -> torch.Tensor:
        with use_backend("reference"):
            return torch.cat([draw_polylines(face[None], side, parts, colours) for face in points])

    bounds = {}
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

        bounds["opencv"] = opencv
    expected = one_by_one()
    runs = by_backend(draw_polylines, points, side, parts, colours) | {"baseline": one_by_one}
    bench(
        Case(
            "draw_polylines",
            "forward",
            f"{side}",
            count,
            torch.float32,
            size(expected),
            (expected,),
            runs,
            bounds,
        )
    )
