"""Who a picture shows, as a vector: face-recognition networks, the cosine between their descriptors, and a look for two people in one.

dlib's network works offline. Its descriptors lie in one corner of the sphere: the cosine is 0.80 to 0.92 between frames of two people and
0.95 to 1.00 between frames of one (18 people, crops of 64 pixels, 5% to 95%). So a CSIM by dlib compares with nothing but another by dlib.
The paper's CSIM is of the ArcFace kind, whose weights the user names.
"""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from .clip import Clip
from .engines.sessions import onnxruntime_session
from .errors import TalkingheadError
from .files import sha256
from .landmarks.dlib_face import face_descriptor
from .landmarks.face import Detector, largest_face

log = logging.getLogger(__name__)

SAME_PERSON = 0.6
"""Distance of dlib's face descriptors from which two pictures show two people."""
_SIDE = 112
_TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Where ArcFace's networks want eyes, nose and corners of the mouth in a picture of 112x112."""


class IdentityNetwork(Protocol):
    """A face-recognition network.

    Attributes:
        name: for tables and files.
        digest: SHA-256 of the user's file; empty for dlib's.
    """

    name: str
    digest: str

    def describe(self, frame: np.ndarray) -> np.ndarray | None:
        """The descriptor float32 [D] of the largest face of a frame uint8 [H, W, 3]; None when no face is found."""


class DlibIdentity:
    """dlib's network, 128 numbers, offline.

    Raises:
        TalkingheadError: dlib or its models are not installed.
    """

    name, digest = "dlib", ""

    def __init__(self) -> None:
        face_descriptor(np.zeros((32, 32, 3), np.uint8))  # what is lacking is told before hours of work

    def describe(self, frame: np.ndarray) -> np.ndarray | None:
        return face_descriptor(frame)


class ArcFace:
    """An ArcFace network as an ONNX file: faces brought to 112x112 by five points; RGB, (x - 127.5) / 127.5, as insightface's expect them.

    Args:
        path: the file; one input [N, 3, 112, 112] or [N, 112, 112, 3], its first output [N, D].
        detector: finds the landmarks that the five points come from.

    Raises:
        TalkingheadError: the file is missing, no ONNX, or of another kind of network; onnxruntime is not installed.
    """

    def __init__(self, path: str | PathLike[str], detector: Detector) -> None:
        if not Path(path).is_file():
            raise TalkingheadError(f"{path}: no such file; an ArcFace network as ONNX was expected, or leave it out to use dlib's")
        self._session, self._channels_first = _open_session(Path(path))
        self._detector = detector
        self.name, self.digest = Path(path).name, sha256(path)

    def describe(self, frame: np.ndarray) -> np.ndarray | None:
        face = largest_face(self._detector, frame)
        return None if face is None else self.describe_face(align_face(frame, face.landmarks))

    def describe_face(self, face: np.ndarray) -> np.ndarray:
        """The descriptor float32 [D] of an aligned face uint8 [112, 112, 3]."""
        picture = (face.astype(np.float32) - 127.5) / 127.5
        picture = picture.transpose(2, 0, 1) if self._channels_first else picture
        found = self._session.run(None, {self._session.get_inputs()[0].name: picture[None]})[0]
        descriptor = np.asarray(found[0], dtype=np.float32)
        if not np.isfinite(descriptor).all():
            raise TalkingheadError(
                f"{self.name}: its descriptor of a face is not finite, it is damaged; name another network, or leave it out"
            )
        return descriptor


def open_identity(path: str | PathLike[str] | None, detector: Detector) -> IdentityNetwork:
    """The named ArcFace network, or without a name dlib's.

    Raises:
        TalkingheadError: as for `ArcFace` and `DlibIdentity`.
    """
    return DlibIdentity() if path is None else ArcFace(path, detector)


