"""Rasterizer of triangles on the CPU.

An image is rendered in two passes, so that only visible samples are shaded: the first keeps the nearest
triangle of each sample, the second computes its colour. Two runs are bit-equal.
"""

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from .warp_runtime import open_warp


@dataclass
class Mesh:
    """Triangles to render.

    Attributes:
        screen: float32 [V, 3]: x and y in samples of the image, depth in metres, above 0.
        normal: float32 [V, 3] in space, unit vectors; the direction of a STRAND.
        lookup: float32 [V, 3], coordinates of the material. SKIN: point on the template; EYE: point on the
            unit sphere that looks along -y; STRAND: share of its length, a random number per strand, 0;
            CLOTH: two lengths in metres and 0.
        colour: float32 [V, 3], linear RGB.
        openness: float32 [V], 0..1, share of the surroundings that is visible from the vertex.
        triangles: int32 [T, 3].
        material: int32 [T], see `materials`.
    """

    screen: np.ndarray
    normal: np.ndarray
    lookup: np.ndarray
    colour: np.ndarray
    openness: np.ndarray
    triangles: np.ndarray
    material: np.ndarray


@dataclass
class Light:
    """Three lamps and ambient light, in space: x right, y down, z away from the camera.

    Attributes:
        towards: float32 [3, 3], unit vectors to the lamps.
        colour: float32 [3, 3], linear RGB of each lamp.
        sky, ground: float32 [3], linear RGB of the light from above and below.
        wrap: softness of the lamps, 0..1.
    """

    towards: np.ndarray
    colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    wrap: float


@dataclass
class Shadow:
    """Shadow map of the first lamp.

    Attributes:
        depth: float32 [S, S] in metres along the light.
        frame: float32 [3, 4], maps a point in space to x, y and depth in the shadow map.
    """

    depth: np.ndarray
    frame: np.ndarray


@dataclass
class Textures:
    """Textures of a person.

    Attributes:
        skin: float32 [H, W, 4]: factors of the RGB of the skin, and its gloss, around the template's axis.
        cloth: float32 [H, W, 3]: factors of the colour of cloth, which repeat every 0.2 m.
        eye: float32 [4, 3]: colours of the white, the iris and its rim; half the angle of the iris, the share
            of the pupil in it, and 0.
    """

    skin: np.ndarray
    cloth: np.ndarray
    eye: np.ndarray


def compile_kernels() -> None:
    """Compile the kernels now instead of at their first use (seconds, the first time on a machine)."""
    smooth_normals(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))


def smooth_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals, float32 [V, 3]: means over the adjacent triangles, weighted by area."""
    wp = open_warp()
    normals = np.zeros_like(vertices)
    _launch(
        _kernels().add_normals,
        len(triangles),
        [_as_vectors(vertices), wp.array(triangles, dtype=wp.int32, copy=False), _as_vectors(normals)],
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def render_depth(screen: np.ndarray, triangles: np.ndarray, side: int) -> np.ndarray:
    """Return the depth of the nearest triangle at each sample, float32 [side, side], infinite if none."""
    front = _find_nearest(screen, triangles, side)
    return np.where(front == _EMPTY, np.inf, (front >> 32) * 1e-6).astype(np.float32)


def render(
    mesh: Mesh, position: np.ndarray, *, light: Light, shadow: Shadow, textures: Textures, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image of a mesh, one colour per sample.

    Args:
        mesh: the triangles.
        position: float32 [V, 3], the vertices in space.
        light: lamps and ambient light.
        shadow: the shadow map of the first lamp.
        textures: textures of the materials.
        side: samples per row.

    Returns:
        Linear RGB float32 [side, side, 3], and bool [side, side]: True where a triangle covers the sample.
    """
    wp = open_warp()
    front = _find_nearest(mesh.screen, mesh.triangles, side)
    image = np.zeros((side, side, 3), np.float32)
    inputs = [
        wp.array(front, dtype=wp.int64, copy=False),
        _as_vectors(mesh.screen),
        _as_vectors(position),
        _as_vectors(mesh.normal),
        _as_vectors(mesh.lookup),
        _as_vectors(mesh.colour),
        wp.array(mesh.openness, dtype=wp.float32, copy=False),
        wp.array(mesh.triangles, dtype=wp.int32, copy=False),
        wp.array(mesh.material, dtype=wp.int32, copy=False),
        _as_vectors(light.towards),
        _as_vectors(light.colour),
        wp.vec3(*light.sky.tolist()),
        wp.vec3(*light.ground.tolist()),
        float(light.wrap),
        wp.array(shadow.depth, dtype=wp.float32, copy=False),
        wp.array(shadow.frame, dtype=wp.float32, copy=False),
        wp.array(textures.skin, dtype=wp.vec4, copy=False),
        wp.array(textures.cloth, dtype=wp.vec3, copy=False),
        _as_vectors(textures.eye),
        wp.array(image, dtype=wp.vec3, copy=False),
    ]
    _launch(_kernels().shade, (side, side), inputs)
    return image, front != _EMPTY


_EMPTY = np.iinfo(np.int64).max  # a sample that no triangle covers


def _find_nearest(screen: np.ndarray, triangles: np.ndarray, side: int) -> np.ndarray:
    """Return the nearest triangle of each sample, int64 [side, side]: depth in micrometres << 32 | index."""
    wp = open_warp()
    front = np.full((side, side), _EMPTY, dtype=np.int64)
    _launch(
        _kernels().find_nearest,
        len(triangles),
        [
            _as_vectors(screen),
            wp.array(triangles, dtype=wp.int32, copy=False),
            wp.array(front, dtype=wp.int64, copy=False),
        ],
    )
    return front


def _as_vectors(values: np.ndarray) -> Any:
    """Return [N, 3] as an array of Warp vectors, in the same memory where possible."""
    wp = open_warp()
    return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=wp.vec3, copy=False)


def _launch(kernel: Any, dim: Any, inputs: list[Any]) -> None:
    """Run a kernel on the CPU."""
    open_warp().launch(kernel, dim=dim, inputs=inputs, device="cpu")


@cache
def _kernels() -> ModuleType:
    """Return the module of kernels, which needs Warp."""
    from . import rasterizer_kernels

    return rasterizer_kernels
