"""Removal of an alpha channel."""

import numpy as np


def composite_on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite uint8 [H, W, 4], RGB and opacity, on white: uint8 [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
