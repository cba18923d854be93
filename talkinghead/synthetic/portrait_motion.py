"""Moves the head of a still portrait: expression, then rotation, over a background that stands still.

The picture is a sheet in space. Its depth over the face is that of the mean face's landmarks, over hair and
neck that of a rounded head, and it falls to the depth of the head's axis at the outline, where a turn moves
nothing. How far the sheet follows the head falls from 1 on the head to 0 in the background, on the shoulders
and at the border of the picture.

Lengths are in radii, the root-mean-square radius of the mean face, unless they are said to be pixels. In
"upright" places the portrait's roll is taken out: x right, y down, the origin at the middle of the face.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.crop import Crop
from ..landmarks.mean_face import MEAN_FACE
from .portrait_expression import Expression, Motion
from .portrait_raster import Grid, look_up, rasterise

AXIS_PLACE = np.array([0.0, -0.4, -0.9])
"""Where the middle of the head lies in the mean face's space, radii."""
PIVOT_DROP = 0.6
"""How far below the middle of the head the point lies that it turns around, radii."""
PROFILE_DEPTH = 1.2
"""How far the middle of the face lies before the axis, radii."""
RIM_SOFTNESS = 0.03
"""How gently the depth runs out at the outline of the head."""
SKULL = ((1.42, -0.45), (1.5, -0.9), (1.5, -1.4), (1.28, -2.0), (0.8, -2.45), (0.0, -2.65))
"""The right half of the outline of head and hair above the jaw, upright, looking straight ahead, radii."""
JAW_MARGIN = 1.07
"""How far outside the landmarks of the jaw the outline of the head lies, as a factor."""
DEPTH_REACH = 0.36
"""How far a landmark's own depth reaches, radii."""
DEPTH_RIDGE = 0.03
"""What keeps the depth from following each landmark's error."""
FOLLOW_INNER = (1.02, 1.12)
"""Up to which share of the outline the picture follows the head wholly: downwards, upwards."""
FOLLOW_OUTER = (1.42, 1.8)
"""From which share of the outline it stands still: downwards, upwards."""
BORDER_MARGIN = 0.45
"""Within which distance of the picture's border the picture stops to follow the head, radii."""
BORDER_PIXELS = 2.0
"""How far from the border nothing moves at all, pixels of the picture."""
CELLS_PER_RADIUS = 30
"""Cells of the mesh along a radius."""
TEXTURE_MARGIN = 0.12
"""How far around the crop colours may be taken from, as a share of its side."""
STILL_PIXELS = 0.02
"""What moves less keeps its colour to the last bit, pixels of the crop."""
BLEND_PIXELS = 0.3
"""What moves as far is wholly drawn anew, pixels of the crop."""
RIGID = (0, 1, 2, 14, 15, 16, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45)
"""Landmarks that no expression moves."""


