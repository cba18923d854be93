# mypy: disable-error-code="valid-type,name-defined,no-untyped-def"
# ruff: noqa: UP018, SIM108 - Warp recognizes a variable that changes by its float()
"""Warp kernels of the rasterizer.

Importing this module opens Warp, so import it only inside functions. Warp compiles the kernels at their first
use (seconds) and keeps them in its own cache. Threads of a kernel run one after the other on a CPU, so two
runs are bit-equal.
"""

from typing import Any

from .materials import CLOTH, EYE, GLOSS, MATTE, SKIN, STRAND
from .warp_runtime import open_warp

wp: Any = open_warp()
wp.set_module_options({"enable_backward": False, "fast_math": False})
EMPTY = 9223372036854775807
"""Value of a sample that no triangle covers, the largest int64."""


@wp.func
def edge_function(a: wp.vec3, b: wp.vec3, x: float, y: float) -> float:
    """Return twice the signed area of the triangle a, b, (x, y)."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.kernel
def add_normals(
    vertices: wp.array(dtype=wp.vec3),
    triangles: wp.array2d(dtype=wp.int32),
    normals: wp.array(dtype=wp.vec3),
):
    """Add the normal of each triangle, weighted by its area, to its vertices."""
    t = wp.tid()
    i = triangles[t, 0]
    j = triangles[t, 1]
    k = triangles[t, 2]
    n = wp.cross(vertices[j] - vertices[i], vertices[k] - vertices[i])
    wp.atomic_add(normals, i, n)
    wp.atomic_add(normals, j, n)
    wp.atomic_add(normals, k, n)


@wp.kernel
def find_nearest(
    screen: wp.array(dtype=wp.vec3),
    triangles: wp.array2d(dtype=wp.int32),
    front: wp.array2d(dtype=wp.int64),
):
    """Keep the nearest triangle of each sample, as one integer of depth in micrometres and triangle index."""
    t = wp.tid()
    a = screen[triangles[t, 0]]
    b = screen[triangles[t, 1]]
    c = screen[triangles[t, 2]]
    area = edge_function(a, b, c[0], c[1])
    if wp.abs(area) < 1.0e-6:
        return
    rows = front.shape[0]
    columns = front.shape[1]
    left = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])) - 0.5)), 0)
    right = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])) - 0.5)), columns - 1)
    top = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])) - 0.5)), 0)
    bottom = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])) - 0.5)), rows - 1)
    # Thin ribbons across an image fill little of their box, so compute the covered span of each row.
    ux = -(c[1] - b[1]) / area
    vx = -(a[1] - c[1]) / area
    wx = -(b[1] - a[1]) / area
    for row in range(top, bottom + 1):
        y = float(row) + 0.5
        u0 = edge_function(b, c, 0.0, y) / area
        v0 = edge_function(c, a, 0.0, y) / area
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
def sample_bilinear(texture: wp.array2d(dtype=wp.vec4), x: float, y: float) -> wp.vec4:
    """Return a texel of a texture that repeats sideways."""
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
def shadow_visibility(
    depth: wp.array2d(dtype=float), frame: wp.array2d(dtype=float), p: wp.vec3, bias: float
) -> float:
    """Return the share of 5x5 shadow samples around a point that the light reaches."""
    x = frame[0, 0] * p[0] + frame[0, 1] * p[1] + frame[0, 2] * p[2] + frame[0, 3]
    y = frame[1, 0] * p[0] + frame[1, 1] * p[1] + frame[1, 2] * p[2] + frame[1, 3]
    z = frame[2, 0] * p[0] + frame[2, 1] * p[1] + frame[2, 2] * p[2] + frame[2, 3]
    rows = depth.shape[0]
    columns = depth.shape[1]
    visible = float(0.0)
    total = float(0.0)
    for i in range(-2, 3):
        for j in range(-2, 3):
            r = int(wp.floor(y)) + i
            c = int(wp.floor(x)) + j
            total += 1.0
            inside = r >= 0 and c >= 0 and r < rows and c < columns
            if not inside or depth[wp.clamp(r, 0, rows - 1), wp.clamp(c, 0, columns - 1)] > z - bias:
                visible += 1.0
    return visible / total


@wp.func
def eye_colour(lookup: wp.vec3, eye: wp.array(dtype=wp.vec3)) -> wp.vec3:
    """Return the colour of an eyeball at a direction from its centre; the pupil looks along -y."""
    axis = wp.normalize(lookup)
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
    return iris * (1.0 - outside) + white * outside


@wp.func
def skin_texel(lookup: wp.vec3, skin: wp.array2d(dtype=wp.vec4)) -> wp.vec4:
    """Return colour factors and gloss of the skin at a point of the template."""
    turned = wp.atan2(lookup[0], -(lookup[1] - 0.06)) / 6.2831853 + 0.5
    high = (0.12 - lookup[2]) / 0.28
    return sample_bilinear(skin, turned * float(skin.shape[1]) - 0.5, high * float(skin.shape[0]) - 0.5)


@wp.func
def cloth_texel(lookup: wp.vec3, cloth: wp.array2d(dtype=wp.vec3)) -> wp.vec3:
    """Return colour factors of cloth at two lengths in metres; the pattern repeats every 0.2 m."""
    r = int(wp.floor(lookup[1] / 0.2 * float(cloth.shape[0])))
    c = int(wp.floor(lookup[0] / 0.2 * float(cloth.shape[1])))
    r = (r % cloth.shape[0] + cloth.shape[0]) % cloth.shape[0]
    c = (c % cloth.shape[1] + cloth.shape[1]) % cloth.shape[1]
    return cloth[r, c]


@wp.struct
class Surface:
    """Surface at a sample: what its material and its position say about reflected light."""

    kind: wp.int32
    normal: wp.vec3
    view: wp.vec3
    base: wp.vec3
    gloss: float
    sharpness: float
    softness: float
    open_share: float
    along: float


@wp.func
def evaluate_material(
    surface: Surface,
    lookup: wp.vec3,
    skin: wp.array2d(dtype=wp.vec4),
    cloth: wp.array2d(dtype=wp.vec3),
    eye: wp.array(dtype=wp.vec3),
    wrap: float,
) -> Surface:
    """Return the surface with the colour, gloss and softness of its material."""
    surface.gloss = 0.0
    surface.sharpness = 20.0
    surface.softness = wrap
    if surface.kind == SKIN:
        texel = skin_texel(lookup, skin)
        surface.base = wp.cw_mul(surface.base, wp.vec3(texel[0], texel[1], texel[2]))
        surface.gloss = texel[3]
        surface.sharpness = 14.0
        surface.softness = wrap + 0.15
    if surface.kind == MATTE:
        surface.gloss = 0.25
        surface.sharpness = 40.0
    if surface.kind == EYE:
        surface.base = eye_colour(lookup, eye)
        surface.gloss = 0.9
        surface.sharpness = 220.0
        surface.softness = wrap + 0.25
    if surface.kind == CLOTH:
        surface.base = wp.cw_mul(surface.base, cloth_texel(lookup, cloth))
    if surface.kind == GLOSS:
        surface.gloss = 0.12
        surface.sharpness = 25.0
    return surface


@wp.func
def hair_light(surface: Surface, ray: wp.vec3, lamp: wp.vec3) -> wp.vec3:
    """Return the light of a lamp that a strand reflects (Kajiya and Kay); its normal is its direction."""
    air = surface.open_share
    cosine = wp.dot(surface.normal, ray)
    sine = wp.sqrt(wp.max(1.0 - cosine * cosine, 0.0))
    half_way = wp.normalize(ray + surface.view)
    tilt = wp.dot(surface.normal, half_way) + 0.08 * (surface.along - 0.5)
    shine = wp.pow(wp.sqrt(wp.max(1.0 - tilt * tilt, 0.0)), 60.0)
    return wp.cw_mul(
        lamp,
        surface.base * (sine * 0.55 * air)
        + (surface.base + wp.vec3(0.03, 0.03, 0.03)) * (0.35 * shine * air),
    )


@wp.func
def diffuse_factor(surface: Surface, ray: wp.vec3, strength: float) -> wp.vec3:
    """Return the share of a lamp's light that a surface other than hair reflects diffusely."""
    air = surface.open_share
    soft = surface.softness
    cosine = wp.dot(surface.normal, ray)
    diffuse = wp.max((cosine + soft) / (1.0 + soft), 0.0)
    term = wp.vec3(diffuse, diffuse, diffuse)
    if surface.kind == SKIN:
        # Light that passed through skin is red and reaches around the edge of a shadow.
        term = wp.vec3(
            wp.max((cosine + soft + 0.2) / (1.2 + soft), 0.0) * (0.25 + 0.75 * strength),
            diffuse * (0.08 + 0.92 * strength),
            diffuse * (0.04 + 0.96 * strength),
        )
        term = wp.cw_mul(term, wp.vec3(0.5 + 0.5 * air, 0.4 + 0.6 * air, 0.38 + 0.62 * air))
    else:
        term = term * (strength * (0.35 + 0.65 * air))
    return term


