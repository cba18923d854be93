"""Face-recognition networks: identity embeddings of faces, and their cosine similarity.

dlib's network works offline. Its embeddings lie close together: the cosine is 0.80 to 0.92 between frames of
two people and 0.95 to 1.00 between frames of one (18 people, crops of 64 pixels, 5% to 95%). So a CSIM by
dlib is only comparable with another by dlib. The paper's CSIM uses a network like ArcFace, whose weights the
user names.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import TalkingheadError
from ..landmarks.detector import Detector, largest_face
from ..landmarks.dlib_detector import face_descriptor
from ..metrics import check_frame_pair
from ..system.file_hash import sha256
from ..system.onnx_runtime import onnxruntime_session

NOT_MEASURED = "identity: not measured (pip install 'talkinghead[identity]')"
"""Text of reports where dlib's network is not installed."""
_SIDE = 112
"""Height and width of ArcFace's input in pixels."""
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Positions of eyes, nose and corners of the mouth in ArcFace's input, in pixels."""


class IdentityNetwork(Protocol):
    """A face-recognition network.

    Attributes:
        name: for tables and files.
        digest: SHA-256 of the user's file; empty for dlib's network.
    """

    name: str
    digest: str

    def embed_face(self, frame: np.ndarray) -> np.ndarray | None:
        """Return the embedding float32 [D] of the largest face of a frame uint8 [H, W, 3]; None where no face
        is detected.
        """


class DlibIdentity:
    """dlib's network, which works offline; its embeddings have 128 values.

    Raises:
        TalkingheadError: dlib or its models are not installed.
    """

    name, digest = "dlib", ""

    def __init__(self) -> None:
        face_descriptor(np.zeros((32, 32, 3), np.uint8))  # fail before hours of work

    def embed_face(self, frame: np.ndarray) -> np.ndarray | None:
        """Return the embedding float32 [128] of the largest face; None where no face is detected."""
        return face_descriptor(frame)


class ArcFace:
    """An ArcFace network in an ONNX file. Its input is as for insightface's networks: a face aligned to
    112x112 by five points; RGB, (x - 127.5) / 127.5.

    Args:
        path: the file; one input [N, 3, 112, 112] or [N, 112, 112, 3], its first output [N, D].
        detector: for the landmarks from which the five points are computed.

    Raises:
        TalkingheadError: the file is missing, is not ONNX, or holds another kind of network; onnxruntime is
            not installed.
    """

    def __init__(self, path: str | PathLike[str], detector: Detector) -> None:
        if not Path(path).is_file():
            raise TalkingheadError(
                f"{path}: no such file; name an ArcFace network as ONNX, or leave it out to use dlib's"
            )
        self._session, self._channels_first = _open_session(Path(path))
        self._detector = detector
        self.name, self.digest = Path(path).name, sha256(path)

    def embed_face(self, frame: np.ndarray) -> np.ndarray | None:
        """Return the embedding float32 [D] of the largest face; None where no face is detected."""
        face = largest_face(self._detector, frame)
        return None if face is None else self.embed_aligned_face(align_face(frame, face.landmarks))

    def embed_aligned_face(self, face: np.ndarray) -> np.ndarray:
        """Return the embedding float32 [D] of an aligned face uint8 [112, 112, 3]."""
        image = (face.astype(np.float32) - 127.5) / 127.5
        image = image.transpose(2, 0, 1) if self._channels_first else image
        output = self._session.run(None, {self._session.get_inputs()[0].name: image[None]})[0]
        embedding = np.asarray(output[0], dtype=np.float32)
        if not np.isfinite(embedding).all():
            raise TalkingheadError(
                f"{self.name}: its embedding of a face is not finite, the file is damaged; name another "
                "network, or leave it out"
            )
        return embedding


def open_installed_dlib() -> DlibIdentity | None:
    """Open dlib's network, or return None where it is not installed."""
    try:
        return DlibIdentity()
    except TalkingheadError:
        return None


