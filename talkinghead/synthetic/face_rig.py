"""Rig of a person: one mesh of face, hair, glasses and clothes, and its pose in a frame."""

from dataclasses import dataclass

import numpy as np

from . import materials, rasterizer
from .accessories import (
    IRIS_ANGLE,
    build_eye,
    build_glasses,
    build_teeth,
    iris_points,
    lip_seam_height,
    locate_eyeballs,
)
from .appearance import Appearance
from .clothing import build_torso, cloth_texture
from .facial_hair import grow_beard, grow_brows
from .hair import grow_hair
from .head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from .mesh_part import grid_triangles
from .motion import Motion
from .skin import skin_texture, vertex_colours

PIVOT = np.array([0.0, 0.075, -0.06], dtype=np.float32)
"""Point about which a head rotates, in metres from the middle between the eyes."""
_OCCLUSION_DIRECTIONS = 26  # from which the openness of a vertex is tested
_OCCLUSION_SIDE = 176  # samples per row of these depth images
_LIGHT_WIDTH_M = 0.34  # width that a depth image covers


@dataclass(frozen=True)
class Pose:
    """Vertices in space in one frame: x right, y down, z away, in metres from the camera.

    Attributes:
        skin: float32 [V, 3], the face.
        parts: float32 [P, 3], the other parts.
        strands: float32 [N, K, 3] each, lines of the strands.
    """

    skin: np.ndarray
    parts: np.ndarray
    strands: list[np.ndarray]


