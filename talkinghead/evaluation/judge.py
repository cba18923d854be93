"""What frames are worth against the truth: every figure of a row, from networks that are opened once."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from torch import Tensor

from ..clip import Clip
from ..errors import TalkingheadError
from ..identity import DlibIdentity, IdentityNetwork, csim, describe, open_identity
from ..inception import Inception
from ..landmarks.face import Detector
from ..losses import content_loss
from ..metrics import landmark_error, psnr, ssim
from ..perceptual import EfficientNetLite0, PerceptualNetwork
from ..torch_state import from_numpy

_BATCH = 16


@dataclass(frozen=True)
class Metric:
    """A figure of frames.

    Attributes:
        label: in tables.
        shown: how it is formatted.
        better: 1 when higher is better, -1 when lower is.
    """

    label: str
    shown: str
    better: int


METRICS = {
    "ssim": Metric("SSIM", ".3f", 1),
    "psnr": Metric("PSNR", ".1f", 1),
    "csim": Metric("CSIM", ".3f", 1),
    "identity": Metric("identity distance", ".2f", -1),
    "landmark_error": Metric("landmark error", ".3f", -1),
    "faces": Metric("faces found", ".0%", 1),
    "perceptual": Metric("perceptual", ".2f", -1),
}
"""What is averaged over people. Identity distance is dlib's Euclidean one; perceptual is the content loss of EfficientNet-Lite0."""

OF_FACES = ("csim", "identity", "landmark_error")
"""Those that only frames have in which a face is found."""


@dataclass(frozen=True)
class Truth:
    """Held-out frames and what the networks say of them.

    Attributes:
        clip: the frames with the landmarks that drive.
        descriptors: of the identity network, one a frame, None without a face.
        dlib: the same of dlib's network; None when it is not installed.
        features: [N, D], for the Frechet distance.
    """

    clip: Clip
    descriptors: list[np.ndarray | None]
    dlib: list[np.ndarray | None] | None
    features: Tensor


@dataclass(frozen=True)
class Verdict:
    """The figures of some frames, what the Frechet distance needs, and the mean descriptor [D] of unit length (None without a face)."""

    figures: dict[str, float]
    features: Tensor
    descriptor: Tensor | None


class Judge:
    """Opens what the figures need.

    Args:
        detector: what found the driving landmarks; it finds them again.
        identity: an ArcFace network as ONNX, for CSIM; dlib's by default.
        fid: the weights of FID's Inception; by default EfficientNet-Lite0's features stand in, and the figure is called FED.

    Raises:
        TalkingheadError: a file is missing or of another network, or a package is not installed.
    """

    def __init__(self, detector: Detector, identity: str | PathLike[str] | None = None, fid: str | PathLike[str] | None = None) -> None:
        self.detector = detector
        self.identity = open_identity(identity, detector)
        self.dlib: IdentityNetwork | None = self.identity
        if identity is not None:
            try:
                self.dlib = DlibIdentity()
            except TalkingheadError:
                self.dlib = None
        self.perceptual: PerceptualNetwork = EfficientNetLite0()
        self.features = self.perceptual if fid is None else Inception(fid)
        self.frechet = "FED" if fid is None else "FID"

    def truth(self, clip: Clip) -> Truth:
        descriptors = describe(self.identity, clip.frames)
        return Truth(clip, descriptors, self._dlib(clip.frames, descriptors), self._features(clip.frames))

    def verdict(self, frames: np.ndarray, truth: Truth) -> Verdict:
        """Measure frames uint8 [N, size, size, 3] that are to equal the truth's."""
        descriptors = describe(self.identity, frames)
        figures = {
            **self.likeness(frames, truth.clip.frames),
            "psnr": psnr(frames, truth.clip.frames),
            "csim": csim(descriptors, truth.descriptors),
            "landmark_error": landmark_error(frames, truth.clip.track, self.detector),
            "faces": float(np.mean([each is not None for each in descriptors])),
        }
        dlib = self._dlib(frames, descriptors)
        if dlib is not None and truth.dlib is not None:
            apart = [np.linalg.norm(a - b) for a, b in zip(dlib, truth.dlib, strict=True) if a is not None and b is not None]
            figures["identity"] = float(np.mean(apart)) if apart else float("nan")
        return Verdict({name: figures[name] for name in METRICS if name in figures}, self._features(frames), mean_descriptor(descriptors))

    def likeness(self, frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """SSIM and perceptual distance alone."""
        total = 0.0
        for start in range(0, len(frames), _BATCH):
            with torch.no_grad():
                ours, theirs = (_images(some[start : start + _BATCH]) for some in (frames, truth))
                total += float(content_loss([self.perceptual], ours, theirs)) * len(ours)
        return {"ssim": ssim(frames, truth), "perceptual": total / len(frames)}

    def _dlib(self, frames: np.ndarray, descriptors: list[np.ndarray | None]) -> list[np.ndarray | None] | None:
        if self.dlib is None:
            return None
        return descriptors if self.dlib is self.identity else describe(self.dlib, frames)

    def _features(self, frames: np.ndarray) -> Tensor:
        """[N, D]: the network's last activation, averaged over space."""
        with torch.no_grad():
            parts = [self.features(_images(frames[start : start + _BATCH]))[-1].mean((2, 3)) for start in range(0, len(frames), _BATCH)]
        return torch.cat(parts)


def mean_descriptor(descriptors: Sequence[np.ndarray | None]) -> Tensor | None:
    """The mean direction [D] of those that are there."""
    units = [each / np.linalg.norm(each) for each in descriptors if each is not None]
    if not units:
        return None
    mean = np.mean(units, axis=0)
    return torch.from_numpy(np.asarray(mean / np.linalg.norm(mean), dtype=np.float32))


def _images(frames: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> float [n, 3, H, W] in [-1, 1]."""
    return from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
