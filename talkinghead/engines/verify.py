"""Verification of an engine: a few frames compared with PyTorch's output.

Builders choose among kernels by speed, fuse, and round; a refit may miss a weight. So every engine that can
run where it was made is compared before it is kept.
"""

from os import PathLike

import numpy as np
import torch

from ..clip import POINTS
from ..errors import TalkingheadError
from ..landmarks.face_points import fit_points, join_points
from ..landmarks.gaze import look_ahead
from ..landmarks.landmark_image import landmark_image
from ..model import Person, fingerprint
from ..networks.references import ReferenceViewer
from .base import Engine
from .frame_format import to_uint8
from .manifest import Manifest

MIN_PSNR_DB = {"fp32": 50.0, "fp16": 40.0, "bf16": 30.0}
"""PSNR below which an engine is refused, by precision."""
_MOUTH = slice(48, 68)
_TURN_DEGREES = 12
_ZOOM = 1.1
_SHIFT = (0.03, -0.02)
_MOUTH_OPENING = 1.5
_GAZES = np.array([[0.0, 0.0], [0.2, 0.0], [-0.1, -0.15], [0.1, 0.15]])
"""Displacements of the irises in the poses, in widths of an eye."""


def verification_poses(neutral_landmarks: np.ndarray, num_points: int = POINTS) -> np.ndarray:
    """Return points float32 [4, num_points, 2] of a face: neutral, turned, nearer, and speaking.

    Args:
        neutral_landmarks: [68, 2], of the person.
        num_points: 68, or 78 with irises, which look ahead, aside, up and down.
    """
    centre = neutral_landmarks.mean(axis=0)
    poses = np.repeat((neutral_landmarks - centre)[None], 4, axis=0).astype(np.float64)
    angle = np.deg2rad(_TURN_DEGREES)
    poses[1] @= np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    poses[2] = poses[2] * _ZOOM + _SHIFT
    mouth = poses[3, _MOUTH]
    poses[3, _MOUTH] = mouth + (mouth - mouth.mean(axis=0)) * [0, _MOUTH_OPENING]
    landmarks = (poses + centre).astype(np.float32)
    width = np.linalg.norm(neutral_landmarks[39] - neutral_landmarks[36])
    gaze = (_GAZES * width)[:, None, None]
    return fit_points(join_points(landmarks, look_ahead(landmarks) + gaze), num_points).astype(np.float32)


def verify_against_torch(engine: Engine, person: Person) -> float:
    """Compare an engine's frames of `verification_poses` with those of plain PyTorch in float32.

    Where styles are an input, every second row has other styles than the person's.

    Returns:
        PSNR in dB; infinite where the frames are equal.

    Raises:
        TalkingheadError: the difference is larger than the engine's precision explains.
    """
    landmarks = verification_poses(person.neutral_landmarks, person.config.networks.num_points)
    engine.set_person(person)
    styles = person.styles.detach().cpu().expand(len(landmarks), -1).clone()
    style_rows = None
    if engine.spec.styles == "input":
        styles[1::2] *= 0.8
        style_rows = styles.numpy()
    # one frame, then several: builders choose kernels and capture graphs for each batch size
    frames = np.concatenate(
        [
            engine.run(landmarks[rows], None if style_rows is None else style_rows[rows])
            for rows in (slice(1), slice(1, None))
        ]
    )
    psnr_db = pooled_psnr_db(frames, to_uint8(_render_with_torch(person, landmarks, styles)))
    min_psnr_db = MIN_PSNR_DB[engine.spec.precision]
    if not psnr_db >= min_psnr_db:
        raise TalkingheadError(
            f"{engine.spec.format}: its frames are {psnr_db:.1f} dB from torch's, expected at least "
            f"{min_psnr_db:.0f} of {engine.spec.precision}: a weight is wrong or missing, or numbers "
            "overflow; nothing is kept, try another precision"
        )
    return psnr_db


@torch.no_grad()
def _render_with_torch(person: Person, landmarks: np.ndarray, styles: torch.Tensor) -> np.ndarray:
    """Render float32 [B, 3, size, size] by the person's generator as it is."""
    generator = person.generator
    device = generator.out.weight.device
    points = torch.from_numpy(landmarks)
    views = []
    if person.references is not None:
        views.append(ReferenceViewer(person.references, device)(points.to(device)))
    images = landmark_image(points, person.config.networks.layer_size).to(device)
    return generator(images, styles.to(device), *views).cpu().numpy()


def check_same_weights(manifest: Manifest, person: Person, source: str | PathLike[str]) -> None:
    """Check that an engine was made from a person's weights.

    Args:
        manifest: of the engine.
        person: to compare with.
        source: file of the engine, for the message.

    Raises:
        TalkingheadError: it was made from others.
    """
    if manifest.weights != fingerprint(person):
        made_from = f" ({manifest.person})" if manifest.person else ""
        raise TalkingheadError(
            f"{source}: was made from other weights than this person's{made_from}; export this person, or "
            "name that one"
        )


def check_renders_person(engine: object, person: Person) -> None:
    """Check that an engine, if there is one, renders a person.

    Raises:
        TalkingheadError: it holds other weights, or was set to a person of other styles.
    """
    if not isinstance(engine, Engine):  # none, or one of the caller's own
        return
    manifest = getattr(engine, "manifest", None)  # engines in memory have none
    if manifest is not None:
        check_same_weights(manifest, person, "engine")
    styles = engine.person_styles
    if styles is not None and not np.array_equal(styles, person.styles.detach().float().cpu().numpy()):
        raise TalkingheadError(
            "engine: is set to another person; call engine.set_person(person), or open it with this person"
        )


def pooled_psnr_db(frames: np.ndarray, expected: np.ndarray) -> float:
    """Return the PSNR in dB of all uint8 frames together; `metrics.psnr` averages over frames instead."""
    squared_error = float(np.square(frames.astype(np.float64) - expected).mean())
    return float("inf") if squared_error == 0 else 10 * float(np.log10(255**2 / squared_error))
