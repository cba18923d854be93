"""The 68 iBUG landmarks as places of the mesh; those of the outline slide along the face to where its contour is seen.

The places were chosen on 240 pictures of 48 people as those that dlib's landmarks are nearest to in the mean, left and right alike.
"""

import numpy as np

from .head import SKIN, Head
from .raster import smooth_normals
from .surface import Places, cast

# vertices of landmarks 17 to 67
_INNER = np.array(
    [
        *(255, 232, 229, 223, 208, 2353, 2367, 2372, 2375, 2394),  # brows
        *(132, 131, 201, 294, 320, 313, 317, 2446, 2452),  # nose
        *(1002, 2127, 2133, 2134, 2142, 1005, 4180, 4179, 4173, 3070, 3073, 4188),  # eyes
        *(429, 1706, 460, 466, 2589, 3757, 2559, 2609, 2611, 492, 486, 484),  # lips outside
        *(437, 472, 474, 2598, 2567, 2649, 540, 534),  # and inside
    ]
)
# landmarks 0 to 8: where each lies when its side of the head is turned to the camera, as angle around the head from the front in degrees
# and height in metres; and where it has slid to when the head looks past. 9 to 16 mirror them.
_NEAR = np.array(
    [(104, -0.002), (106, -0.021), (106, -0.038), (92, -0.054), (85, -0.072), (64, -0.085), (44, -0.0975), (20, -0.105), (0, -0.107)]
)
_FAR = np.array(
    [(38, -0.004), (35, -0.019), (36, -0.036), (29, -0.050), (26, -0.057), (23, -0.066), (9, -0.080), (8, -0.081), (0, -0.0925)]
)
_AXIS = 0.04  # metres behind the eyes, about which these angles are
_STEPS = np.linspace(0, 1, 15)
_GRAZING = 0.04  # cosine between the surface and the line of sight at which the contour is taken


class Landmarks:
    """Finds the landmarks of any face.

    Args:
        head: the model.
        template: float32 [V, 3], the face on which the places are known.
    """

    def __init__(self, head: Head, template: np.ndarray) -> None:
        near, far = (np.concatenate([each, (each[:8] * [-1, 1])[::-1]]) for each in (_NEAR, _FAR))
        path = near[:, None] + (far - near)[:, None] * _STEPS[None, :, None]
        turn, height = np.radians(path[..., 0]).ravel(), path[..., 1].ravel()
        inwards = np.stack([np.sin(turn), np.cos(turn), 0 * turn], axis=1)
        origins = np.array([0, _AXIS, 0]) + height[:, None] * [0, 0, 1] - 0.3 * inwards
        face = (template[:, 2] < 0.03) & (head.part == SKIN)
        places, met = cast(template, head.triangles[face[head.triangles].all(axis=1)], origins, inwards)
        assert met.all()
        self._paths = Places(places.corners.reshape(17, -1, 3), places.weights.reshape(17, -1, 3))
        self._near = head.triangles[np.isin(head.triangles, self._paths.corners).any(axis=1)]

    def places(self, skin: np.ndarray) -> np.ndarray:
        """Where the landmarks are in space.

        Args:
            skin: float32 [V, 3], the face in space; the camera is at the origin.

        Returns:
            float64 [68, 3].
        """
        normals = self._paths.of(smooth_normals(skin, self._near))
        points = self._paths.of(skin)
        facing = -(normals * points).sum(axis=2) / np.linalg.norm(points, axis=2) / np.linalg.norm(normals, axis=2) - _GRAZING
        facing *= np.sign(np.median(facing[:, -3:]))  # whichever way the triangles are turned
        outline = np.array([_first_seen(point, seen) for point, seen in zip(points, facing, strict=True)])
        return np.concatenate([outline, skin[_INNER]])

    def of(self, skin: np.ndarray, focal: float, centre: tuple[float, float]) -> np.ndarray:
        """float64 [68, 2]: the landmarks in a picture.

        Args:
            skin: float32 [V, 3], the face in space.
            focal: pixels a metre at a distance of one.
            centre: where the camera's axis is, in pixels.
        """
        places = self.places(skin)
        return np.asarray(places[:, :2] / places[:, 2:] * focal + np.array(centre))


def _first_seen(points: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """The first of points [S, 3] that faces the camera, between two of them where it turns."""
    hidden = np.flatnonzero(facing[:-1] < 0)
    # past folds: the last hidden point before the face is seen for good
    if not len(hidden):
        return np.asarray(points[0])
    last = int(hidden[-1])
    share = facing[last] / (facing[last] - facing[last + 1]) if facing[last + 1] > facing[last] else 1.0
    return np.asarray(points[last] + (points[last + 1] - points[last]) * np.clip(share, 0, 1))
