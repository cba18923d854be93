# mypy: disable-error-code="valid-type,name-defined,no-untyped-def"
# ruff: noqa: UP018 - Warp tells a number that changes in a loop by its float()
"""Draws triangles on the CPU: which is in front at each point, then its colour. The only module that imports warp.

A picture is drawn in two passes, so that only what is seen is shaded: `_cover` keeps for each sample the nearest triangle, as one integer
of depth and number; `_shade` works out its colour. Warp runs a kernel's threads one after the other on a CPU, so two runs are bit-equal.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import require
from ..media.pictures import no_stderr

SKIN, MATTE, STRAND, EYE, CLOTH, GLOSS = range(6)
"""Materials."""


@dataclass
class Mesh:
    """What is drawn.

    Attributes:
        screen: float32 [V, 3]: x and y in samples of the picture, depth in metres, above 0.
        normal: float32 [V, 3] in space, of unit length; of a STRAND its direction.
        place: float32 [V, 3]: where the material is looked up; SKIN: the place on the template; EYE: on the unit sphere that looks
            along -y; STRAND: share of its length, its own random number, 0; CLOTH: two lengths in metres and 0.
        colour: float32 [V, 3], linear RGB.
        open: float32 [V], 0..1, how much of the surroundings is seen from there.
        triangles: int32 [T, 3].
        material: int32 [T].
    """

    screen: np.ndarray
    normal: np.ndarray
    place: np.ndarray
    colour: np.ndarray
    open: np.ndarray
    triangles: np.ndarray
    material: np.ndarray


@dataclass
class Light:
    """Light on a picture, in space: x right, y down, z away from the camera.

    Attributes:
        towards: float32 [3, 3], unit vectors to three lamps.
        colour: float32 [3, 3], linear RGB of each.
        sky, ground: float32 [3], what comes from above and below.
        wrap: how soft the lamps are, 0..1.
    """

    towards: np.ndarray
    colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    wrap: float


@dataclass
class Shadow:
    """Depth seen from the first lamp.

    Attributes:
        depth: float32 [S, S] in metres along the light.
        frame: float32 [3, 4]: place in space -> sample x, y and depth of that picture.
    """

    depth: np.ndarray
    frame: np.ndarray


@cache
def open_warp() -> Any:
    """Warp, silent.

    Raises:
        TalkingheadError: it is not installed.
    """
    warp = require("warp", "synthetic")
    warp.config.log_level = warp.LOG_ERROR
    with no_stderr():  # where there is no GPU, its C code says so
        warp.init()
    return warp


def compile_kernels() -> None:
    """Compile now (seconds, the first time on a machine) what is otherwise compiled when it is first used."""
    smooth_normals(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))


def smooth_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """float32 [V, 3]: unit normals, the mean of the triangles around weighted by their areas."""
    wp = open_warp()
    normals = np.zeros_like(vertices)
    _run(
        _kernels().turn,
        len(triangles),
        [_vectors(vertices), wp.array(triangles, dtype=wp.int32, copy=False), _vectors(normals)],
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def depths(screen: np.ndarray, triangles: np.ndarray, side: int) -> np.ndarray:
    """float32 [side, side]: depth of the nearest triangle at each sample, infinite where there is none."""
    front = _front(screen, triangles, side)
    return np.where(front == _NOTHING, np.inf, (front >> 32) * 1e-6).astype(np.float32)


def draw(
    mesh: Mesh, position: np.ndarray, light: Light, shadow: Shadow, skin: np.ndarray, cloth: np.ndarray, eye: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """The picture, one colour a sample.

    Args:
        position: float32 [V, 3], in space.
        skin: float32 [H, W, 4]: factors on the skin's RGB, and its gloss, around the template's axis.
        cloth: float32 [H, W, 3]: factors on the colour of cloth, which repeat every 0.2 m.
        eye: float32 [4, 3]: colours of white, iris and its rim; half the iris's angle, the pupil's share of it and 0.
        side: samples in a row.

    Returns:
        Linear RGB float32 [side, side, 3], and bool [side, side] where anything was drawn.
    """
    wp = open_warp()
    front = _front(mesh.screen, mesh.triangles, side)
    picture = np.zeros((side, side, 3), np.float32)
    inputs = [
        wp.array(front, dtype=wp.int64, copy=False),
        _vectors(mesh.screen),
        _vectors(position),
        _vectors(mesh.normal),
        _vectors(mesh.place),
        _vectors(mesh.colour),
        wp.array(mesh.open, dtype=wp.float32, copy=False),
        wp.array(mesh.triangles, dtype=wp.int32, copy=False),
        wp.array(mesh.material, dtype=wp.int32, copy=False),
        _vectors(light.towards),
        _vectors(light.colour),
        wp.vec3(*light.sky.tolist()),
        wp.vec3(*light.ground.tolist()),
        float(light.wrap),
        wp.array(shadow.depth, dtype=wp.float32, copy=False),
        wp.array(shadow.frame, dtype=wp.float32, copy=False),
        wp.array(skin, dtype=wp.vec4, copy=False),
        wp.array(cloth, dtype=wp.vec3, copy=False),
        _vectors(eye),
        wp.array(picture, dtype=wp.vec3, copy=False),
    ]
    _run(_kernels().shade, (side, side), inputs)
    return picture, front != _NOTHING


_NOTHING = np.iinfo(np.int64).max


def _front(screen: np.ndarray, triangles: np.ndarray, side: int) -> np.ndarray:
    wp = open_warp()
    front = np.full((side, side), _NOTHING, dtype=np.int64)
    _run(
        _kernels().cover,
        len(triangles),
        [_vectors(screen), wp.array(triangles, dtype=wp.int32, copy=False), wp.array(front, dtype=wp.int64, copy=False)],
    )
    return front


def _vectors(values: np.ndarray) -> Any:
    wp = open_warp()
    return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=wp.vec3, copy=False)


def _run(kernel: Any, dim: Any, inputs: list[Any]) -> None:
    open_warp().launch(kernel, dim=dim, inputs=inputs, device="cpu")


@cache
def _kernels() -> SimpleNamespace:
    """The kernels, compiled at first use (seconds) and kept by Warp in its own cache."""
    wp = open_warp()
    wp.set_module_options({"enable_backward": False, "fast_math": False})

    @wp.func
    def edge(a: wp.vec3, b: wp.vec3, x: float, y: float) -> float:
        return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])

    @wp.kernel
    def turn(vertices: wp.array(dtype=wp.vec3), triangles: wp.array2d(dtype=wp.int32), normals: wp.array(dtype=wp.vec3)):
        t = wp.tid()
        i = triangles[t, 0]
        j = triangles[t, 1]
        k = triangles[t, 2]
        n = wp.cross(vertices[j] - vertices[i], vertices[k] - vertices[i])
        wp.atomic_add(normals, i, n)
        wp.atomic_add(normals, j, n)
        wp.atomic_add(normals, k, n)

    @wp.kernel
    def cover(screen: wp.array(dtype=wp.vec3), triangles: wp.array2d(dtype=wp.int32), front: wp.array2d(dtype=wp.int64)):
        t = wp.tid()
        a = screen[triangles[t, 0]]
        b = screen[triangles[t, 1]]
        c = screen[triangles[t, 2]]
        area = edge(a, b, c[0], c[1])
        if wp.abs(area) < 1.0e-6:
            return
        rows = front.shape[0]
        columns = front.shape[1]
        left = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])) - 0.5)), 0)
        right = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])) - 0.5)), columns - 1)
        top = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])) - 0.5)), 0)
        bottom = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])) - 0.5)), rows - 1)
        # thin ribbons across a picture fill little of their box, so each row's share of it is worked out
        ux = -(c[1] - b[1]) / area
        vx = -(a[1] - c[1]) / area
        wx = -(b[1] - a[1]) / area
        for row in range(top, bottom + 1):
            y = float(row) + 0.5
            u0 = edge(b, c, 0.0, y) / area
            v0 = edge(c, a, 0.0, y) / area
            low = float(left) + 0.5
            high = float(right) + 0.5
            low = wp.max(low, wp.where(ux > 0.0, -u0 / ux, low))
            high = wp.min(high, wp.where(ux < 0.0, -u0 / ux, high))
            low = wp.max(low, wp.where(vx > 0.0, -v0 / vx, low))
            high = wp.min(high, wp.where(vx < 0.0, -v0 / vx, high))
            w0 = 1.0 - u0 - v0
            low = wp.max(low, wp.where(wx > 0.0, -w0 / wx, low))
            high = wp.min(high, wp.where(wx < 0.0, -w0 / wx, high))
            if (ux == 0.0 and u0 < 0.0) or (vx == 0.0 and v0 < 0.0) or (wx == 0.0 and w0 < 0.0):
                high = low - 1.0
            for column in range(int(wp.ceil(low - 0.5)), int(wp.floor(high - 0.5)) + 1):
                x = float(column) + 0.5
                u = u0 + ux * x
                v = v0 + vx * x
                depth = u * a[2] + v * b[2] + (1.0 - u - v) * c[2]
                key = wp.lshift(wp.int64(depth * 1.0e6), wp.int64(32)) + wp.int64(t)
                wp.atomic_min(front, row, column, key)

    @wp.func
    def bilinear(texture: wp.array2d(dtype=wp.vec4), x: float, y: float) -> wp.vec4:
        rows = texture.shape[0]
        columns = texture.shape[1]
        x0 = wp.floor(x)
        y0 = wp.floor(y)
        fx = x - x0
        fy = y - y0
        c0 = (int(x0) % columns + columns) % columns
        c1 = (c0 + 1) % columns
        r0 = wp.clamp(int(y0), 0, rows - 1)
        r1 = wp.clamp(int(y0) + 1, 0, rows - 1)
        upper = texture[r0, c0] * (1.0 - fx) + texture[r0, c1] * fx
        lower = texture[r1, c0] * (1.0 - fx) + texture[r1, c1] * fx
        return upper * (1.0 - fy) + lower * fy

    @wp.func
    def lit(depth: wp.array2d(dtype=float), frame: wp.array2d(dtype=float), p: wp.vec3, bias: float) -> float:
        x = frame[0, 0] * p[0] + frame[0, 1] * p[1] + frame[0, 2] * p[2] + frame[0, 3]
        y = frame[1, 0] * p[0] + frame[1, 1] * p[1] + frame[1, 2] * p[2] + frame[1, 3]
        z = frame[2, 0] * p[0] + frame[2, 1] * p[1] + frame[2, 2] * p[2] + frame[2, 3]
        rows = depth.shape[0]
        columns = depth.shape[1]
        seen = float(0.0)
        total = float(0.0)
        for i in range(-2, 3):
            for j in range(-2, 3):
                r = int(wp.floor(y)) + i
                c = int(wp.floor(x)) + j
                total += 1.0
                inside = r >= 0 and c >= 0 and r < rows and c < columns
                if not inside or depth[wp.clamp(r, 0, rows - 1), wp.clamp(c, 0, columns - 1)] > z - bias:
                    seen += 1.0
        return seen / total

    @wp.kernel
    def shade(
        front: wp.array2d(dtype=wp.int64),
        screen: wp.array(dtype=wp.vec3),
        position: wp.array(dtype=wp.vec3),
        normal: wp.array(dtype=wp.vec3),
        place: wp.array(dtype=wp.vec3),
        colour: wp.array(dtype=wp.vec3),
        open: wp.array(dtype=float),
        triangles: wp.array2d(dtype=wp.int32),
        material: wp.array(dtype=wp.int32),
        towards: wp.array(dtype=wp.vec3),
        lamp: wp.array(dtype=wp.vec3),
        sky: wp.vec3,
        ground: wp.vec3,
        wrap: float,
        shadow: wp.array2d(dtype=float),
        shadow_frame: wp.array2d(dtype=float),
        skin: wp.array2d(dtype=wp.vec4),
        cloth: wp.array2d(dtype=wp.vec3),
        eye: wp.array(dtype=wp.vec3),
        picture: wp.array2d(dtype=wp.vec3),
    ):
        row, column = wp.tid()
        key = front[row, column]
        if key == wp.int64(9223372036854775807):
            return
        t = int(key & wp.int64(4294967295))
        i = triangles[t, 0]
        j = triangles[t, 1]
        k = triangles[t, 2]
        x = float(column) + 0.5
        y = float(row) + 0.5
        area = edge(screen[i], screen[j], screen[k][0], screen[k][1])
        u = edge(screen[j], screen[k], x, y) / area
        v = edge(screen[k], screen[i], x, y) / area
        w = 1.0 - u - v
        p = position[i] * u + position[j] * v + position[k] * w
        n = wp.normalize(normal[i] * u + normal[j] * v + normal[k] * w)
        at = place[i] * u + place[j] * v + place[k] * w
        base = colour[i] * u + colour[j] * v + colour[k] * w
        air = open[i] * u + open[j] * v + open[k] * w
        view = wp.normalize(-p)
        kind = material[t]
        gloss = float(0.0)
        sharp = float(20.0)
        extra = wp.vec3(0.0, 0.0, 0.0)
        soft = wrap
        if kind != 2 and wp.dot(n, view) < 0.0:
            n = -n
        if kind == 0:
            turned = wp.atan2(at[0], -(at[1] - 0.06)) / 6.2831853 + 0.5
            high = (0.12 - at[2]) / 0.28
            texel = bilinear(skin, turned * float(skin.shape[1]) - 0.5, high * float(skin.shape[0]) - 0.5)
            base = wp.cw_mul(base, wp.vec3(texel[0], texel[1], texel[2]))
            gloss = texel[3]
            sharp = 14.0
            soft = wrap + 0.15
        if kind == 1:
            gloss = 0.25
            sharp = 40.0
        if kind == 3:
            axis = wp.normalize(at)
            angle = wp.acos(wp.clamp(-axis[1], -1.0, 1.0))
            half = eye[3][0]
            share = angle / half
            blur = 0.09
            iris = eye[1]
            spoke = wp.sin(wp.atan2(axis[2], axis[0]) * 23.0) * 0.5 + 0.5
            iris = iris * (0.75 + 0.35 * share + 0.15 * spoke)
            rim = wp.smoothstep(0.72, 1.0, share)
            iris = iris * (1.0 - rim) + eye[2] * rim
            pupil = 1.0 - wp.smoothstep(eye[3][1] - blur, eye[3][1] + blur, share)
            iris = iris * (1.0 - pupil) + wp.vec3(0.004, 0.004, 0.004) * pupil
            outside = wp.smoothstep(1.0 - blur, 1.0 + blur, share)
            white = eye[0]
            # veins and the pink of the corners
            pink = wp.smoothstep(1.7, 3.0, share)
            white = wp.cw_mul(white, wp.vec3(1.0, 1.0 - 0.22 * pink, 1.0 - 0.25 * pink))
            base = iris * (1.0 - outside) + white * outside
            gloss = 0.9
            sharp = 220.0
            soft = wrap + 0.25
        if kind == 4:
            r = int(wp.floor(at[1] / 0.2 * float(cloth.shape[0])))
            c = int(wp.floor(at[0] / 0.2 * float(cloth.shape[1])))
            r = (r % cloth.shape[0] + cloth.shape[0]) % cloth.shape[0]
            c = (c % cloth.shape[1] + cloth.shape[1]) % cloth.shape[1]
            base = wp.cw_mul(base, cloth[r, c])
        if kind == 5:
            gloss = 0.12
            sharp = 25.0
        shaded = wp.vec3(0.0, 0.0, 0.0)
        sight = lit(shadow, shadow_frame, p, 0.006)
        for each in range(3):
            ray = towards[each]
            strength = float(1.0)
            if each == 0:
                strength = sight
            if kind == 2:
                cosine = wp.dot(n, ray)
                sine = wp.sqrt(wp.max(1.0 - cosine * cosine, 0.0))
                h = wp.normalize(ray + view)
                along = wp.dot(n, h) + 0.08 * (at[1] - 0.5)
                shine = wp.pow(wp.sqrt(wp.max(1.0 - along * along, 0.0)), 60.0)
                shaded += (
                    wp.cw_mul(lamp[each], base * (sine * 0.55 * air) + (base + wp.vec3(0.03, 0.03, 0.03)) * (0.35 * shine * air)) * strength
                )
            else:
                cosine = wp.dot(n, ray)
                diffuse = wp.max((cosine + soft) / (1.0 + soft), 0.0)
                term = wp.vec3(diffuse, diffuse, diffuse)
                if kind == 0:
                    # light that went through skin is red, and reaches round the edge of a shadow
                    term = wp.vec3(
                        wp.max((cosine + soft + 0.2) / (1.2 + soft), 0.0) * (0.25 + 0.75 * strength),
                        diffuse * (0.08 + 0.92 * strength),
                        diffuse * (0.04 + 0.96 * strength),
                    )
                    term = wp.cw_mul(term, wp.vec3(0.5 + 0.5 * air, 0.4 + 0.6 * air, 0.38 + 0.62 * air))
                    h = wp.normalize(ray + view)
                    extra += lamp[each] * (gloss * wp.pow(wp.max(wp.dot(n, h), 0.0), sharp) * strength * air)
                else:
                    term = term * (strength * (0.35 + 0.65 * air))
                    h = wp.normalize(ray + view)
                    extra += lamp[each] * (gloss * wp.pow(wp.max(wp.dot(n, h), 0.0), sharp) * (0.3 + 0.7 * strength) * air)
                shaded += wp.cw_mul(wp.cw_mul(base, term), lamp[each])
        up = 0.5 - 0.5 * n[1]
        if kind == 2:
            up = 0.6
        around = sky * up + ground * (1.0 - up)
        shaded += wp.cw_mul(base, around) * air
        if kind == 0 or kind == 3:
            edge_on = wp.pow(1.0 - wp.max(wp.dot(n, view), 0.0), 4.0)
            shaded += around * (0.12 * edge_on * air)
        picture[row, column] = shaded + extra

    return SimpleNamespace(turn=turn, cover=cover, shade=shade)
