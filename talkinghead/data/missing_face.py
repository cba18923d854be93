"""Errors about pictures in which no face was found, with the reason where there is a plain one."""

from os import PathLike

import numpy as np

from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE, Detector, Face, largest_face

MAX_ROLL_DEGREES = 60.0
"""Roll of a head beyond which a picture may lie on its side."""
_MIN_SIDE = 48  # pixels of a picture, in which faces are some 20 wide


def missing_face_error(
    name: str | PathLike[str], count: int, detector: Detector | None = None, picture: np.ndarray | None = None
) -> TalkingheadError:
    """Return the error for a source without a face, which names the reason where there is a plain one.

    Args:
        name: of the source.
        count: number of its pictures or frames.
        detector: with it, `picture` is also searched turned.
        picture: one of them, uint8 [H, W, 3].
    """
    where = "it" if count == 1 else f"any of its {count} pictures"
    if picture is not None and max(picture.shape[:2]) < _MIN_SIDE:
        height, width = picture.shape[:2]
        return TalkingheadError(
            f"{name}: no face was found in {where}, it has {width}x{height} pixels; give a larger picture"
        )
    if picture is not None and detector is not None:
        degrees = clockwise_turn(detector, picture)
        if degrees:
            return TalkingheadError(
                f"{name}: its face is turned by {degrees} degrees clockwise; turn the picture upright"
            )
    return TalkingheadError(
        f"{name}: no face was found in {where}, expected one seen from the front; name another"
    )


def lies_on_its_side(face: Face, detector: Detector, picture: np.ndarray) -> bool:
    """Return whether the face of a picture uint8 [H, W, 3] is upright in the picture turned."""
    return abs(face.pose.roll) > MAX_ROLL_DEGREES and clockwise_turn(detector, picture) > 0


def clockwise_turn(detector: Detector, picture: np.ndarray) -> int:
    """Return by how many degrees a picture uint8 [H, W, 3] is turned clockwise: 90, 180 or 270, or 0 where
    no turn shows an upright face.
    """
    for quarter_turns in (2, 1, 3):
        face = largest_face(detector, np.ascontiguousarray(np.rot90(picture, quarter_turns)))
        if face is None or face.confidence < MIN_CONFIDENCE:
            continue
        if abs(face.pose.roll) <= MAX_ROLL_DEGREES:
            return 90 * quarter_turns
    return 0
