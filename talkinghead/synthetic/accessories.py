"""Parts that the head model lacks: eyeballs, teeth and glasses, in the axes of the head at rest."""

import numpy as np

from .appearance import Appearance, linear
from .head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from .materials import EYE, GLOSS, MATTE
from .mesh_part import MeshPart, grid_part, grid_triangles

IRIS_ANGLE = 0.44
"""Angle in radians from the optical axis to the edge of the iris, seen from the centre of the eyeball."""


def locate_eyeballs(head: Head, vertices: np.ndarray) -> np.ndarray:
    """Return centre and radius of the left and the right eyeball, float64 [2, 4]."""
    spheres = []
    for part in (LEFT_EYE, RIGHT_EYE):
        eye = vertices[head.part == part].astype(np.float64)
        low, high = eye.min(axis=0), eye.max(axis=0)
        radius = (high[0] - low[0] + high[2] - low[2]) / 4
        spheres.append([(low[0] + high[0]) / 2, low[1] + radius * 1.01, (low[2] + high[2]) / 2, radius])
    return np.array(spheres)


def build_eye(ball: np.ndarray, follows: str) -> MeshPart:
    """Return the front of an eyeball [4]: centre and radius."""
    rows, columns = 14, 24
    polar = np.linspace(0, 1.75, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    sphere = np.stack(
        [np.sin(polar) * np.cos(turn), -np.cos(polar) + 0 * turn, np.sin(polar) * np.sin(turn)], axis=2
    ).reshape(-1, 3)
    vertices = ball[:3] + sphere * ball[3]
    return MeshPart(
        vertices=vertices,
        triangles=grid_triangles(rows, columns, closed=True),
        material=EYE,
        lookup=sphere,
        colour=np.ones_like(sphere),
        follows=follows,
    )


def iris_points(ball: np.ndarray) -> np.ndarray:
    """Return the iris of an eyeball [4] that looks ahead, float64 [5, 3].

    The points are its centre, and its edge right, top, left and bottom of it in the image of an upright head.
    """
    edge, depth = np.sin(IRIS_ANGLE), -np.cos(IRIS_ANGLE)
    directions = [(0, -1, 0), (edge, depth, 0), (0, depth, edge), (-edge, depth, 0), (0, depth, -edge)]
    return np.asarray(ball[:3] + ball[3] * np.array(directions))


def build_teeth(head: Head, vertices: np.ndarray, appearance: Appearance) -> list[MeshPart]:
    """Return the upper and the lower row of teeth."""
    random = np.random.default_rng((*appearance.seed, 6))
    lips = vertices[head.masks[0] > 0.6]
    half = 0.86 * np.abs(lips[:, 0]).max()
    centre = lips[np.abs(lips[:, 0]) < 0.004]
    seam, front = lip_seam_height(head, vertices), centre[:, 1].min()
    white = (
        linear((226, 216, 198))
        * random.uniform(0.75, 1.0)
        * (1 - 0.18 * appearance.age * random.random() * np.array([0.3, 0.6, 1.4]))
    )
    gum = np.array([0.30, 0.09, 0.09])
    parts = []
    for upper in (True, False):
        columns, rows = 61, 5
        x = np.linspace(-1, 1, columns)
        tooth = (x * 5 + 0.5) % 1 if not upper else (x * 4.5) % 1
        gap = np.exp(-((np.minimum(tooth, 1 - tooth) / 0.09) ** 2))
        depth = front + 0.0105 + half * 0.55 * x**2 + (0 if upper else 0.0022)
        down = np.linspace(0, 1, rows)
        # heights from the gums to the edge
        height = seam + (0.0115 - 0.0125 * down if upper else -0.012 + 0.0085 * down)
        points = np.zeros((rows, columns, 3))
        points[..., 0] = x * half * 0.95
        points[..., 1] = depth + 0.0012 * gap - 0.0008 * np.sin(np.pi * down)[:, None]
        points[..., 2] = height[:, None] + (0.0006 if upper else -0.0006) * gap * down[:, None]
        shade = (1 - 0.45 * gap) * (1 - 0.5 * x**2)
        colour = white * shade[None, :, None] * np.ones((rows, 1, 1))
        colour[down < 0.3] = gum * shade[:, None]
        follows = "head" if upper else "jaw"
        parts.append(grid_part(points, colour, MATTE, follows=follows, min_openness=0.5))
    return parts


def lip_seam_height(head: Head, vertices: np.ndarray) -> float:
    """Return the height in metres at which the lips meet."""
    middle = (head.masks[0] > 0.5) & (np.abs(vertices[:, 0]) < 0.003)
    inside = vertices[middle]
    upper = head.actions[head.action["jawOpen"]][middle][:, 2] > -0.004
    if not upper.any() or upper.all():
        return float(inside[:, 2].mean())
    return float((inside[upper][:, 2].min() + inside[~upper][:, 2].max()) / 2)


def build_glasses(
    head: Head, vertices: np.ndarray, appearance: Appearance, balls: np.ndarray
) -> list[MeshPart]:
    """Return frames of glasses without lenses; an empty list for a person without glasses.

    Args:
        head: the head model.
        vertices: float32 [V, 3], the face at rest.
        appearance: the person.
        balls: float [2, 4], centre and radius of the eyeballs.
    """
    if not appearance.glasses:
        return []
    random = np.random.default_rng((*appearance.seed, 8))
    size, radius = appearance.size, random.uniform(0.0011, 0.0022)
    half_width, half_height, power = {
        1: (0.0225, 0.0215, 2.0),
        2: (0.0255, 0.0185, 2.4),
        3: (0.0265, 0.0195, 4.0),
    }[appearance.glasses]
    half_width, half_height = half_width * size, half_height * size
    bridge = vertices[
        (np.abs(vertices[:, 0]) < 0.003) & (np.abs(vertices[:, 2]) < 0.02) & (head.part == SKIN)
    ]
    plane = min(balls[:, 1].min() - balls[0, 3] - 0.009, float(bridge[:, 1].min()) + 0.006)
    turn = np.linspace(0, 2 * np.pi, 41)
    parts = []
    for side, ball in zip((1.0, -1.0), balls, strict=True):
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * half_width
        z = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * half_height
        middle = np.array([side * max(abs(ball[0]) + 0.002, half_width + 0.007), plane, ball[2] - 0.002])
        line = middle + np.stack(
            [x, 0.10 * np.abs(x + side * half_width) * (side * x > -half_width) * 0.4, z], axis=1
        )
        parts.append(_tube(line, radius, appearance.frame))
        outer = middle + np.array([side * half_width, 0.003, 0.35 * half_height])
        head_half_width = np.abs(vertices[:, 0])[np.abs(vertices[:, 2]) < 0.02].max() * 0.90
        ear = np.array([side * head_half_width, 0.075, 0.004])
        parts.append(_tube(np.linspace(outer, ear, 8), radius, appearance.frame))
    inner = max(abs(balls[0, 0]) + 0.002, half_width + 0.007) - half_width
    x = np.linspace(-inner, inner, 9)
    line = np.stack([x, plane - 0.0005 + 0 * x, balls[0, 2] + 0.004 - 0.003 * (x / inner) ** 2], axis=1)
    parts.append(_tube(line, radius * 0.9, appearance.frame))
    return parts


def _tube(line: np.ndarray, radius: float, colour: np.ndarray) -> MeshPart:
    """Return a tube of a radius in metres around a line [N, 3]."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    normal = np.cross(along, [0.13, 1.0, 0.21])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    binormal = np.cross(along, normal)
    turn = np.linspace(0, 2 * np.pi, 7)
    points = line[:, None] + radius * (
        np.cos(turn)[:, None] * normal[:, None] + np.sin(turn)[:, None] * binormal[:, None]
    )
    return grid_part(points, np.broadcast_to(colour, points.shape), GLOSS, follows="head", min_openness=0.8)