@wp.func
def highlight(surface: Surface, ray: wp.vec3, strength: float) -> float:
    """Return the share of a lamp's light that a surface other than hair reflects as a highlight."""
    air = surface.open_share
    half_way = wp.normalize(ray + surface.view)
    shine = surface.gloss * wp.pow(wp.max(wp.dot(surface.normal, half_way), 0.0), surface.sharpness)
    factor = float(0.0)
    if surface.kind == SKIN:
        factor = shine * strength * air
    else:
        factor = shine * (0.3 + 0.7 * strength) * air
    return factor


@wp.func
def ambient_light(surface: Surface, sky: wp.vec3, ground: wp.vec3) -> wp.vec3:
    """Return the light from above and below at a surface."""
    up = 0.5 - 0.5 * surface.normal[1]
    if surface.kind == STRAND:
        up = 0.6
    return sky * up + ground * (1.0 - up)


@wp.func
def reflect_lamps(
    surface: Surface, towards: wp.array(dtype=wp.vec3), lamp: wp.array(dtype=wp.vec3), visibility: float
):
    """Return the diffuse and the specular light of the lamps; `visibility` is that of the first lamp."""
    diffuse = wp.vec3(0.0, 0.0, 0.0)
    specular = wp.vec3(0.0, 0.0, 0.0)
    for number in range(3):
        ray = towards[number]
        strength = float(1.0)
        if number == 0:
            strength = visibility
        if surface.kind == STRAND:
            diffuse += hair_light(surface, ray, lamp[number]) * strength
        else:
            specular += lamp[number] * highlight(surface, ray, strength)
            diffuse += wp.cw_mul(
                wp.cw_mul(surface.base, diffuse_factor(surface, ray, strength)), lamp[number]
            )
    return diffuse, specular


