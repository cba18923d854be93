"""A person ready to be drawn: one mesh of face, hair, glasses and clothes, and where it goes in a frame."""

from dataclasses import dataclass

import numpy as np

from . import raster
from .head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from .motion import Motion
from .person import Person
from .props import eye, eyeballs, fabric, glasses, grid, seam_height, teeth, torso
from .skin import texture, vertex_colours
from .strands import grow_beard, grow_brows, grow_hair

PIVOT = np.array([0.0, 0.075, -0.06], dtype=np.float32)
"""What a head turns about, in metres from the middle of the eyes."""
_DIRECTIONS = 26  # from which it is tested how open a place is
_OPEN_SIDE = 176


@dataclass(frozen=True)
class Pose:
    """Places of a frame.

    Attributes:
        skin: float32 [V, 3], the face in space: x right, y down, z away, in metres from the camera.
        props: float32 [P, 3].
        lines: float32 [N, K, 3] each, strands.
    """

    skin: np.ndarray
    props: np.ndarray
    lines: list[np.ndarray]


class Actor:
    """A person, made ready once for all of their clips.

    Args:
        head: the model.
        template: float32 [V, 3], the face on which places are known.
        person: who it is.
    """

    def __init__(self, head: Head, template: np.ndarray, person: Person) -> None:
        self.head, self.person = head, person
        self._rest = person.vertices
        self.balls = eyeballs(head, person.vertices)
        self._props = [eye(self.balls[0], "left"), eye(self.balls[1], "right"), *teeth(head, person.vertices, person)]
        self._props += [*torso(head, person.vertices, person), *glasses(head, person.vertices, person, self.balls)]
        self._strands = [
            each
            for each in (grow_hair(head, template, person), grow_brows(head, template, person), grow_beard(head, template, person))
            if each
        ]
        self._free = [_weights(each.roots.of(self._rest)[:, None] + each.offsets) for each in self._strands]
        self._turns = _weights(self._rest)
        chin = (
            (head.part == SKIN)
            & (np.abs(template[:, 0]) < 0.02)
            & (template[:, 2] < seam_height(head, template) - 0.02)
            & (template[:, 1] < 0.0)
        )
        jaw = head.actions[:, chin].mean(axis=1) * 0.92
        keep = np.array([name.startswith("jaw") for name in head.action_names])
        self._jaw = (jaw * keep[:, None]).astype(np.float32)
        self._actions = head.actions.reshape(len(head.actions), -1)
        self._lay_out(template)
        self.skin, self.cloth = texture(person), fabric(person)
        white = np.array([0.50, 0.47, 0.44]) * (1 - 0.12 * person.age)
        self.eye = np.stack([white, person.iris * 0.6, person.iris * 0.15, [0.44, person.pupil, 0.0]]).astype(np.float32)
        self.open = np.ones(len(self.colour), np.float32)
        self.open = self._openness()

    def _lay_out(self, template: np.ndarray) -> None:
        """Triangles, materials and colours of everything: skin, then props, then strands."""
        head = self.head
        face = head.part[head.triangles[:, 0]]
        skin = head.triangles[(face != LEFT_EYE) & (face != RIGHT_EYE)]
        wet = (face[(face != LEFT_EYE) & (face != RIGHT_EYE)] != SKIN) | (head.masks[1][skin].mean(axis=1) > 0.7)
        triangles, material = [skin], [np.where(wet, raster.MATTE, raster.SKIN)]
        place, colour = [template], [vertex_colours(head, template, self.person, self.balls)]
        at = len(template)
        for prop in self._props:
            triangles.append(prop.triangles + at)
            material.append(np.full(len(prop.triangles), prop.material))
            place.append(prop.place)
            colour.append(prop.colour)
            at += len(prop.vertices)
        self._solid = sum(map(len, triangles))
        for strand in self._strands:
            count, points = strand.offsets.shape[:2]
            ribbon = grid(points, 2)
            first = (np.arange(count) * 2 * points)[:, None, None]
            triangles.append((ribbon[None] + first).reshape(-1, 3) + at)
            material.append(np.full(len(triangles[-1]), raster.STRAND))
            share = np.broadcast_to(np.linspace(0, 1, points)[None, :], (count, points))
            look = np.stack([share, np.broadcast_to(strand.random[:, None], share.shape), 0 * share], axis=2)
            place.append(np.repeat(look.reshape(-1, 3), 2, axis=0))
            colour.append(np.repeat(strand.colour.reshape(-1, 3), 2, axis=0))
            at += 2 * count * points
        self.triangles = np.concatenate(triangles).astype(np.int32)
        self.material = np.concatenate(material).astype(np.int32)
        self.place = np.concatenate(place).astype(np.float32)
        self.colour = np.concatenate(colour).astype(np.float32)

    def face(self, actions: np.ndarray) -> np.ndarray:
        """float32 [V, 3]: the face at rest in the head's axes, with facial actions [A]."""
        return self._rest + (actions @ self._actions).reshape(-1, 3)

    def skin_in(self, motion: Motion, frame: int, distance: float, height: float) -> np.ndarray:
        """float32 [V, 3]: the face alone of `pose`."""
        place = _Place(rotation(motion.turn[frame]), motion.shift[frame], distance, height)
        return place(self.face(motion.actions[frame]), self._turns)

    def pose(self, motion: Motion, frame: int, distance: float, height: float) -> Pose:
        """Everything in its place in one frame."""
        actions, turn = motion.actions[frame], rotation(motion.turn[frame])
        face = self.face(actions)
        jaw = actions @ self._jaw
        moved = face - self._rest
        place = _Place(turn, motion.shift[frame], distance, height)
        props = []
        for prop in self._props:
            vertices = prop.vertices.astype(np.float32)
            if prop.follows in ("left", "right"):
                ball = self.balls[0 if prop.follows == "left" else 1]
                look = _axes(rotation(np.array([*motion.gaze[frame], 0.0])))
                vertices = (ball[:3] + (vertices - ball[:3]) @ look.T).astype(np.float32)
            elif prop.follows == "jaw":
                vertices = vertices + jaw
            props.append(place(vertices, 0.0 if prop.follows == "body" else 1.0))
        lines = []
        for strand, free in zip(self._strands, self._free, strict=True):
            roots = strand.roots.of(self._rest) + strand.roots.of(moved)
            lines.append(place(roots[:, None].astype(np.float32) + strand.offsets, free))
        return Pose(place(face, self._turns), np.concatenate(props), lines)

    def mesh(self, pose: Pose, focal: float, centre: tuple[float, float]) -> tuple[raster.Mesh, np.ndarray]:
        """What is drawn, and where its vertices are in space.

        Args:
            focal: samples a metre at a distance of one.
            centre: where the camera's axis is in the picture, in samples.
        """
        solid = np.concatenate([pose.skin, pose.props])
        normals = raster.smooth_normals(solid, self.triangles[: self._solid])
        screen = [_project(solid, focal, centre)]
        position, normal = [solid], [normals]
        for strand, line in zip(self._strands, pose.lines, strict=True):
            flat = _project(line, focal, centre)
            way = np.gradient(line, axis=1)
            way /= np.maximum(np.linalg.norm(way, axis=2, keepdims=True), 1e-9)
            half = np.maximum(strand.width * (focal / line[..., 2]), 0.3)
            screen.append(_ribbon(flat, half))
            position.append(np.repeat(line.reshape(-1, 3), 2, axis=0))
            normal.append(np.repeat(way.reshape(-1, 3), 2, axis=0))
        f = np.float32
        return raster.Mesh(
            np.concatenate(screen).astype(f),
            np.concatenate(normal).astype(f),
            self.place,
            self.colour,
            self.open,
            self.triangles,
            self.material,
        ), np.concatenate(position).astype(f)

    def shadow(self, pose: Pose, towards: np.ndarray, side: int = 160) -> raster.Shadow:
        """What the first lamp sees."""
        frame = light_frame(towards, pose.skin.mean(axis=0), 0.34, side)
        return raster.Shadow(raster.depths(self._seen_from(pose, frame), self.triangles, side), frame)

    def _seen_from(self, pose: Pose, frame: np.ndarray) -> np.ndarray:
        def see(points: np.ndarray) -> np.ndarray:
            return (points @ frame[:, :3].T + frame[:, 3]).astype(np.float32)

        scale = float(np.linalg.norm(frame[0, :3]))
        seen = [see(pose.skin), see(pose.props)]
        seen += [_ribbon(see(line), strand.width * scale) for strand, line in zip(self._strands, pose.lines, strict=True)]
        return np.concatenate(seen)

    def _openness(self) -> np.ndarray:
        """float32: how much of what is around each vertex is free, at rest with the mouth a little open."""
        actions = np.zeros((1, len(self.head.actions)), np.float32)
        actions[0, self.head.action["jawOpen"]] = 0.3
        still = np.zeros((1, 3), np.float32)
        pose = self.pose(Motion(still, still, actions, still[:, :2]), 0, 1.0, 0.0)
        mesh, position = self.mesh(pose, 1.0, (0.0, 0.0))
        index = np.arange(_DIRECTIONS) + 0.5
        polar, turn = np.arccos(1 - 2 * index / _DIRECTIONS), np.pi * (1 + 5**0.5) * index
        directions = np.stack([np.sin(polar) * np.cos(turn), np.cos(polar), np.sin(polar) * np.sin(turn)], axis=1)
        strand = np.zeros(len(position), bool)
        strand[len(pose.skin) + len(pose.props) :] = True
        seen, total = np.zeros((2, len(position))), np.zeros((2, len(position)))
        for towards in directions:
            frame = light_frame(towards, pose.skin.mean(axis=0), 0.34, _OPEN_SIDE)
            at = self._seen_from(pose, frame)
            depth = raster.depths(at, self.triangles, _OPEN_SIDE)
            cells = np.clip(at[:, :2].astype(int), 0, _OPEN_SIDE - 1)
            free = depth[cells[:, 1], cells[:, 0]] > at[:, 2] - 0.0035
            above = 0.75 - 0.25 * towards[1]
            for side, sign in enumerate((1, -1)):  # a prop's triangles may be turned either way
                weight = above * np.where(strand, 1.0, np.maximum(sign * (mesh.normal @ towards), 0))
                seen[side] += weight * free
                total[side] += weight
        opened = (seen / np.maximum(total, 1e-6)).clip(0, 1)
        opened = np.concatenate([opened[0, : len(pose.skin)], opened[:, len(pose.skin) :].max(axis=0)])
        opened = np.where(strand, 0.25 + 0.85 * opened, opened)
        # the end of the neck is inside the body's, glasses are thin, and teeth are seen when the mouth is open wider than here
        least = np.zeros(len(opened))
        least[: len(pose.skin)] = np.clip((-0.095 - self._rest[:, 2]) / 0.03, 0, 1) * 0.8 * (self._rest[:, 1] > 0.0)
        least[len(pose.skin) : len(pose.skin) + len(pose.props)] = np.concatenate(
            [np.full(len(prop.vertices), prop.least) for prop in self._props]
        )
        return np.maximum(opened, least).clip(0, 1).astype(np.float32)


