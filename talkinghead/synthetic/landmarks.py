"""The 68 iBUG landmarks as points of the mesh; those of the jaw slide along the face to its visible contour.

The points were chosen on 240 images of 48 synthetic people: they are the nearest to dlib's landmarks on
average, and symmetric.
"""

import numpy as np

from .head import SKIN, Head
from .head_pose import check_poses
from .mesh_sampling import SurfacePoints, cast_rays
from .rasterizer import smooth_normals

# vertex indices of landmarks 17 to 67
_INNER = np.array(
    [
        *(255, 232, 229, 223, 208, 2353, 2367, 2372, 2375, 2394),  # brows
        *(132, 131, 201, 294, 320, 313, 317, 2446, 2452),  # nose
        *(1002, 2127, 2133, 2134, 2142, 1005, 4180, 4179, 4173, 3070, 3073, 4188),  # eyes
        *(429, 1706, 460, 466, 2589, 3757, 2559, 2609, 2611, 492, 486, 484),  # lips outside
        *(437, 472, 474, 2598, 2567, 2649, 540, 534),  # and inside
    ]
)
# Landmarks 0 to 8 as angle around the head from the front in degrees and height in metres: _NEAR when their
# side of the head faces the camera, _FAR when it is turned away. Landmarks 9 to 16 mirror them.
_NEAR = np.array(
    [
        (104, -0.002),
        (106, -0.021),
        (106, -0.038),
        (92, -0.054),
        (85, -0.072),
        (64, -0.085),
        (44, -0.0975),
        (20, -0.105),
        (0, -0.107),
    ]
)
_FAR = np.array(
    [
        (38, -0.004),
        (35, -0.019),
        (36, -0.036),
        (29, -0.050),
        (26, -0.057),
        (23, -0.066),
        (9, -0.080),
        (8, -0.081),
        (0, -0.0925),
    ]
)
_AXIS_Y_M = 0.04  # distance behind the eyes of the axis of these angles
_PATH_SHARES = np.linspace(0, 1, 15)
_CONTOUR_COSINE = 0.04  # between the surface normal and the line of sight at the contour
_SIDES = np.array([*range(5), *range(12, 17)])  # landmarks of the jaw beside the face, of which ...
_SIDE_SIGNS = np.repeat([-1.0, 1.0], 5)  # ... the contour is to the left and to the right in the image
_BELOW = np.arange(5, 12)  # and below it
_EXTENT_SOFTNESS_M = 0.002  # points this much within the extent of the face still count as its contour
_FACING_SOFTNESS = 0.05  # cosine over which the surface turns from hidden to visible


