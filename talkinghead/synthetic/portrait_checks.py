"""Checks of whether a portrait can be animated."""

from ..landmarks.detector import MIN_CONFIDENCE, Face
from .portrait_motion import PortraitHead

MIN_FACE_PIXELS = 48
"""A portrait whose face's box has a smaller longer side is rejected."""
MAX_SECOND_FACE = 0.5
"""A portrait whose second face is larger, in shares of the first, shows several."""
BORDER_REASON = "its face lies at the border of the picture, expected room around it; give a wider picture"
"""Reason for rejecting a portrait whose head cannot move."""
MIN_FOLLOW_WEIGHT = 0.5
"""A portrait is rejected when a landmark is so near its border that it would follow the head less."""


def rejection_reason(faces: list[Face]) -> str:
    """Return why a portrait with these faces, the largest first, is not taken; empty when it is."""
    if not faces:
        return "shows no face, expected one; give a picture of a person"
    side = faces[0].box[2]
    if side < MIN_FACE_PIXELS:
        return f"its face is {side:.0f} pixels wide, expected {MIN_FACE_PIXELS} at least; give a larger one"
    large = [face for face in faces if face.box[2] > MAX_SECOND_FACE * side]
    if len(large) > 1:
        return f"shows {len(large)} large faces, expected one; cut out the person"
    if faces[0].confidence < MIN_CONFIDENCE:
        confidence = f"confidence {faces[0].confidence:.2f}, expected at least {MIN_CONFIDENCE}"
        return f"its face is in profile or covered ({confidence}); give another picture"
    return ""


def border_reason(head: PortraitHead) -> str:
    """Return why a head is too near the border of its picture to move; empty when it is not."""
    follows = head.grid.sample(head.follow_weights[:, None], head.landmarks).min()
    return BORDER_REASON if follows < MIN_FOLLOW_WEIGHT else ""
