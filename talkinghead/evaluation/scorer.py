"""Score frames against the true ones with all metrics, by networks that are opened once."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from ..clip import Clip, Track
from ..errors import TalkingheadError
from ..landmarks.detector import Detector, largest_face
from ..media.pixel_range import uint8_to_float
from ..metrics import psnr, ssim
from ..pretrained.face_recognition import (
    ArcFace,
    IdentityNetwork,
    csim,
    embed_faces,
    open_installed_dlib,
)
from ..pretrained.inception import Inception
from ..pretrained.perceptual import EfficientNetLite0, PerceptualNetwork
from ..system.torch_state import from_numpy
from ..training.losses import content_loss

_BATCH = 16
_EYE_CORNERS = (36, 45)  # the outer ones


@dataclass(frozen=True)
class Metric:
    """A metric of frames.

    Attributes:
        label: its name in tables.
        number_format: how its values are formatted.
        sign: 1 when higher is better, -1 when lower is better.
    """

    label: str
    number_format: str
    sign: int


METRICS = {
    "ssim": Metric("SSIM", ".3f", 1),
    "psnr": Metric("PSNR", ".1f", 1),
    "csim": Metric("CSIM", ".3f", 1),
    "identity": Metric("identity distance", ".2f", -1),
    "landmark_error": Metric("landmark error", ".3f", -1),
    "faces": Metric("faces found", ".0%", 1),
    "perceptual": Metric("perceptual", ".2f", -1),
}
"""The metrics that are averaged over people. Identity distance is dlib's Euclidean distance; perceptual is
the content loss of EfficientNet-Lite0.
"""

FACE_METRICS = ("csim", "identity", "landmark_error")
"""Metrics that are only defined for frames in which a face is found."""


@dataclass(frozen=True)
class Truth:
    """Held-out frames and the networks' outputs for them.

    Attributes:
        clip: the frames with the driving landmarks.
        descriptors: of the identity network, one for each frame, None without a face or a network.
        dlib: those of dlib's network; None when it is not installed.
        features: [N, D], for the Frechet distance.
    """

    clip: Clip
    descriptors: list[np.ndarray | None]
    dlib: list[np.ndarray | None] | None
    features: Tensor


@dataclass(frozen=True)
class Scores:
    """The scores of frames.

    Attributes:
        figures: metric -> value.
        features: [N, D], for the Frechet distance.
        descriptor: mean identity descriptor [D] of unit length; None without a face.
    """

    figures: dict[str, float]
    features: Tensor
    descriptor: Tensor | None


class Scorer:
    """Scores frames; opens the networks that the metrics need.

    Args:
        detector: the detector that found the driving landmarks.
        identity: an ArcFace network as ONNX, for CSIM; dlib's network by default. CSIM is left out without
            either, and the identity distance without dlib's.
        fid: the weights of FID's Inception; by default the features of EfficientNet-Lite0 are used instead,
            and the distance is called FED.

    Raises:
        TalkingheadError: a file is missing or of another network, or a package is not installed.
    """

    def __init__(
        self,
        detector: Detector,
        identity: str | PathLike[str] | None = None,
        fid: str | PathLike[str] | None = None,
    ) -> None:
        self.detector = detector
        self.dlib: IdentityNetwork | None = open_installed_dlib()
        self.identity = self.dlib if identity is None else ArcFace(identity, detector)
        self.perceptual: PerceptualNetwork = EfficientNetLite0()
        self.features = self.perceptual if fid is None else Inception(fid)
        self.frechet = "FED" if fid is None else "FID"

    def truth(self, clip: Clip) -> Truth:
        """Run the networks on held-out frames."""
        descriptors = self._embed_faces(clip.frames)
        return Truth(clip, descriptors, self._dlib(clip.frames, descriptors), self._features(clip.frames))

    def score(self, frames: np.ndarray, truth: Truth) -> Scores:
        """Score frames uint8 [N, size, size, 3] against the true ones."""
        descriptors = self._embed_faces(frames)
        errors = landmark_errors(frames, truth.clip.track, self.detector)
        has_face = np.isfinite(errors)
        figures = {
            **self.similarity(frames, truth.clip.frames),
            "psnr": psnr(frames, truth.clip.frames),
            "landmark_error": float(errors[has_face].mean()) if has_face.any() else float("nan"),
        }
        if self.identity is not None:
            figures["csim"] = csim(descriptors, truth.descriptors)
            has_face = np.array([descriptor is not None for descriptor in descriptors])
        figures["faces"] = float(has_face.mean())
        dlib = self._dlib(frames, descriptors)
        if dlib is not None and truth.dlib is not None:
            distances = [
                np.linalg.norm(a - b)
                for a, b in zip(dlib, truth.dlib, strict=True)
                if a is not None and b is not None
            ]
            figures["identity"] = float(np.mean(distances)) if distances else float("nan")
        return Scores(
            {name: figures[name] for name in METRICS if name in figures},
            self._features(frames),
            mean_descriptor(descriptors),
        )

    def similarity(self, frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Return SSIM and perceptual distance alone."""
        total = 0.0
        for start in range(0, len(frames), _BATCH):
            with torch.no_grad():
                batches = (images[start : start + _BATCH] for images in (frames, truth))
                rendered, true = (_images(batch) for batch in batches)
                total += float(content_loss([self.perceptual], rendered, true)) * len(rendered)
        return {"ssim": ssim(frames, truth), "perceptual": total / len(frames)}

    def describe_identity(self) -> dict[str, str] | None:
        """Return the name and the digest of the network of CSIM; None without one."""
        return None if self.identity is None else {"name": self.identity.name, "digest": self.identity.digest}

    def _embed_faces(self, frames: np.ndarray) -> list[np.ndarray | None]:
        return [None] * len(frames) if self.identity is None else embed_faces(self.identity, frames)

    def _dlib(
        self, frames: np.ndarray, descriptors: list[np.ndarray | None]
    ) -> list[np.ndarray | None] | None:
        if self.dlib is None:
            return None
        return descriptors if self.dlib is self.identity else embed_faces(self.dlib, frames)

    def _features(self, frames: np.ndarray) -> Tensor:
        """Return the network's last activation averaged over space, [N, D]."""
        with torch.no_grad():
            parts = [
                self.features(_images(frames[start : start + _BATCH]))[-1].mean((2, 3))
                for start in range(0, len(frames), _BATCH)
            ]
        return torch.cat(parts)