class LandmarkLocator:
    """Locates the landmarks of any face of the head model.

    Args:
        head: the head model.
        template: float32 [V, 3], the face on which the points are defined.
        poses: one of `head_pose.POSES`: "wide" puts the jaw of a head that is turned up to 90 degrees on the
            edge of the far cheek, hidden behind the nose as it may be, and moves it continuously. "talking"
            fits detectors better, up to 40 degrees.

    Raises:
        TalkingheadError: `poses` is something else.
    """

    def __init__(self, head: Head, template: np.ndarray, poses: str = "talking") -> None:
        check_poses(poses)
        self._is_wide = poses == "wide"
        near, far = (
            np.concatenate([right_half, (right_half[:8] * [-1, 1])[::-1]]) for right_half in (_NEAR, _FAR)
        )
        path = near[:, None] + (far - near)[:, None] * _PATH_SHARES[None, :, None]
        turn, height = np.radians(path[..., 0]).ravel(), path[..., 1].ravel()
        inwards = np.stack([np.sin(turn), np.cos(turn), 0 * turn], axis=1)
        origins = np.array([0, _AXIS_Y_M, 0]) + height[:, None] * [0, 0, 1] - 0.3 * inwards
        face = (template[:, 2] < 0.03) & (head.part == SKIN)
        points, is_hit = cast_rays(
            template, head.triangles[face[head.triangles].all(axis=1)], origins, inwards
        )
        assert is_hit.all()
        self._paths = SurfacePoints(points.corners.reshape(17, -1, 3), points.weights.reshape(17, -1, 3))
        self._triangles = head.triangles[np.isin(head.triangles, self._paths.corners).any(axis=1)]
        axis_points = np.flatnonzero((template[:, 2] > 0) & (head.part == SKIN))
        self._axis_points = axis_points
        self._axis_fit = np.linalg.pinv(np.column_stack([template[axis_points], np.ones(len(axis_points))]))
        self._orientation = self._find_orientation(template)

    def locate(self, skin: np.ndarray) -> np.ndarray:
        """Return the landmarks in space.

        Args:
            skin: float32 [V, 3], the face in space; the camera is at the origin.

        Returns:
            float64 [68, 3].
        """
        normals = self._paths.interpolate(smooth_normals(skin, self._triangles))
        points = self._paths.interpolate(skin)
        facing = (
            -(normals * points).sum(axis=2) / np.linalg.norm(points, axis=2) / np.linalg.norm(normals, axis=2)
            - _CONTOUR_COSINE
        )
        facing *= self._orientation
        if self._is_wide:
            jaw = self._find_wide_contour(points, facing, skin)
        else:
            jaw = np.stack([_find_contour(*path) for path in zip(points, facing, strict=True)])
        return np.concatenate([jaw, skin[_INNER]])

    def _find_wide_contour(self, points: np.ndarray, facing: np.ndarray, skin: np.ndarray) -> np.ndarray:
        """Return the jaw in space, float64 [17, 3], which changes continuously with the face.

        Beside the face, take the outermost points of the paths in the image, and below it those after the
        last hidden one. Either is an average position along the path, so that no landmark jumps between two
        points that are about as good.
        """
        up = (self._axis_fit @ skin[self._axis_points])[2]
        sides = points[_SIDES]
        middle = sides.mean(axis=(0, 1))
        up_in_image = up[:2] - middle[:2] / middle[2] * up[2]
        right = np.array([-up_in_image[1], up_in_image[0]]) / np.linalg.norm(up_in_image)
        extent = _SIDE_SIGNS[:, None] * (sides[..., :2] / sides[..., 2:] @ right) * middle[2]
        extent -= extent.max(axis=1, keepdims=True)
        weights = np.zeros((len(points), points.shape[1]))
        weights[_SIDES] = np.exp(extent / _EXTENT_SOFTNESS_M)
        weights[_BELOW] = _last_hidden_weights(facing[_BELOW])
        position = weights @ np.arange(points.shape[1]) / weights.sum(axis=1)
        before = np.minimum(position.astype(int), points.shape[1] - 2)
        share = (position - before)[:, None]
        rows = np.arange(len(points))
        return np.asarray(points[rows, before] * (1 - share) + points[rows, before + 1] * share)

    def _find_orientation(self, template: np.ndarray) -> float:
        """Return 1 if normals of the skin point outwards, or else -1."""
        inner_ends = self._paths.interpolate(smooth_normals(template, self._triangles))[:, -1]
        return float(np.sign(np.median(-inner_ends[:, 1])))

    def project(self, skin: np.ndarray, focal: float, centre: tuple[float, float]) -> np.ndarray:
        """Return the landmarks in an image, float64 [68, 2].

        Args:
            skin: float32 [V, 3], the face in space.
            focal: focal length in pixels.
            centre: principal point in pixels.
        """
        points = self.locate(skin)
        return np.asarray(points[:, :2] / points[:, 2:] * focal + np.array(centre))


def _last_hidden_weights(facing: np.ndarray) -> np.ndarray:
    """Return how likely each point [J, S] is the first after the last hidden one, float64 [J, S]."""
    visible = 1 / (1 + np.exp(-facing / _FACING_SOFTNESS))
    stays_visible = np.cumprod(visible[:, ::-1], axis=1)[:, ::-1]
    return np.diff(stays_visible, axis=1, prepend=0)


def _find_contour(points: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """Return the first of points [S, 3] that faces the camera, interpolated between two points."""
    hidden = np.flatnonzero(facing[:-1] < 0)
    # Skip folds: take the last hidden point before the face stays visible.
    if not len(hidden):
        return np.asarray(points[0])
    last = int(hidden[-1])
    share = facing[last] / (facing[last] - facing[last + 1]) if facing[last + 1] > facing[last] else 1.0
    return np.asarray(points[last] + (points[last + 1] - points[last]) * np.clip(share, 0, 1))