class _Place:
    """From the head's axes into space."""

    def __init__(self, turn: np.ndarray, shift: np.ndarray, distance: float, height: float) -> None:
        self._turn, self._shift = _axes(turn).astype(np.float32), shift.astype(np.float32)
        tilt = np.arctan2(height, distance)
        self._tilt = rotation(np.array([0.0, np.degrees(-tilt), 0.0])).astype(np.float32)
        self._distance = np.float32(distance)

    def __call__(self, points: np.ndarray, free: np.ndarray | float) -> np.ndarray:
        turned = (points - PIVOT) @ self._turn.T + PIVOT
        share = np.asarray(free, np.float32)[..., None]
        points = points + (turned - points) * share
        space = np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1) + self._shift * (0.25 + 0.75 * share)
        space = space @ self._tilt.T
        space[..., 2] += self._distance
        return space


def rotation(degrees: np.ndarray) -> np.ndarray:
    """float64 [3, 3] in space (x right, y down, z away) of yaw to the right, pitch down and roll clockwise."""
    yaw, pitch, roll = np.radians(np.asarray(degrees, np.float64))
    c, s = np.cos, np.sin
    turn = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    nod = np.array([[1, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    lean = np.array([[c(roll), -s(roll), 0], [s(roll), c(roll), 0], [0, 0, 1]])
    return np.asarray(lean @ turn @ nod)


def _axes(space: np.ndarray) -> np.ndarray:
    """A rotation in space as one in the head's axes (x, z up, y backwards)."""
    swap = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return np.asarray(swap.T @ space @ swap)


def light_frame(towards: np.ndarray, middle: np.ndarray, width: float, side: int) -> np.ndarray:
    """float32 [3, 4]: place in space -> sample x, y, and depth along the light."""
    way = -towards / np.linalg.norm(towards)
    one = np.cross(way, [0.0, 1.0, 0.0] if abs(way[1]) < 0.9 else [1.0, 0.0, 0.0])
    one /= np.linalg.norm(one)
    axes = np.stack([one * side / width, np.cross(way, one) * side / width, way])
    shift = np.array([side / 2, side / 2, 1.0]) - axes @ middle
    return np.concatenate([axes, shift[:, None]], axis=1).astype(np.float32)


def _weights(points: np.ndarray) -> np.ndarray:
    """float32 [...]: how far points [..., 3] turn with the head: 1 the face, 0 the end of the neck, long hair in between."""
    height = points[..., 2] + 0.9 * np.clip(0.03 - points[..., 1], 0, 0.04)
    share = np.clip((height + 0.145) / 0.055, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _project(points: np.ndarray, focal: float, centre: tuple[float, float]) -> np.ndarray:
    scale = focal / points[..., 2]
    return np.stack([points[..., 0] * scale + centre[0], points[..., 1] * scale + centre[1], points[..., 2]], axis=-1)


def _ribbon(flat: np.ndarray, half: np.ndarray) -> np.ndarray:
    """[N * K * 2, 3]: the two edges of lines [N, K, 3] in a picture, `half` [N, K] to either side."""
    way = np.gradient(flat[..., :2], axis=1)
    way /= np.maximum(np.linalg.norm(way, axis=2, keepdims=True), 1e-6)
    aside = np.stack([-way[..., 1], way[..., 0]], axis=2) * half[..., None]
    edges = np.stack([flat, flat], axis=2)
    edges[:, :, 0, :2] += aside
    edges[:, :, 1, :2] -= aside
    return edges.reshape(-1, 3).astype(np.float32)
