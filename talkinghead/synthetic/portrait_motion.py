"""Motion of the head of a still portrait: expression, then rotation, over a background that stands still.

The picture is a sheet in space. Its depth over the face is that of the mean face's landmarks, over hair and
neck that of a rounded head, and it falls to the depth of the head's axis at the outline, where a turn moves
nothing. How far the sheet follows the head falls from 1 on the head to 0 in the background, on the shoulders
and at the border of the picture.

Lengths are in radii, the root-mean-square radius of the mean face, unless they are said to be pixels. In
"upright" positions the portrait's roll is taken out: x right, y down, the origin at the middle of the face.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.crop import Crop
from ..landmarks.mean_face import MEAN_FACE
from .portrait_expression import Expression, PortraitMotion
from .portrait_rasterizer import Grid, rasterize, sample_bilinear

HEAD_CENTRE = np.array([0.0, -0.4, -0.9])
"""Middle of the head in the mean face's space, radii."""
PIVOT_DROP = 0.6
"""Distance of the pivot below the middle of the head, radii."""
PROFILE_DEPTH = 1.2
"""Distance of the middle of the face in front of the axis, radii."""
RIM_SOFTNESS = 0.03
"""Softness of the depth at the outline of the head."""
SKULL_OUTLINE = ((1.42, -0.45), (1.5, -0.9), (1.5, -1.4), (1.28, -2.0), (0.8, -2.45), (0.0, -2.65))
"""The right half of the outline of head and hair above the jaw, upright, looking straight ahead, radii."""
JAW_MARGIN = 1.07
"""Size of the outline of the head relative to the landmarks of the jaw."""
DEPTH_REACH = 0.36
"""Reach of a landmark's own depth, radii."""
DEPTH_RIDGE = 0.03
"""Ridge term that keeps the depth from following the error of each landmark."""
FOLLOW_INNER = (1.02, 1.12)
"""Share of the outline up to which the picture fully follows the head: downwards, upwards."""
FOLLOW_OUTER = (1.42, 1.8)
"""Share of the outline from which it stands still: downwards, upwards."""
BORDER_MARGIN = 0.45
"""Within which distance of the picture's border the picture ceases to follow the head, radii."""
BORDER_PIXELS = 2.0
"""Width of the border in which nothing moves, pixels of the picture."""
CELLS_PER_RADIUS = 30
"""Cells of the mesh along a radius."""
TEXTURE_MARGIN = 0.12
"""Margin around the crop from which colours are sampled, as a share of its side."""
MIN_MOTION_PIXELS = 0.02
"""Motion below which a pixel keeps its colour exactly, pixels of the crop."""
BLEND_PIXELS = 0.3
"""Motion from which a pixel is fully rendered again, pixels of the crop."""
RIGID_POINTS = (0, 1, 2, 14, 15, 16, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45)
"""Landmarks that no expression moves."""


MAX_YAW_DEGREES = 14.0
"""Largest turn of a head to either side."""
MAX_TOTAL_YAW_DEGREES = 25.0
"""Largest turn together with the portrait's own yaw."""
MAX_PITCH_DEGREES = 10.0
"""Largest pitch up or down."""
MAX_ROLL_DEGREES = 9.0
"""Largest tilt to either side."""
MAX_SHIFT_RADII = 0.12
"""Largest shift, in radii of the face."""
MAX_ZOOM = 0.04
"""Largest change of size, as a share."""
LIDS_CLOSED_SHARE = 0.25
"""Share of the moved frames with closed lids."""
LIDS_HALF_SHARE = 0.2
"""Share of the moved frames with half-closed lids."""
JAW_SHARE = 0.5
"""Share of the moved frames with an open mouth."""
MOOD_SHARE = 0.6
"""Share of the moved frames with a smile or pucker, and of those with moved brows."""