def describe(network: IdentityNetwork, frames: np.ndarray) -> list[np.ndarray | None]:
    """The descriptor of each of the frames uint8 [N, H, W, 3], None where no face is found."""
    return [network.describe(frame) for frame in frames]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of the angle between two descriptors [D]: 1 for equal ones."""
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def csim(ours: Sequence[np.ndarray | None], theirs: Sequence[np.ndarray | None]) -> float:
    """CSIM of the paper: mean cosine over the pairs in which both frames show a face; NaN when none does."""
    found = [cosine(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return float(np.mean(found)) if found else float("nan")


def align_face(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face as uint8 [112, 112, 3]: scaled, turned and shifted so that its five points fall nearest to ArcFace's.

    Args:
        frame: uint8 [H, W, 3].
        landmarks: [68, 2] in its pixels.
    """
    points = landmarks.astype(np.float64)
    five = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])
    # as complex numbers a similarity is z -> a z + b, and least squares gives it in closed form; backwards, to know where pixels come from
    to, source = _TEMPLATE @ [1, 1j], five @ [1, 1j]
    centred = to - to.mean()
    a = (centred.conj() * (source - source.mean())).sum() / (abs(centred) ** 2).sum()
    rows, columns = np.mgrid[:_SIDE, :_SIDE] + 0.5
    place = a * (columns + 1j * rows - to.mean()) + source.mean()
    height, width = frame.shape[:2]
    grid = np.stack([place.real / width, place.imag / height], axis=-1) * 2 - 1
    image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    taken = F.grid_sample(image, torch.from_numpy(grid).float()[None], mode="bilinear", align_corners=False)
    return taken[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def strangers(frames: np.ndarray) -> tuple[list[int], list[int], float] | None:
    """Whether pictures uint8 [N, H, W, 3] look like two people, by dlib: those nearer than `SAME_PERSON` belong together, in chains.

    Returns:
        The numbers of the pictures of the largest group, from 1 on, those of all others, and the least distance between the two. None when
        they look like one person, or dlib is not installed.
    """
    try:
        found = [(number, each) for number, each in enumerate(describe(DlibIdentity(), frames), 1) if each is not None]
    except TalkingheadError:
        return None
    if len(found) < 2:
        return None
    vectors = np.stack([each for _, each in found])
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    groups = np.arange(len(found))
    for first, second in np.argwhere(distances < SAME_PERSON):
        groups[groups == groups[second]] = groups[first]
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) == 1:
        return None
    inside = groups == names[sizes.argmax()]
    numbers = np.array([number for number, _ in found])
    return numbers[inside].tolist(), numbers[~inside].tolist(), float(distances[inside][:, ~inside].min())


def warn_of_strangers(clip: Clip) -> None:
    """Say so when the pictures that one person is to be learned from look like two people; what is learned is then a mixture."""
    apart = strangers(clip.frames)
    if apart is not None:
        ours, others = (", ".join(map(str, numbers)) for numbers in apart[:2])
        log.warning(
            "%s: picture %s and picture %s look like different people (identity distance %.2f, %.1f or more is another): "
            "all are learned as one person; leave some out if they are not",
            clip.name,
            ours,
            others,
            apart[2],
            SAME_PERSON,
        )


def _open_session(path: Path) -> tuple[Any, bool]:
    """The network, and whether it takes channels before rows."""
    wanted = "an ArcFace network was expected: one input [N, 3, 112, 112] or [N, 112, 112, 3], first output [N, D]"
    try:
        session = onnxruntime_session(path)
        inputs = session.get_inputs()
        shape = list(inputs[0].shape)
        channels_first = shape[1:] != [_SIDE, _SIDE, 3]
        face = np.zeros((1, 3, _SIDE, _SIDE) if channels_first else (1, _SIDE, _SIDE, 3), np.float32)
        made = np.shape(session.run(None, {inputs[0].name: face})[0])
    except TalkingheadError:
        raise
    except Exception as error:  # onnxruntime has a kind of its own for each complaint
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TalkingheadError(f"{path}: cannot be run as a face-recognition network ({reason[:160]}); {wanted}") from error
    if len(made) != 2 or made[0] != 1 or made[1] < 2:
        raise TalkingheadError(f"{path}: gives {list(made)} for one face; {wanted}")
    return session, channels_first