class FaceRig:
    """Mesh of a person, built once for all their clips.

    Args:
        head: the head model.
        template: float32 [V, 3], the face on which regions and points are defined.
        appearance: the person.

    Attributes:
        textures: textures of the person, for the rasterizer.
    """

    def __init__(self, head: Head, template: np.ndarray, appearance: Appearance) -> None:
        self.head, self.appearance = head, appearance
        self._rest = appearance.vertices
        self._balls = locate_eyeballs(head, appearance.vertices)
        self._parts = [
            build_eye(self._balls[0], "left"),
            build_eye(self._balls[1], "right"),
            *build_teeth(head, appearance.vertices, appearance),
            *build_torso(head, appearance.vertices, appearance),
            *build_glasses(head, appearance.vertices, appearance, self._balls),
        ]
        growers = (grow_hair, grow_brows, grow_beard)
        self._strands = [
            strands for grow in growers if (strands := grow(head, template, appearance)) is not None
        ]
        self._strand_shares = [
            _rotation_shares(strands.roots.interpolate(self._rest)[:, None] + strands.offsets)
            for strands in self._strands
        ]
        self._skin_shares = _rotation_shares(self._rest)
        self._jaw = _jaw_motion(head, template)
        self._actions = head.actions.reshape(len(head.actions), -1)
        self._build_topology(template)
        self.textures = rasterizer.Textures(
            skin=skin_texture(appearance), cloth=cloth_texture(appearance), eye=_eye_colours(appearance)
        )
        self._openness = np.ones(len(self._colour), np.float32)
        self._openness = self._compute_openness()

    def _build_topology(self, template: np.ndarray) -> None:
        """Set triangles, materials, lookups and colours: of the skin, then parts, then strands."""
        head = self.head
        face = head.part[head.triangles[:, 0]]
        is_skin = (face != LEFT_EYE) & (face != RIGHT_EYE)
        skin = head.triangles[is_skin]
        is_wet = (face[is_skin] != SKIN) | (head.masks[1][skin].mean(axis=1) > 0.7)
        triangles, material = [skin], [np.where(is_wet, materials.MATTE, materials.SKIN)]
        lookup, colour = [template], [vertex_colours(head, template, self.appearance, self._balls)]
        vertex_count = len(template)
        for part in self._parts:
            triangles.append(part.triangles + vertex_count)
            material.append(np.full(len(part.triangles), part.material))
            lookup.append(part.lookup)
            colour.append(part.colour)
            vertex_count += len(part.vertices)
        self._solid_triangle_count = sum(map(len, triangles))
        for strands in self._strands:
            count, points = strands.offsets.shape[:2]
            ribbon = grid_triangles(points, 2)
            first = (np.arange(count) * 2 * points)[:, None, None]
            triangles.append((ribbon[None] + first).reshape(-1, 3) + vertex_count)
            material.append(np.full(len(triangles[-1]), materials.STRAND))
            along = np.broadcast_to(np.linspace(0, 1, points)[None, :], (count, points))
            random = np.broadcast_to(strands.random[:, None], along.shape)
            coordinates = np.stack([along, random, 0 * along], axis=2)
            lookup.append(np.repeat(coordinates.reshape(-1, 3), 2, axis=0))
            colour.append(np.repeat(strands.colour.reshape(-1, 3), 2, axis=0))
            vertex_count += 2 * count * points
        self._triangles = np.concatenate(triangles).astype(np.int32)
        self._material = np.concatenate(material).astype(np.int32)
        self._lookup = np.concatenate(lookup).astype(np.float32)
        self._colour = np.concatenate(colour).astype(np.float32)

    def face(self, actions: np.ndarray) -> np.ndarray:
        """Return the face in the axes of the head with facial actions [A], float32 [V, 3]."""
        return self._rest + (actions @ self._actions).reshape(-1, 3)

    def pose_skin(self, motion: Motion, frame: int, distance: float, height: float) -> np.ndarray:
        """Return the skin of `pose`, without the other parts, float32 [V, 3]."""
        transform = _HeadTransform(rotation(motion.turn[frame]), motion.shift[frame], distance, height)
        return transform.apply(self.face(motion.actions[frame]), self._skin_shares)

    def pose_irises(self, motion: Motion, frame: int, distance: float, height: float) -> np.ndarray:
        """Return the irises of `pose` in space, float32 [2, 5, 3], see `talkinghead.Track`."""
        transform = _HeadTransform(rotation(motion.turn[frame]), motion.shift[frame], distance, height)
        # landmarks 36 to 41 are those of the right eye of the head
        irises = [_turn_eye(iris_points(ball), ball, motion.gaze[frame]) for ball in self._balls[::-1]]
        return transform.apply(np.stack(irises), 1.0)

    def pose(self, motion: Motion, frame: int, distance: float, height: float) -> Pose:
        """Return all vertices in one frame.

        Args:
            motion: the motion of the head.
            frame: index of the frame.
            distance: distance of the camera from the eyes in metres.
            height: height of the camera above the eyes in metres.
        """
        actions = motion.actions[frame]
        face = self.face(actions)
        jaw = actions @ self._jaw
        displacement = face - self._rest
        transform = _HeadTransform(rotation(motion.turn[frame]), motion.shift[frame], distance, height)
        parts = []
        for part in self._parts:
            vertices = part.vertices.astype(np.float32)
            if part.follows in ("left", "right"):
                ball = self._balls[0 if part.follows == "left" else 1]
                vertices = _turn_eye(vertices, ball, motion.gaze[frame])
            elif part.follows == "jaw":
                vertices = vertices + jaw
            parts.append(transform.apply(vertices, 0.0 if part.follows == "body" else 1.0))
        lines = []
        for strands, share in zip(self._strands, self._strand_shares, strict=True):
            roots = strands.roots.interpolate(self._rest) + strands.roots.interpolate(displacement)
            lines.append(transform.apply(roots[:, None].astype(np.float32) + strands.offsets, share))
        return Pose(transform.apply(face, self._skin_shares), np.concatenate(parts), lines)

    def build_mesh(
        self, pose: Pose, focal: float, centre: tuple[float, float]
    ) -> tuple[rasterizer.Mesh, np.ndarray]:
        """Return the mesh to render, and its vertices in space, float32 [V, 3].

        Args:
            pose: the vertices of the frame.
            focal: focal length in samples.
            centre: principal point in samples.
        """
        solid = np.concatenate([pose.skin, pose.parts])
        normals = rasterizer.smooth_normals(solid, self._triangles[: self._solid_triangle_count])
        screen = [_project(solid, focal, centre)]
        position, normal = [solid], [normals]
        for strands, line in zip(self._strands, pose.strands, strict=True):
            flat = _project(line, focal, centre)
            direction = np.gradient(line, axis=1)
            direction /= np.maximum(np.linalg.norm(direction, axis=2, keepdims=True), 1e-9)
            half = np.maximum(strands.width * (focal / line[..., 2]), 0.3)
            screen.append(_ribbon(flat, half))
            position.append(np.repeat(line.reshape(-1, 3), 2, axis=0))
            normal.append(np.repeat(direction.reshape(-1, 3), 2, axis=0))
        mesh = rasterizer.Mesh(
            screen=np.concatenate(screen).astype(np.float32),
            normal=np.concatenate(normal).astype(np.float32),
            lookup=self._lookup,
            colour=self._colour,
            openness=self._openness,
            triangles=self._triangles,
            material=self._material,
        )
        return mesh, np.concatenate(position).astype(np.float32)

    def render_shadow(self, pose: Pose, towards: np.ndarray, side: int = 160) -> rasterizer.Shadow:
        """Return the shadow map of a lamp in direction `towards` [3]."""
        frame = _light_frame(towards, pose.skin.mean(axis=0), _LIGHT_WIDTH_M, side)
        screen = self._project_along_light(pose, frame)
        return rasterizer.Shadow(rasterizer.render_depth(screen, self._triangles, side), frame)

    def _project_along_light(self, pose: Pose, frame: np.ndarray) -> np.ndarray:
        """Return all vertices in the depth image of a light frame [3, 4], float32 [V, 3]."""

        def project(points: np.ndarray) -> np.ndarray:
            return (points @ frame[:, :3].T + frame[:, 3]).astype(np.float32)

        scale = float(np.linalg.norm(frame[0, :3]))
        ribbons = [
            _ribbon(project(line), strands.width * scale)
            for strands, line in zip(self._strands, pose.strands, strict=True)
        ]
        return np.concatenate([project(pose.skin), project(pose.parts), *ribbons])

    def _compute_openness(self) -> np.ndarray:
        """Return the share of the surroundings that is visible from each vertex, float32 [V].

        The face is at rest, with the mouth slightly open.
        """
        actions = np.zeros((1, len(self.head.actions)), np.float32)
        actions[0, self.head.action["jawOpen"]] = 0.3
        still = np.zeros((1, 3), np.float32)
        pose = self.pose(Motion(still, still, actions, still[:, :2]), 0, 1.0, 0.0)
        mesh, position = self.build_mesh(pose, 1.0, (0.0, 0.0))
        skin_count, solid_count = len(pose.skin), len(pose.skin) + len(pose.parts)
        is_strand = np.arange(len(position)) >= solid_count
        visible, total = np.zeros((2, len(position))), np.zeros((2, len(position)))
        for towards in _sphere_directions(_OCCLUSION_DIRECTIONS):
            frame = _light_frame(towards, pose.skin.mean(axis=0), _LIGHT_WIDTH_M, _OCCLUSION_SIDE)
            screen = self._project_along_light(pose, frame)
            depth = rasterizer.render_depth(screen, self._triangles, _OCCLUSION_SIDE)
            cells = np.clip(screen[:, :2].astype(int), 0, _OCCLUSION_SIDE - 1)
            is_visible = depth[cells[:, 1], cells[:, 0]] > screen[:, 2] - 0.0035
            above = 0.75 - 0.25 * towards[1]
            for side, sign in enumerate((1, -1)):  # triangles of parts may have either orientation
                weight = above * np.where(is_strand, 1.0, np.maximum(sign * (mesh.normal @ towards), 0))
                visible[side] += weight * is_visible
                total[side] += weight
        openness = (visible / np.maximum(total, 1e-6)).clip(0, 1)
        openness = np.concatenate([openness[0, :skin_count], openness[:, skin_count:].max(axis=0)])
        openness = np.where(is_strand, 0.25 + 0.85 * openness, openness)
        return np.maximum(openness, self._min_openness(len(openness))).clip(0, 1).astype(np.float32)

    def _min_openness(self, count: int) -> np.ndarray:
        """Return lower bounds of the openness of all vertices, float64 [count].

        The end of the neck lies inside that of the body, glasses are thin, and teeth are visible when the
        mouth is open wider than at rest.
        """
        skin_count = len(self._rest)
        bounds = np.zeros(count)
        bounds[:skin_count] = (
            np.clip((-0.095 - self._rest[:, 2]) / 0.03, 0, 1) * 0.8 * (self._rest[:, 1] > 0.0)
        )
        parts = np.concatenate([np.full(len(part.vertices), part.min_openness) for part in self._parts])
        bounds[skin_count : skin_count + len(parts)] = parts
        return bounds