def mean_descriptor(descriptors: Sequence[np.ndarray | None]) -> Tensor | None:
    """Return the mean direction [D] of the descriptors that are not None; None when all are."""
    units = [vector / np.linalg.norm(vector) for vector in descriptors if vector is not None]
    if not units:
        return None
    mean = np.mean(units, axis=0)
    return torch.from_numpy(np.asarray(mean / np.linalg.norm(mean), dtype=np.float32))


def _images(frames: np.ndarray) -> Tensor:
    """Convert frames uint8 [n, H, W, 3] to float [n, 3, H, W] in [-1, 1]."""
    return uint8_to_float(from_numpy(frames).permute(0, 3, 1, 2))


def landmark_error(frames: np.ndarray, track: Track, detector: Detector) -> float:
    """Return the mean of `landmark_errors` over the frames in which a face is found; NaN when there is none.

    Raises:
        TalkingheadError: frames and track differ in number or size.
    """
    errors = landmark_errors(frames, track, detector)
    errors = errors[np.isfinite(errors)]
    return float(errors.mean()) if len(errors) else float("nan")


def landmark_errors(frames: np.ndarray, track: Track, detector: Detector) -> np.ndarray:
    """Return the distance between the landmarks detected on each of the frames and the driving landmarks.

    It is a fraction of the distance between the outer eye corners, the mean over the 68 points; NaN for a
    frame in which no face is found. Both kinds of landmarks must come from the same detector.

    Args:
        frames: uint8 [N, H, W, 3].
        track: the driving landmarks [N, 68, 2], in pixels of `frames`.
        detector: detects the landmarks on `frames`.

    Raises:
        TalkingheadError: frames and track differ in number or size.
    """
    if len(frames) != len(track) or frames.shape[1:3] != tuple(track.size):
        raise TalkingheadError(
            f"landmark_error: {len(frames)} frames of {frames.shape[1:3]} and {len(track)} landmarks of "
            f"{track.size}; give as many of each, of one size"
        )
    errors = np.full(len(frames), np.nan)
    for number, (frame, driving) in enumerate(zip(frames, track.landmarks, strict=True)):
        face = largest_face(detector, frame)
        if face is not None:
            eye_distance = np.linalg.norm(driving[_EYE_CORNERS[0]] - driving[_EYE_CORNERS[1]])
            errors[number] = np.linalg.norm(face.landmarks - driving, axis=1).mean() / eye_distance
    return errors
