"""How good a talking head is: frames against the truth, landmarks against those that drove, and the trivial answers to beat.

Frames are uint8 [N, H, W, 3], RGB. A figure means little without that of the nearest frame (`nearest_frames`) and of the nearest frame
warped to the driving landmarks (`warp_to_landmarks`) beside it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .clip import Clip, Track
from .errors import TalkingheadError, require
from .landmarks.dlib_face import face_descriptor
from .landmarks.face import Detector, largest_face
from .torch_state import from_numpy

_BATCH = 16  # frames at a time: SSIM holds about thirty times their size
_EYE_CORNERS = (36, 45)  # the outer ones


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity, mean over the frames; 1 is equal. Gaussian window 11, sigma 1.5, over RGB in 0..255.

    Raises:
        TalkingheadError: the shapes differ, or torchmetrics is not installed.
    """
    measure = require("torchmetrics.functional.image", "app").structural_similarity_index_measure
    values = [measure(*pair, data_range=255.0, reduction="none") for pair in _batches(frames, truth)]
    return float(torch.cat([value.reshape(-1) for value in values]).mean())


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, of each frame, then the mean; infinite when a frame equals the truth.

    Raises:
        TalkingheadError: the shapes differ, or torchmetrics is not installed.
    """
    measure = require("torchmetrics.functional.image", "app").peak_signal_noise_ratio
    values = [measure(*pair, data_range=255.0, dim=(1, 2, 3), reduction="none") for pair in _batches(frames, truth)]
    return float(torch.cat([value.reshape(-1) for value in values]).mean())


def identity_distance(frames: np.ndarray, truth: np.ndarray) -> float:
    """Distance between dlib's face descriptors of frames and truth, mean over the pairs in which both show a face; NaN when none does.

    Below about 0.6 dlib takes two pictures for one person; frames of one clip are 0.2 to 0.4 apart.

    Raises:
        TalkingheadError: the shapes differ, or dlib or its models are not installed.
    """
    _check(frames, truth)
    pairs = [(face_descriptor(frame), face_descriptor(real)) for frame, real in zip(frames, truth, strict=True)]
    distances = [float(np.linalg.norm(a - b)) for a, b in pairs if a is not None and b is not None]
    return float(np.mean(distances)) if distances else float("nan")


def landmark_error(frames: np.ndarray, track: Track, detector: Detector) -> float:
    """How far the landmarks found on frames are from those that drove them, as a fraction of the distance between the outer eye corners.

    Mean over the 68 points and over the frames in which a face is found; NaN when there is none. The same detector must have made both.

    Args:
        frames: uint8 [N, H, W, 3].
        track: the driving landmarks [N, 68, 2], in pixels of `frames`.
        detector: finds the landmarks again.

    Raises:
        TalkingheadError: frames and track do not go together.
    """
    if len(frames) != len(track) or frames.shape[1:3] != tuple(track.size):
        raise TalkingheadError(
            f"landmark_error: {len(frames)} frames of {frames.shape[1:3]} and {len(track)} landmarks of {track.size}, expected the same"
        )
    errors = []
    for frame, driving in zip(frames, track.landmarks, strict=True):
        found = largest_face(detector, frame)
        if found is not None:
            apart = np.linalg.norm(driving[_EYE_CORNERS[0]] - driving[_EYE_CORNERS[1]])
            errors.append(float(np.linalg.norm(found.landmarks - driving, axis=1).mean() / apart))
    return float(np.mean(errors)) if errors else float("nan")


def frechet_distance(features: Tensor, truth: Tensor) -> float:
    """Frechet distance between the Gaussians of two sets of features: FID where these are Inception's, 0 for equal sets.

    Few samples make it too large (their covariances have little more than noise in most directions): compare only at equal numbers.

    Args:
        features, truth: [N, D] and [M, D]; N and M at least 2.

    Raises:
        TalkingheadError: other shapes, or torchmetrics is not installed.
    """
    if features.dim() != 2 or truth.dim() != 2 or features.shape[1] != truth.shape[1] or min(len(features), len(truth)) < 2:
        raise TalkingheadError(
            f"frechet_distance: features {list(features.shape)} and {list(truth.shape)}, expected [N, D] and [M, D] with 2 or more rows"
        )
    network = torch.nn.Identity()
    network.num_features = features.shape[1]  # type: ignore[assignment]  # torchmetrics asks the feature network for it
    measure = require("torchmetrics.image.fid", "app").FrechetInceptionDistance(feature=network)
    measure.set_dtype(torch.float64)
    measure.update(truth.double(), real=True)
    measure.update(features.double(), real=False)
    return max(0.0, float(measure.compute()))


def nearest_frames(clip: Clip, track: Track) -> np.ndarray:
    """For every driving frame the frame of a person's clip with the nearest landmarks: what a copier would show.

    Args:
        clip: N frames of the person.
        track: M driving landmarks, in pixels of the clip's frames.

    Returns:
        int64 [M], numbers of frames of `clip`, by the mean distance of the 68 points as they stand: nothing is aligned first.

    Raises:
        TalkingheadError: the clip is empty, or the landmarks are of frames of another size.
    """
    if not len(clip) or tuple(clip.track.size) != tuple(track.size):
        raise TalkingheadError(
            f"nearest_frames: {len(clip)} frames of {clip.track.size} for driving landmarks of {track.size}, expected some of the same size"
        )
    nearest = [
        int(np.linalg.norm(clip.track.landmarks - driving, axis=2).mean(axis=1).argmin()) for driving in track.landmarks
    ]  # one driving frame at a time: a long drive stays small
    return np.array(nearest, dtype=np.int64)


def warp_to_landmarks(frame: np.ndarray, from_points: np.ndarray, to_points: np.ndarray) -> np.ndarray:
    """A frame bent so that its landmarks come to lie on others: piecewise affine, its border held fast.

    Args:
        frame: uint8 [H, W, 3].
        from_points: float [68, 2], where its landmarks are, in its pixels.
        to_points: float [68, 2], where they are to be. Either may reach beyond the frame.

    Returns:
        uint8 [H, W, 3].

    Raises:
        TalkingheadError: scikit-image is not installed, or the points are no face.
    """
    transform = require("skimage.transform", "app")
    limit = np.array(frame.shape[1::-1])
    # lips that touch give points in one place, which no triangle survives: each is moved a little its own way
    turn = np.arange(len(from_points)) * 2.4
    apart = 0.01 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    border = np.array([(x, y) for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)]) * limit
    # scikit-image's coordinates are those of pixel centres
    source, target = (np.concatenate([points + apart, border]) - 0.5 for points in (from_points, to_points))
    piecewise = transform.PiecewiseAffineTransform
    if hasattr(piecewise, "from_estimate"):
        back = piecewise.from_estimate(target, source)
    else:  # before scikit-image 0.26
        back = piecewise()
        back = back if back.estimate(target, source) else None
    if not back:
        raise TalkingheadError("warp_to_landmarks: the landmarks are no face that could be bent into the other; check both")
    return np.rint(transform.warp(frame, back, order=1, mode="edge", preserve_range=True)).astype(np.uint8)


def _check(frames: np.ndarray, truth: np.ndarray) -> None:
    if frames.shape != truth.shape or frames.ndim != 4 or not len(frames):
        raise TalkingheadError(f"metrics: frames {frames.shape} and truth {truth.shape}, expected the same [N, H, W, 3] with N >= 1")


def _batches(frames: np.ndarray, truth: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of float32 [n, 3, H, W] in 0..255, a few frames at a time."""
    _check(frames, truth)
    for start in range(0, len(frames), _BATCH):
        ours, theirs = (from_numpy(some[start : start + _BATCH]).permute(0, 3, 1, 2).float() for some in (frames, truth))
        yield ours, theirs
