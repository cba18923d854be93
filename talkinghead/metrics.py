"""Metrics of frames against true ones: SSIM, PSNR and the Frechet distance of features.

Frames are uint8 [N, H, W, 3], RGB.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .errors import TalkingheadError, require
from .system.torch_state import from_numpy

_BATCH = 16  # frames at a time: SSIM needs about thirty times their size in memory


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean structural similarity of the frames; 1 for equal ones.

    Uses a Gaussian window of 11 pixels, sigma 1.5, over RGB in 0..255.

    Raises:
        TalkingheadError: the shapes differ, or torchmetrics is not installed.
    """
    measure = require("torchmetrics.functional.image", "app").structural_similarity_index_measure
    values = [measure(*pair, data_range=255.0, reduction="none") for pair in _batches(frames, truth)]
    return float(torch.cat([value.reshape(-1) for value in values]).mean())


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over frames of the peak signal-to-noise ratio in dB; infinite if a frame is equal.

    Raises:
        TalkingheadError: the shapes differ, or torchmetrics is not installed.
    """
    measure = require("torchmetrics.functional.image", "app").peak_signal_noise_ratio
    values = [
        measure(*pair, data_range=255.0, dim=(1, 2, 3), reduction="none") for pair in _batches(frames, truth)
    ]
    return float(torch.cat([value.reshape(-1) for value in values]).mean())


def frechet_distance(features: Tensor, truth: Tensor) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets of features; 0 for equal sets.

    With Inception's features it is the FID. Few samples make it too large (their covariances are mostly noise
    in most directions): compare only at equal numbers.

    Args:
        features, truth: [N, D] and [M, D]; N and M at least 2.

    Raises:
        TalkingheadError: the shapes are others, or torchmetrics is not installed.
    """
    if (
        features.dim() != 2
        or truth.dim() != 2
        or features.shape[1] != truth.shape[1]
        or min(len(features), len(truth)) < 2
    ):
        raise TalkingheadError(
            f"frechet_distance: features {list(features.shape)} and {list(truth.shape)} do not fit; "
            "give [N, D] and [M, D] with 2 or more rows"
        )
    network = torch.nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]  # torchmetrics asks the feature network for it
    measure = require("torchmetrics.image.fid", "app").FrechetInceptionDistance(feature=network)
    measure.set_dtype(torch.float64)
    measure.update(truth.double(), real=True)
    measure.update(features.double(), real=False)
    return max(0.0, float(measure.compute()))


def check_frame_pair(frames: np.ndarray, truth: np.ndarray) -> None:
    """Check that two arrays are frames of the same shape.

    Raises:
        TalkingheadError: their shapes differ, or there are no frames.
    """
    if frames.shape != truth.shape or frames.ndim != 4 or not len(frames):
        raise TalkingheadError(
            f"metrics: frames {list(frames.shape)} and truth {list(truth.shape)} do not fit; give both as "
            "[N, H, W, 3] with N >= 1"
        )


def _batches(frames: np.ndarray, truth: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of float32 [n, 3, H, W] in 0..255, a few frames at a time."""
    check_frame_pair(frames, truth)
    for start in range(0, len(frames), _BATCH):
        batches = (images[start : start + _BATCH] for images in (frames, truth))
        frame_batch, truth_batch = (from_numpy(batch).permute(0, 3, 1, 2).float() for batch in batches)
        yield frame_batch, truth_batch