def open_identity(path: str | PathLike[str] | None, detector: Detector) -> IdentityNetwork:
    """Open an ArcFace network, or dlib's network where the path is None.

    Raises:
        TalkingheadError: as for `ArcFace` and `DlibIdentity`.
    """
    return DlibIdentity() if path is None else ArcFace(path, detector)


def embed_faces(network: IdentityNetwork, frames: np.ndarray) -> list[np.ndarray | None]:
    """Return the embedding of each of the frames uint8 [N, H, W, 3], None where no face is detected."""
    return [network.embed_face(frame) for frame in frames]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine similarity of two embeddings [D]: 1 for equal ones."""
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def csim(embeddings: Sequence[np.ndarray | None], truth: Sequence[np.ndarray | None]) -> float:
    """Return the paper's CSIM: mean cosine over the pairs in which both frames show a face; NaN where none
    does.
    """
    pairs = zip(embeddings, truth, strict=True)
    cosines = [cosine(a, b) for a, b in pairs if a is not None and b is not None]
    return float(np.mean(cosines)) if cosines else float("nan")


def align_face(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return the face as uint8 [112, 112, 3], transformed by the similarity that brings its five points
    nearest to ArcFace's.

    Args:
        frame: uint8 [H, W, 3].
        landmarks: [68, 2] in its pixels.
    """
    points = landmarks.astype(np.float64)
    five = np.stack(
        [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]]
    )
    # As complex numbers a similarity is z -> a z + b, and least squares gives it in closed form. It maps the
    # template to the frame, because each pixel of the result is sampled from the frame.
    template, source = _TEMPLATE @ [1, 1j], five @ [1, 1j]
    centred = template - template.mean()
    a = (centred.conj() * (source - source.mean())).sum() / (abs(centred) ** 2).sum()
    rows, columns = np.mgrid[:_SIDE, :_SIDE] + 0.5
    position = a * (columns + 1j * rows - template.mean()) + source.mean()
    height, width = frame.shape[:2]
    grid = np.stack([position.real / width, position.imag / height], axis=-1) * 2 - 1
    image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    face = F.grid_sample(image, torch.from_numpy(grid).float()[None], mode="bilinear", align_corners=False)
    return face[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _open_session(path: Path) -> tuple[Any, bool]:
    """Open a network, and return it and whether its input has channels before rows.

    Raises:
        TalkingheadError: as for `ArcFace`.
    """
    expected = (
        "expected an ArcFace network: one input [N, 3, 112, 112] or [N, 112, 112, 3], first output [N, D]"
    )
    try:
        session = onnxruntime_session(path)
        inputs = session.get_inputs()
        shape = list(inputs[0].shape)
        channels_first = shape[1:] != [_SIDE, _SIDE, 3]
        face = np.zeros((1, 3, _SIDE, _SIDE) if channels_first else (1, _SIDE, _SIDE, 3), np.float32)
        output_shape = np.shape(session.run(None, {inputs[0].name: face})[0])
    except TalkingheadError:
        raise
    except Exception as error:  # onnxruntime raises a type of its own for each problem
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TalkingheadError(
            f"{path}: cannot be run as a face-recognition network ({reason[:160]}); {expected}"
        ) from error
    if len(output_shape) != 2 or output_shape[0] != 1 or output_shape[1] < 2:
        raise TalkingheadError(f"{path}: returns {list(output_shape)} for one face; {expected}")
    return session, channels_first


def identity_distance(frames: np.ndarray, truth: np.ndarray) -> float:
    """Return the Euclidean distance between dlib's embeddings of frames and truth, mean over the pairs in
    which both show a face; NaN where none does.

    Below 0.6 dlib takes two images for one person; frames of one clip have 0.2 to 0.4.

    Raises:
        TalkingheadError: the shapes differ, or dlib or its models are not installed.
    """
    check_frame_pair(frames, truth)
    pairs = [
        (face_descriptor(frame), face_descriptor(real)) for frame, real in zip(frames, truth, strict=True)
    ]
    distances = [float(np.linalg.norm(a - b)) for a, b in pairs if a is not None and b is not None]
    return float(np.mean(distances)) if distances else float("nan")
