"""Smooth random curves over time, and filters along time."""

import numpy as np

FPS = 25.0
"""Frames per second of a motion."""
SUBSTEPS = 4
"""Steps per frame at which motion is laid out before it is smoothed."""


def smooth_noise(steps: int, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Return smooth noise of unit variance, float64 [steps], that decorrelates over about `seconds`."""
    reach = int(4 * seconds * FPS * SUBSTEPS) + 1
    noise = random.normal(size=steps + 2 * reach)
    kernel = _gaussian_kernel(seconds)
    smooth = np.convolve(noise, kernel, mode="same")[reach : reach + steps]
    return smooth / np.sqrt((kernel**2).sum())


def _gaussian_kernel(seconds: float, rate: float = FPS * SUBSTEPS) -> np.ndarray:
    """Return a Gaussian of a standard deviation in seconds, sampled at a rate in Hz; its sum is 1."""
    sigma = seconds * rate
    reach = max(1, int(3.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def smooth_over_time(values: np.ndarray, seconds: float, rate: float = FPS * SUBSTEPS) -> np.ndarray:
    """Return values [steps, C] filtered with a Gaussian along time; the ends are padded.

    Args:
        values: [steps, C].
        seconds: standard deviation of the Gaussian.
        rate: steps per second.
    """
    kernel = _gaussian_kernel(seconds, rate)
    reach = len(kernel) // 2
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