@dataclass(frozen=True)
class PortraitHead:
    """The head of a portrait in space.

    Attributes:
        picture: uint8 [H, W, 3].
        landmarks: float64 [68, 2] in pixels of the picture.
        origin: float64 [2], the origin of upright positions in pixels.
        scale: pixels to a radius.
        roll, yaw: how the head is held, radians.
        axis: float64 [2], the middle of the head, upright.
    """

    picture: np.ndarray
    landmarks: np.ndarray
    origin: np.ndarray
    scale: float
    roll: float
    yaw: float
    axis: np.ndarray

    @classmethod
    def fit(cls, picture: np.ndarray, landmarks: np.ndarray) -> "PortraitHead":
        """Return the head behind 68 landmarks [68, 2], in pixels of a picture uint8 [H, W, 3].

        Its pitch cannot be told from one picture, and is taken as none.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        rigid = list(RIGID_POINTS)
        shape = MEAN_FACE[rigid] - MEAN_FACE[rigid].mean(axis=0)
        affine = np.linalg.lstsq(shape, points[rigid] - points[rigid].mean(axis=0), rcond=None)[0].T
        left, values, right = np.linalg.svd(affine, full_matrices=False)
        rotation = left @ right
        roll = float(np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1]))
        upright = _rotation_2d(-roll) @ rotation
        yaw = float(np.clip(np.arcsin(np.clip(upright[0, 2], -1, 1)), -0.7, 0.7))
        scale = float(values.mean())
        pose = _rotation(yaw, 0.0, 0.0)
        middle = (pose @ MEAN_FACE[rigid].mean(axis=0))[:2]
        origin = points[rigid].mean(axis=0) - scale * _rotation_2d(roll) @ middle
        return cls(
            picture=picture,
            landmarks=points,
            origin=origin,
            scale=scale,
            roll=roll,
            yaw=yaw,
            axis=(pose @ HEAD_CENTRE)[:2],
        )

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Return upright positions [..., 2] of pixels of the picture [..., 2]."""
        return (pixels - self.origin) @ _rotation_2d(self.roll) / self.scale

    def pixels(self, upright: np.ndarray) -> np.ndarray:
        """Return pixels of the picture [..., 2] of upright positions [..., 2]."""
        return upright @ _rotation_2d(self.roll).T * self.scale + self.origin

    @cached_property
    def points(self) -> np.ndarray:
        """Return the landmarks, upright, float64 [68, 2]."""
        return self.upright(self.landmarks)

    @cached_property
    def skin_colour(self) -> np.ndarray:
        """Return the colour of the face, the median along the nose and beside it, float64 [3]."""
        nose, jaw = self.landmarks[27:36], self.landmarks[[2, 3, 13, 14]]
        positions = np.concatenate([nose, (jaw[:, None] + nose[3]).reshape(-1, 2) / 2])
        return np.median(sample_bilinear(self.picture, positions), axis=0)

    @cached_property
    def grid(self) -> Grid:
        """Return the mesh over all of the picture that may move."""
        reach = np.array([[-3.2, -4.6], [3.2, -4.6], [3.2, 3.6], [-3.2, 3.6]])
        corners = self.pixels(reach + self.axis)
        height, width = self.picture.shape[:2]
        low, high = np.maximum(corners.min(axis=0), 0), np.minimum(corners.max(axis=0), [width, height])
        cells = np.maximum(np.ceil((high - low) / self.scale * CELLS_PER_RADIUS).astype(int), 1)
        return Grid(low, high, int(cells[0]), int(cells[1]))

    @cached_property
    def follow_weights(self) -> np.ndarray:
        """Return how far each vertex follows the head, 0..1, float64 [V]."""
        share, down = self._outline(self.upright(self.grid.vertices))
        inner = FOLLOW_INNER[1] + (FOLLOW_INNER[0] - FOLLOW_INNER[1]) * down
        outer = FOLLOW_OUTER[1] + (FOLLOW_OUTER[0] - FOLLOW_OUTER[1]) * down
        height, width = self.picture.shape[:2]
        pixels = np.minimum(self.grid.vertices, [width, height] - self.grid.vertices).min(axis=1)
        to_border = (pixels - BORDER_PIXELS) / (self.scale * BORDER_MARGIN)
        return _smoothstep((outer - share) / (outer - inner)) * _smoothstep(to_border)

    def depth(self, upright: np.ndarray) -> np.ndarray:
        """Return how far upright positions [N, 2] lie before the head's axis, radii [N]."""
        weights = self._depth_weights
        return self._rounded_depth(upright) + _gaussian_kernel(upright, self.points) @ weights

    @cached_property
    def _depth_weights(self) -> np.ndarray:
        turned = (MEAN_FACE - HEAD_CENTRE) @ _rotation(self.yaw, 0.0, 0.0).T
        residual = turned[:, 2] - self._rounded_depth(self.points)
        return np.linalg.solve(
            _gaussian_kernel(self.points, self.points) + DEPTH_RIDGE * np.eye(68), residual
        )

    def _rounded_depth(self, upright: np.ndarray) -> np.ndarray:
        share, _ = self._outline(upright)
        inside = 1 - share**2
        return PROFILE_DEPTH * (inside + np.sqrt(inside**2 + RIM_SOFTNESS)) / 2

    def _outline(self, upright: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far out upright positions [N, 2] lie, 1 on the outline, and how far down, 0..1."""
        angles, radii = self._outline_curve
        offset = upright - self.axis
        distance = np.linalg.norm(offset, axis=1)
        share = distance / np.interp(np.arctan2(offset[:, 0], -offset[:, 1]), angles, radii)
        return share, _smoothstep(0.5 + offset[:, 1] / np.maximum(distance, 1e-9))

    @cached_property
    def _outline_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the outline around the axis: angles from straight up, clockwise, increasing, and radii."""
        right = np.array(SKULL_OUTLINE)
        skull = np.concatenate([right, right[:-1] * [-1, 1]]) - HEAD_CENTRE[:2]
        jaw = (self.points[:17] - self.axis) * JAW_MARGIN
        outline = np.concatenate([skull, jaw[1:16]])
        angles = np.arctan2(outline[:, 0], -outline[:, 1])
        order = np.argsort(angles)
        angles, radii = angles[order], np.linalg.norm(outline, axis=1)[order]
        angle_grid = np.linspace(-np.pi, np.pi, 361)
        smooth = np.interp(angle_grid, angles, radii, period=2 * np.pi)
        window = np.hanning(31) / np.hanning(31).sum()
        smooth = np.convolve(np.concatenate([smooth[-16:-1], smooth, smooth[1:16]]), window, mode="valid")
        return angle_grid, smooth


def sample_motions(count: int, portrait_yaw: float, random: np.random.Generator) -> list[PortraitMotion]:
    """Return random motions whose poses are spread over the whole range.

    Args:
        count: number of motions; the first is none.
        portrait_yaw: degrees that the portrait's head is turned by itself.
        random: the random number generator.
    """
    num_moved = count - 1
    if not num_moved:
        return [PortraitMotion()]

    def sample_stratified(low: float, high: float) -> np.ndarray:
        return low + (high - low) * (random.permutation(num_moved) + random.random(num_moved)) / num_moved

    def choose_share(share: float) -> np.ndarray:
        return random.permutation(num_moved) < share * num_moved

    low = min(max(-MAX_YAW_DEGREES, -MAX_TOTAL_YAW_DEGREES - portrait_yaw), 0.0)
    high = max(min(MAX_YAW_DEGREES, MAX_TOTAL_YAW_DEGREES - portrait_yaw), 0.0)
    yaw, pitch = sample_stratified(low, high), sample_stratified(-MAX_PITCH_DEGREES, MAX_PITCH_DEGREES)
    roll = sample_stratified(-MAX_ROLL_DEGREES, MAX_ROLL_DEGREES)
    shift = random.uniform(-MAX_SHIFT_RADII, MAX_SHIFT_RADII, (num_moved, 2))
    zoom = 1 + random.uniform(-MAX_ZOOM, MAX_ZOOM, num_moved)
    order = random.permutation(num_moved)
    closed = order < LIDS_CLOSED_SHARE * num_moved
    half = ~closed & (order < (LIDS_CLOSED_SHARE + LIDS_HALF_SHARE) * num_moved)
    lids = np.where(closed, random.uniform(0.85, 1, num_moved), half * random.uniform(0.15, 0.6, num_moved))
    jaw = choose_share(JAW_SHARE) * sample_stratified(0.15, 1)
    smile, brows = (
        choose_share(MOOD_SHARE) * sample_stratified(-1, 1),
        choose_share(MOOD_SHARE) * sample_stratified(-1, 1),
    )
    rows = np.column_stack([yaw, pitch, roll, shift, zoom, lids, jaw, smile, brows]).tolist()
    return [PortraitMotion()] + [
        PortraitMotion(yaw=a, pitch=b, roll=c, shift=(x, y), zoom=z, lids=(lid, lid), jaw=j, smile=s, brows=w)
        for a, b, c, x, y, z, lid, j, s, w in rows
    ]


def move_landmarks(head: PortraitHead, motion: PortraitMotion) -> np.ndarray:
    """Return the landmarks of a moved head, exactly where `render_motion` draws them.

    Returns:
        float64 [68, 2] in pixels of the picture.
    """
    expression = Expression(head.points, motion)
    return move_points(head, motion, head.pixels(expression.expressed_landmarks()))


def move_points(head: PortraitHead, motion: PortraitMotion, points: np.ndarray) -> np.ndarray:
    """Return points of the expressed face, such as irises, where a moved head has them.

    Args:
        points: float [N, 2] in pixels of the picture.

    Returns:
        float64 [N, 2] in pixels of the picture.
    """
    moved = _move_mesh(head, motion, Expression(head.points, motion))
    return head.grid.sample(moved[:, :2], points)


def render_motion(head: PortraitHead, motion: PortraitMotion, crop: Crop, size: int) -> np.ndarray:
    """Return a crop of the picture with its head moved.

    Returns:
        uint8 [size, size, 3]; what does not move is as in `crop.pixels`, to the last bit.
    """
    unmoved = crop.pixels(head.picture, size)
    grid, expression = head.grid, Expression(head.points, motion)
    moved = _move_mesh(head, motion, expression)
    screen = np.column_stack([(moved[:, :2] - [crop.x, crop.y]) * (size / crop.side), moved[:, 2]])
    rows, columns, triangle, weights = rasterize(screen, grid.triangles, size)
    expressed_positions = np.einsum("nk,nkc->nc", weights, grid.vertices[grid.triangles[triangle]])
    source, paint = expression.map_to_source(head.upright(expressed_positions))
    margin = TEXTURE_MARGIN * crop.side
    # Fine enough that sampling between its pixels does not blur, but where there is more detail not so fine
    # that it flickers.
    oversampling = 2.0 if crop.side <= size else 1.4
    texture_crop = Crop(crop.x - margin, crop.y - margin, crop.side + 2 * margin, 2)
    texture = texture_crop.pixels(head.picture, round(oversampling * size * (1 + 2 * TEXTURE_MARGIN)))
    pixels = head.pixels(source)
    corner, texels = np.array([texture_crop.x, texture_crop.y]), len(texture) / texture_crop.side
    colours = sample_bilinear(texture, (pixels - corner) * texels)
    lid_colours = colours.copy()
    lids = np.flatnonzero(paint.lid > 0)
    lid_colours[lids] = sample_bilinear(texture, (head.pixels(paint.lid_source[lids]) - corner) * texels)
    colours = expression.apply_paint(colours, lid_colours, paint, head.skin_colour)
    centres = np.stack([columns, rows], axis=1) + 0.5
    distance = np.linalg.norm((pixels - [crop.x, crop.y]) * (size / crop.side) - centres, axis=1)
    alpha = np.clip((distance - MIN_MOTION_PIXELS) / (BLEND_PIXELS - MIN_MOTION_PIXELS), 0, 1)
    alpha = np.maximum(alpha, paint.alpha)[:, None]
    picture = unmoved.copy()
    original = unmoved[rows, columns]
    blend = np.rint(original + (colours - original) * alpha).clip(0, 255)
    picture[rows, columns] = np.where(alpha > 0, blend, original).astype(np.uint8)
    return picture


def _move_mesh(head: PortraitHead, motion: PortraitMotion, expression: Expression) -> np.ndarray:
    """Return the moved vertices, float64 [V, 3]: pixels of the picture, depth towards the camera in radii."""
    upright = head.upright(head.grid.vertices)
    depth = head.depth(expression.map_to_source(upright)[0])
    pivot = head.axis + [0, PIVOT_DROP]
    space = np.column_stack([upright - pivot, depth])
    turned = space @ _rotation(*np.radians([motion.yaw, motion.pitch, motion.roll])).T
    change = turned[:, :2] * motion.zoom + motion.shift - space[:, :2]
    positions = head.pixels(upright + change * head.follow_weights[:, None])
    return np.column_stack([positions, depth + (turned[:, 2] - depth) * head.follow_weights])


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the rotation [3, 3] that pitches, then yaws, then rolls, radians."""
    (a, b, c), (d, e, f) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    yaw_matrix = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    pitch_matrix = np.array([[1, 0, 0], [0, b, -e], [0, e, b]])
    roll_matrix = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return roll_matrix @ yaw_matrix @ pitch_matrix


def _rotation_2d(angle: float) -> np.ndarray:
    return _rotation(0.0, 0.0, angle)[:2, :2]


def _gaussian_kernel(positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the weight [N, M] of each of M points at each of N positions."""
    squared_distance = (
        (positions**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2 * positions @ points.T
    )
    return np.exp(-squared_distance / (2 * DEPTH_REACH**2))


def _smoothstep(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)