@wp.kernel
def shade(
    front: wp.array2d(dtype=wp.int64),
    screen: wp.array(dtype=wp.vec3),
    position: wp.array(dtype=wp.vec3),
    normal: wp.array(dtype=wp.vec3),
    lookup: wp.array(dtype=wp.vec3),
    colour: wp.array(dtype=wp.vec3),
    openness: wp.array(dtype=float),
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
    image: wp.array2d(dtype=wp.vec3),
):
    """Compute the colour of each covered sample."""
    row, column = wp.tid()
    key = front[row, column]
    if key == wp.int64(EMPTY):
        return
    t = int(key & wp.int64(4294967295))
    i = triangles[t, 0]
    j = triangles[t, 1]
    k = triangles[t, 2]
    x = float(column) + 0.5
    y = float(row) + 0.5
    area = edge_function(screen[i], screen[j], screen[k][0], screen[k][1])
    u = edge_function(screen[j], screen[k], x, y) / area
    v = edge_function(screen[k], screen[i], x, y) / area
    w = 1.0 - u - v
    p = position[i] * u + position[j] * v + position[k] * w
    surface = Surface()
    surface.kind = material[t]
    surface.normal = wp.normalize(normal[i] * u + normal[j] * v + normal[k] * w)
    place = lookup[i] * u + lookup[j] * v + lookup[k] * w
    surface.base = colour[i] * u + colour[j] * v + colour[k] * w
    surface.open_share = openness[i] * u + openness[j] * v + openness[k] * w
    surface.view = wp.normalize(-p)
    if surface.kind != STRAND and wp.dot(surface.normal, surface.view) < 0.0:
        surface.normal = -surface.normal
    surface.along = place[1]
    surface = evaluate_material(surface, place, skin=skin, cloth=cloth, eye=eye, wrap=wrap)
    visibility = shadow_visibility(shadow, shadow_frame, p, 0.006)
    diffuse, specular = reflect_lamps(surface, towards, lamp, visibility)
    around = ambient_light(surface, sky, ground)
    diffuse += wp.cw_mul(surface.base, around) * surface.open_share
    if surface.kind == SKIN or surface.kind == EYE:
        edge_on = wp.pow(1.0 - wp.max(wp.dot(surface.normal, surface.view), 0.0), 4.0)
        diffuse += around * (0.12 * edge_on * surface.open_share)
    image[row, column] = diffuse + specular