MAX_YAW_DEGREES = 14.0
"""How far a head is turned to either side."""
MAX_TOTAL_YAW_DEGREES = 25.0
"""How far it may be turned together with the portrait's own yaw."""
MAX_PITCH_DEGREES = 10.0
"""How far it is lifted or lowered."""
MAX_ROLL_DEGREES = 9.0
"""How far it is tilted to either side."""
MAX_SHIFT_RADII = 0.12
"""How far it is shifted, in radii of the face."""
MAX_ZOOM = 0.04
"""How much larger or smaller it becomes, as a share."""
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
        place: float64 [2], the origin of upright places in pixels.
        scale: pixels to a radius.
        roll, yaw: how the head is held, radians.
        axis: float64 [2], the middle of the head, upright.
    """

    picture: np.ndarray
    landmarks: np.ndarray
    place: np.ndarray
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
        rigid = list(RIGID)
        shape = MEAN_FACE[rigid] - MEAN_FACE[rigid].mean(axis=0)
        affine = np.linalg.lstsq(shape, points[rigid] - points[rigid].mean(axis=0), rcond=None)[0].T
        left, values, right = np.linalg.svd(affine, full_matrices=False)
        seen = left @ right
        roll = float(np.arctan2(seen[1, 0] - seen[0, 1], seen[0, 0] + seen[1, 1]))
        upright = _rotation_2d(-roll) @ seen
        yaw = float(np.clip(np.arcsin(np.clip(upright[0, 2], -1, 1)), -0.7, 0.7))
        scale = float(values.mean())
        turned = _rotation(yaw, 0.0, 0.0)
        middle = (turned @ MEAN_FACE[rigid].mean(axis=0))[:2]
        origin = points[rigid].mean(axis=0) - scale * _rotation_2d(roll) @ middle
        return cls(picture, points, origin, scale, roll, yaw, (turned @ AXIS_PLACE)[:2])

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Return upright places [..., 2] of pixels of the picture [..., 2]."""
        return (pixels - self.place) @ _rotation_2d(self.roll) / self.scale

    def pixels(self, upright: np.ndarray) -> np.ndarray:
        """Return pixels of the picture [..., 2] of upright places [..., 2]."""
        return upright @ _rotation_2d(self.roll).T * self.scale + self.place

    @cached_property
    def points(self) -> np.ndarray:
        """Return the landmarks, upright, float64 [68, 2]."""
        return self.upright(self.landmarks)

    @cached_property
    def skin(self) -> np.ndarray:
        """Return the colour of the face, the median along the nose and beside it, float64 [3]."""
        nose, jaw = self.landmarks[27:36], self.landmarks[[2, 3, 13, 14]]
        places = np.concatenate([nose, (jaw[:, None] + nose[3]).reshape(-1, 2) / 2])
        return np.median(look_up(self.picture, places), axis=0)

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
    def follow(self) -> np.ndarray:
        """Return how far each vertex follows the head, 0..1, float64 [V]."""
        share, down = self._outline(self.upright(self.grid.vertices))
        inner = FOLLOW_INNER[1] + (FOLLOW_INNER[0] - FOLLOW_INNER[1]) * down
        outer = FOLLOW_OUTER[1] + (FOLLOW_OUTER[0] - FOLLOW_OUTER[1]) * down
        height, width = self.picture.shape[:2]
        pixels = np.minimum(self.grid.vertices, [width, height] - self.grid.vertices).min(axis=1)
        to_border = (pixels - BORDER_PIXELS) / (self.scale * BORDER_MARGIN)
        return _smooth_step((outer - share) / (outer - inner)) * _smooth_step(to_border)

    def depth(self, upright: np.ndarray) -> np.ndarray:
        """Return how far upright places [N, 2] lie before the head's axis, radii [N]."""
        weights = self._depth_weights
        return self._round(upright) + _kernel(upright, self.points) @ weights

    @cached_property
    def _depth_weights(self) -> np.ndarray:
        turned = (MEAN_FACE - AXIS_PLACE) @ _rotation(self.yaw, 0.0, 0.0).T
        rest = turned[:, 2] - self._round(self.points)
        return np.linalg.solve(_kernel(self.points, self.points) + DEPTH_RIDGE * np.eye(68), rest)

    def _round(self, upright: np.ndarray) -> np.ndarray:
        share, _ = self._outline(upright)
        inside = 1 - share**2
        return PROFILE_DEPTH * (inside + np.sqrt(inside**2 + RIM_SOFTNESS)) / 2

    def _outline(self, upright: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return of upright places [N, 2] how far out, 1 on the outline, and how far down, 0..1, they lie."""
        angles, radii = self._outline_curve
        apart = upright - self.axis
        distance = np.linalg.norm(apart, axis=1)
        share = distance / np.interp(np.arctan2(apart[:, 0], -apart[:, 1]), angles, radii)
        return share, _smooth_step(0.5 + apart[:, 1] / np.maximum(distance, 1e-9))

    @cached_property
    def _outline_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the outline around the axis: angles from straight up, clockwise, increasing, and radii."""
        right = np.array(SKULL)
        skull = np.concatenate([right, right[:-1] * [-1, 1]]) - AXIS_PLACE[:2]
        jaw = (self.points[:17] - self.axis) * JAW_MARGIN
        around = np.concatenate([skull, jaw[1:16]])
        angles = np.arctan2(around[:, 0], -around[:, 1])
        order = np.argsort(angles)
        angles, radii = angles[order], np.linalg.norm(around, axis=1)[order]
        even = np.linspace(-np.pi, np.pi, 361)
        smooth = np.interp(even, angles, radii, period=2 * np.pi)
        window = np.hanning(31) / np.hanning(31).sum()
        smooth = np.convolve(np.concatenate([smooth[-16:-1], smooth, smooth[1:16]]), window, mode="valid")
        return even, smooth


def draw_motions(count: int, portrait_yaw: float, random: np.random.Generator) -> list[Motion]:
    """Draw motions whose poses are spread over all of the range.

    Args:
        count: how many; the first is none.
        portrait_yaw: degrees that the portrait's head is turned by itself.
        random: is drawn from.
    """
    moved = count - 1
    if not moved:
        return [Motion()]

    def spread(low: float, high: float) -> np.ndarray:
        return low + (high - low) * (random.permutation(moved) + random.random(moved)) / moved

    def some(share: float) -> np.ndarray:
        return random.permutation(moved) < share * moved

    low = min(max(-MAX_YAW_DEGREES, -MAX_TOTAL_YAW_DEGREES - portrait_yaw), 0.0)
    high = max(min(MAX_YAW_DEGREES, MAX_TOTAL_YAW_DEGREES - portrait_yaw), 0.0)
    yaw, pitch = spread(low, high), spread(-MAX_PITCH_DEGREES, MAX_PITCH_DEGREES)
    roll = spread(-MAX_ROLL_DEGREES, MAX_ROLL_DEGREES)
    shift = random.uniform(-MAX_SHIFT_RADII, MAX_SHIFT_RADII, (moved, 2))
    zoom = 1 + random.uniform(-MAX_ZOOM, MAX_ZOOM, moved)
    order = random.permutation(moved)
    closed = order < LIDS_CLOSED_SHARE * moved
    half = ~closed & (order < (LIDS_CLOSED_SHARE + LIDS_HALF_SHARE) * moved)
    lids = np.where(closed, random.uniform(0.85, 1, moved), half * random.uniform(0.15, 0.6, moved))
    jaw = some(JAW_SHARE) * spread(0.15, 1)
    smile, brows = some(MOOD_SHARE) * spread(-1, 1), some(MOOD_SHARE) * spread(-1, 1)
    rows = np.column_stack([yaw, pitch, roll, shift, zoom, lids, jaw, smile, brows]).tolist()
    return [Motion()] + [
        Motion(yaw=a, pitch=b, roll=c, shift=(x, y), zoom=z, lids=(lid, lid), jaw=j, smile=s, brows=w)
        for a, b, c, x, y, z, lid, j, s, w in rows
    ]


def move_landmarks(head: PortraitHead, motion: Motion) -> np.ndarray:
    """Return the landmarks of a moved head, exactly where `draw_moved` draws them.

    Returns:
        float64 [68, 2] in pixels of the picture.
    """
    expression = Expression(head.points, motion)
    return head.grid.sample(_moved_mesh(head, motion, expression)[:, :2], head.pixels(expression.forward()))


def draw_moved(head: PortraitHead, motion: Motion, crop: Crop, size: int) -> np.ndarray:
    """Return a crop of the picture with its head moved.

    Returns:
        uint8 [size, size, 3]; what does not move is as in `crop.pixels`, to the last bit.
    """
    still = crop.pixels(head.picture, size)
    grid, expression = head.grid, Expression(head.points, motion)
    moved = _moved_mesh(head, motion, expression)
    screen = np.column_stack([(moved[:, :2] - [crop.x, crop.y]) * (size / crop.side), moved[:, 2]])
    rows, columns, triangle, shares = rasterise(screen, grid.triangles, size)
    expressed = np.einsum("nk,nkc->nc", shares, grid.vertices[grid.triangles[triangle]])
    source, paint = expression.source(head.upright(expressed))
    margin = TEXTURE_MARGIN * crop.side
    # finer, so that looking up between its pixels does not blur; not so fine, where there is more detail,
    # that it flickers
    finer = 2.0 if crop.side <= size else 1.4
    around = Crop(crop.x - margin, crop.y - margin, crop.side + 2 * margin, 2)
    texture = around.pixels(head.picture, round(finer * size * (1 + 2 * TEXTURE_MARGIN)))
    pixels = head.pixels(source)
    corner, texels = np.array([around.x, around.y]), len(texture) / around.side
    colours = look_up(texture, (pixels - corner) * texels)
    lid_colours = colours.copy()
    lids = np.flatnonzero(paint.lid > 0)
    lid_colours[lids] = look_up(texture, (head.pixels(paint.lid_source[lids]) - corner) * texels)
    colours = expression.paint(colours, lid_colours, paint, head.skin)
    centres = np.stack([columns, rows], axis=1) + 0.5
    distance = np.linalg.norm((pixels - [crop.x, crop.y]) * (size / crop.side) - centres, axis=1)
    alpha = np.clip((distance - STILL_PIXELS) / (BLEND_PIXELS - STILL_PIXELS), 0, 1)
    alpha = np.maximum(alpha, paint.alpha)[:, None]
    picture = still.copy()
    before = still[rows, columns]
    blend = np.rint(before + (colours - before) * alpha).clip(0, 255)
    picture[rows, columns] = np.where(alpha > 0, blend, before).astype(np.uint8)
    return picture


def _moved_mesh(head: PortraitHead, motion: Motion, expression: Expression) -> np.ndarray:
    """Return the moved vertices, float64 [V, 3]: pixels of the picture, depth towards the camera in radii."""
    upright = head.upright(head.grid.vertices)
    depth = head.depth(expression.source(upright)[0])
    pivot = head.axis + [0, PIVOT_DROP]
    space = np.column_stack([upright - pivot, depth])
    turned = space @ _rotation(*np.radians([motion.yaw, motion.pitch, motion.roll])).T
    change = turned[:, :2] * motion.zoom + motion.shift - space[:, :2]
    places = head.pixels(upright + change * head.follow[:, None])
    return np.column_stack([places, depth + (turned[:, 2] - depth) * head.follow])


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the rotation [3, 3] that pitches, then yaws, then rolls, radians."""
    (a, b, c), (d, e, f) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    across = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    up = np.array([[1, 0, 0], [0, b, -e], [0, e, b]])
    along = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return along @ across @ up


def _rotation_2d(angle: float) -> np.ndarray:
    return _rotation(0.0, 0.0, angle)[:2, :2]


def _kernel(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the weight [N, M] of each of M points at each of N places."""
    apart = (places**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2 * places @ points.T
    return np.exp(-apart / (2 * DEPTH_REACH**2))


def _smooth_step(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)