class _HeadTransform:
    """Transform from the axes of the head into space."""

    def __init__(self, turn: np.ndarray, shift: np.ndarray, distance: float, height: float) -> None:
        self._turn, self._shift = _to_head_axes(turn).astype(np.float32), shift.astype(np.float32)
        tilt = np.arctan2(height, distance)
        self._tilt = rotation(np.array([0.0, np.degrees(-tilt), 0.0])).astype(np.float32)
        self._distance = np.float32(distance)

    def apply(self, points: np.ndarray, rotation_share: np.ndarray | float) -> np.ndarray:
        """Return points [..., 3] in space; a share [...] says how far each follows the rotation."""
        turned = (points - PIVOT) @ self._turn.T + PIVOT
        share = np.asarray(rotation_share, np.float32)[..., None]
        points = points + (turned - points) * share
        space = np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1) + self._shift * (
            0.25 + 0.75 * share
        )
        space = space @ self._tilt.T
        space[..., 2] += self._distance
        return space


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Return the rotation in space (x right, y down, z away), float64 [3, 3].

    Args:
        degrees: [3], yaw to the right, pitch down and roll clockwise.
    """
    yaw, pitch, roll = np.radians(np.asarray(degrees, np.float64))
    c, s = np.cos, np.sin
    yaw_matrix = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    pitch_matrix = np.array([[1, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    roll_matrix = np.array([[c(roll), -s(roll), 0], [s(roll), c(roll), 0], [0, 0, 1]])
    return np.asarray(roll_matrix @ yaw_matrix @ pitch_matrix)


def _to_head_axes(space: np.ndarray) -> np.ndarray:
    """Return a rotation in space [3, 3] as one in the axes of the head (x, y backwards, z up)."""
    swap = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return np.asarray(swap.T @ space @ swap)


def _turn_eye(points: np.ndarray, ball: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """Return points [N, 3] of an eyeball [4] that looks in a direction [2] in degrees, float32 [N, 3]."""
    turn = _to_head_axes(rotation(np.array([*gaze, 0.0])))
    return np.asarray(ball[:3] + (points - ball[:3]) @ turn.T, dtype=np.float32)


def _jaw_motion(head: Head, template: np.ndarray) -> np.ndarray:
    """Return how far each facial action moves the lower teeth with the jaw, float32 [A, 3] in metres."""
    chin = (
        (head.part == SKIN)
        & (np.abs(template[:, 0]) < 0.02)
        & (template[:, 2] < lip_seam_height(head, template) - 0.02)
        & (template[:, 1] < 0.0)
    )
    motion = head.actions[:, chin].mean(axis=1) * 0.92
    is_jaw_action = np.array([name.startswith("jaw") for name in head.action_names])
    return (motion * is_jaw_action[:, None]).astype(np.float32)


def _eye_colours(appearance: Appearance) -> np.ndarray:
    """Return the eye texture, float32 [4, 3], see `rasterizer.Textures`."""
    white = np.array([0.50, 0.47, 0.44]) * (1 - 0.12 * appearance.age)
    angles = np.array([IRIS_ANGLE, appearance.pupil, 0.0])
    return np.stack([white, appearance.iris * 0.6, appearance.iris * 0.15, angles]).astype(np.float32)


def _sphere_directions(count: int) -> np.ndarray:
    """Return unit vectors spread evenly over the sphere, float64 [count, 3]."""
    index = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * index / count), np.pi * (1 + 5**0.5) * index
    return np.stack([np.sin(polar) * np.cos(turn), np.cos(polar), np.sin(polar) * np.sin(turn)], axis=1)


def _light_frame(towards: np.ndarray, middle: np.ndarray, width: float, side: int) -> np.ndarray:
    """Return the frame of a depth image along a light, float32 [3, 4].

    Args:
        towards: [3], direction to the light.
        middle: [3], point in space at the centre of the image.
        width: width in metres that the image covers.
        side: samples per row.
    """
    along = -towards / np.linalg.norm(towards)
    across = np.cross(along, [0.0, 1.0, 0.0] if abs(along[1]) < 0.9 else [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    axes = np.stack([across * side / width, np.cross(along, across) * side / width, along])
    shift = np.array([side / 2, side / 2, 1.0]) - axes @ middle
    return np.concatenate([axes, shift[:, None]], axis=1).astype(np.float32)


def _rotation_shares(points: np.ndarray) -> np.ndarray:
    """Return how far points [..., 3] follow the rotation of the head, float32 [...].

    The face has 1, the end of the neck 0, long hair lies in between.
    """
    height = points[..., 2] + 0.9 * np.clip(0.03 - points[..., 1], 0, 0.04)
    share = np.clip((height + 0.145) / 0.055, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _project(points: np.ndarray, focal: float, centre: tuple[float, float]) -> np.ndarray:
    """Return points in space [..., 3] as x and y in samples and depth in metres."""
    scale = focal / points[..., 2]
    return np.stack(
        [points[..., 0] * scale + centre[0], points[..., 1] * scale + centre[1], points[..., 2]], axis=-1
    )


def _ribbon(flat: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return both edges, float32 [N * K * 2, 3], of lines [N, K, 3] of half widths [N, K]."""
    direction = np.gradient(flat[..., :2], axis=1)
    direction /= np.maximum(np.linalg.norm(direction, axis=2, keepdims=True), 1e-6)
    aside = np.stack([-direction[..., 1], direction[..., 0]], axis=2) * half[..., None]
    edges = np.stack([flat, flat], axis=2)
    edges[:, :, 0, :2] += aside
    edges[:, :, 1, :2] -= aside
    return edges.reshape(-1, 3).astype(np.float32)
