"""The expression of a portrait: lids, brows, corners of the mouth and jaw, as a warp of upright positions.

Each part is a map of one line onto itself, which has an exact inverse, or a small smooth shift. The warp is
known both ways: from the expressed place to the portrait's, to draw, and from a landmark to where it goes.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

JAW_RADII = 0.22
"""Drop of the fully open jaw, radii."""
BROW_RADII = 0.12
"""Largest rise or fall of the brows, radii."""
SMILE_RADII = np.array([0.12, -0.07])
"""Shift of the right corner of a smiling mouth, radii; half of it in the other direction for a pucker."""
BROW_REACH = 0.22
"""Distance from a brow within which the skin moves with it, radii."""
CORNER_REACH = 0.30
"""The same around a corner of the mouth, radii."""
LID_STRETCH_SHARE = 0.6
"""Share of the skin between lid and brow that stretches when the lid closes."""
LID_MARGIN = 0.025
"""Reach of the lashes above the landmarks of the upper lid, radii."""
NECK_RADII = 0.7
"""Within which distance below the jaw the neck gives way, radii."""
JAW_HALF_WIDTH = 1.45
"""Positions of the jaw's hinges, radii from the middle."""
TEETH_RADII = 0.13
"""Largest visible height of the upper teeth, radii."""
TEETH_EDGE_RADII = 0.04
"""Width of the soft lower edge of the teeth, radii."""
MIN_LIP_GAP_SHARE = 0.045
"""A portrait whose lips are further apart shows its own teeth, as a share of the mouth's width."""
EDGE_RADII = 0.012
"""Half the width of the soft edge of what is painted, radii."""
LID_COVERAGE = 0.93
"""Share of the open eye that a closed lid covers: a line of lashes is left."""
LID_OCCLUSION = 0.8
"""Closing of a lid from which nothing of the eye is seen."""
LID_SKIN = 0.7
"""Share of a closed lid that takes the colour of the skin below the eye."""
LID_SKIN_RADII = 0.08
"""Distance of that skin below the lower lid, radii."""
LID_SKIN_SLOPE = 0.4
"""Speed at which it descends as the lid rises."""
SKIN_COLOUR = np.array([192.0, 140.0, 118.0])
"""RGB of the skin that the colours below go with."""
TINT_RANGE = (0.85, 1.15)
"""Lower and upper limit of the tint by the light of a picture."""
MOUTH_COLOUR = np.array([38.0, 14.0, 13.0])
"""RGB of the dark of the mouth."""
TONGUE_COLOUR = np.array([96.0, 44.0, 42.0])
"""RGB at the lower lip."""
TEETH_COLOUR = np.array([192.0, 174.0, 150.0])
"""RGB of the teeth, in the shade of the lip."""
SKIN_CHROMA = 40.0
"""Apart from one another, 0..255, red and blue of skin are at least in a picture in colour."""
LASH_DARKNESS = 0.4
"""Share of the light that the lashes of closed lids absorb."""
LASH_RADII = 0.02
"""Half the width of the line of lashes, radii."""
LIP_SHADE = 0.45
"""Darkening of the edge of the lower lip, which rolls into the open mouth."""
SHADE_RADII = 0.05
"""Width of that edge, radii."""
SHIFT_ITERATIONS = 20
"""Iterations of the search for the position that a shift moves to a landmark; each halves the error."""

_Eye = tuple[int, tuple[int, ...], tuple[int, ...]]
EYES: tuple[_Eye, _Eye] = ((36, (36, 37, 38, 39), (36, 41, 40, 39)), (42, (42, 43, 44, 45), (42, 47, 46, 45)))
"""First landmark, upper lid and lower lid of each eye."""
BROWS = (tuple(range(17, 22)), tuple(range(22, 27)))
"""The landmarks of each brow."""
UPPER_LIP = (60, 61, 62, 63, 64)
"""The inner edge of the upper lip."""
LOWER_LIP = (60, 67, 66, 65, 64)
"""The inner edge of the lower lip."""
BELOW_MOUTH = (*range(55, 60), *range(65, 68))
"""Landmarks that move with the lower lip."""
ABOVE_MOUTH = (*range(17, 55), *range(60, 65))
"""Landmarks that no opened jaw moves."""


@dataclass(frozen=True)
class PortraitMotion:
    """Motion of the head of a portrait.

    Attributes:
        yaw, pitch, roll: degrees: to the right of the picture, up, clockwise.
        shift: right and down, radii.
        zoom: of the head, 1 for none.
        lids: how far the left and the right lid of the picture close, 0..1.
        jaw: how far it opens, 0..1.
        smile: -1 puckered .. 1 smiling.
        brows: -1 down .. 1 up.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    lids: tuple[float, float] = (0.0, 0.0)
    jaw: float = 0.0
    smile: float = 0.0
    brows: float = 0.0


@dataclass(frozen=True)
class Paint:
    """Appearance at expressed positions that the portrait does not show.

    Attributes:
        alpha: float64 [N], how much of a place is the inside of the mouth, 0..1.
        teeth: float64 [N], how much of that is teeth, 0..1.
        level: float64 [N], 0 at the upper lip .. 1 at the lower.
        shade: float64 [N], how dark the edge of the lower lip is, 0..1.
        lash: float64 [N], how dark the lashes of closed lids make a place, 0..1.
        lid: float64 [N], how much of a place takes the colour of the skin below the eye, 0..1.
        lid_source: float64 [N, 2], the upright place of that skin in the portrait.
    """

    alpha: np.ndarray
    teeth: np.ndarray
    level: np.ndarray
    shade: np.ndarray
    lash: np.ndarray
    lid: np.ndarray
    lid_source: np.ndarray


class Expression:
    """A warp of upright positions.

    Args:
        points: float64 [68, 2], the portrait's landmarks, upright.
        motion: of which the expression counts.
    """

    def __init__(self, points: np.ndarray, motion: PortraitMotion) -> None:
        self._points, self._motion = points, motion
        self._jaw_drop = JAW_RADII * motion.jaw

    def map_to_source(self, positions: np.ndarray) -> tuple[np.ndarray, Paint]:
        """Return where in the portrait expressed positions [N, 2] come from, and what is painted there."""
        source, paint = self._undo_jaw(positions)
        source = source - self._shift_at(source)
        for lid, eye in zip(self._motion.lids, EYES, strict=True):
            if lid:
                source, paint = self._undo_lid(source, paint, eye, lid)
        return source, paint

    def expressed_landmarks(self) -> np.ndarray:
        """Return the expressed positions of the landmarks, float64 [68, 2]."""
        moved = self._points.copy()
        for lid, eye in zip(self._motion.lids, EYES, strict=True):
            above, upper, target, lower = self._compute_lid_levels(moved[:, 0], eye, lid)
            old = np.stack([above, upper, lower], axis=1)
            new = np.stack([above, target, lower], axis=1)
            moved[:, 1] = _remap_levels(moved[:, 1], old, new)
        start = moved
        for _ in range(SHIFT_ITERATIONS):
            moved = start + self._shift_at(moved)
        return self._drop_jaw(moved)

    @staticmethod
    def apply_paint(
        colours: np.ndarray, lid_colours: np.ndarray, paint: Paint, skin: np.ndarray
    ) -> np.ndarray:
        """Return colours [N, 3] with closed lids and the inside of the mouth painted over them.

        Args:
            colours: float64 [N, 3], 0..255, of the portrait.
            lid_colours: float64 [N, 3], those at `paint.lid_source`.
            paint: what is seen at these positions.
            skin: float64 [3], the colour of the face, which tells how light the picture is.
        """
        light = float(np.clip(skin.mean() / SKIN_COLOUR.mean(), 0.35, 1.2))
        saturation = float(np.clip(np.ptp(skin) / SKIN_CHROMA, 0, 1))  # none of a black and white picture
        tint = np.clip(skin / max(skin.mean(), 1.0) / (SKIN_COLOUR / SKIN_COLOUR.mean()), *TINT_RANGE)
        tones = (MOUTH_COLOUR, TONGUE_COLOUR, TEETH_COLOUR)
        mouth, tongue, teeth = (
            light * (saturation * tint * tone + (1 - saturation) * tone.mean()) for tone in tones
        )
        level = paint.level[:, None]
        inside = mouth * (1 - level) + tongue * level
        inside += (teeth - inside) * paint.teeth[:, None]
        painted = colours + (lid_colours - colours) * paint.lid[:, None]
        painted *= (1 - LASH_DARKNESS * paint.lash[:, None]) * (1 - LIP_SHADE * paint.shade[:, None])
        return painted + (inside - painted) * paint.alpha[:, None]

    def _shift_at(self, positions: np.ndarray) -> np.ndarray:
        """Return how far brows and corners of the mouth took what is now at positions [N, 2]: [N, 2]."""
        shift = np.zeros_like(positions)
        if self._motion.brows:
            for brow in BROWS:
                line = _resample_line(self._points[list(brow)])
                # farther away it is nothing
                low, high = line.min(axis=0) - 3.5 * BROW_REACH, line.max(axis=0) + 3.5 * BROW_REACH
                close = np.flatnonzero((positions > low).all(axis=1) & (positions < high).all(axis=1))
                x, y = positions[close].T
                squared_distance = np.min([(x - a) ** 2 + (y - b) ** 2 for a, b in line], axis=0)
                shift[close, 1] -= (
                    self._motion.brows * BROW_RADII * np.exp(-squared_distance / (2 * BROW_REACH**2))
                )
        smile = max(self._motion.smile, self._motion.smile / 2)
        if smile:
            for corner, side in ((48, -1), (54, 1)):
                squared_distance = ((positions - self._points[corner]) ** 2).sum(axis=1)
                weight = np.exp(-squared_distance / (2 * CORNER_REACH**2))[:, None]
                shift += smile * weight * SMILE_RADII * [side, 1]
        return shift

    def _compute_lid_levels(self, x: np.ndarray, eye: _Eye, lid: float) -> tuple[np.ndarray, ...]:
        """Return heights [N] at columns x [N]: top of what stretches, upper lid, its goal, lower lid."""
        number, upper_points, lower_points = eye
        upper, lower = (
            _interpolate_line(self._points[list(points)], x) for points in (upper_points, lower_points)
        )
        left, right = self._points[upper_points[0], 0], self._points[upper_points[-1], 0]
        along = np.clip((x - left) / max(right - left, 1e-6), 0, 1)
        upper = np.minimum(upper, lower) - LID_MARGIN * np.sqrt(4 * along * (1 - along))
        brow = _interpolate_line(self._points[list(BROWS[0 if number == 36 else 1])], x)
        above = upper - np.maximum(LID_STRETCH_SHARE * (upper - brow), 0.12)
        return above, upper, upper + LID_COVERAGE * lid * (lower - upper), lower

    def _undo_lid(
        self, positions: np.ndarray, paint: Paint, eye: _Eye, lid: float
    ) -> tuple[np.ndarray, Paint]:
        """Return where positions [N, 2] were before a lid closed, and what is painted there."""
        x, y = positions.T
        above, upper, target, lower = self._compute_lid_levels(x, eye, lid)
        closed, open_lid = np.stack([above, target, lower], axis=1), np.stack([above, upper, lower], axis=1)
        height = _remap_levels(y, closed, open_lid)
        if lid > LID_OCCLUSION:
            height = np.where((height > upper) & (height < lower), upper, height)
        # at the corners, where nothing closes, there are no lashes
        closure = max(0.0, 2 * lid - 1) * np.clip((lower - upper) / (2 * LID_MARGIN), 0, 1)
        lash_width = np.clip((lower - target) / (2 * LASH_RADII), 1, None) * LASH_RADII
        lash = closure * np.exp(-(((y - (target + lower) / 2) / lash_width) ** 2))
        # what lies in shadow below the brow is no patch on the closed lid, which has the colour of skin
        lift = np.clip((y - above) / (target - above), 0, 1)
        skin = LID_SKIN * closure * lift * lift * (3 - 2 * lift) * (y < lower)
        skin_height = lower + LID_SKIN_RADII + LID_SKIN_SLOPE * np.clip(lower - y, 0, None)
        source = np.column_stack([x, np.where(skin > 0, skin_height, paint.lid_source[:, 1])])
        source[:, 0] = np.where(skin > 0, x, paint.lid_source[:, 0])
        lash, skin = np.maximum(paint.lash, lash), np.maximum(paint.lid, skin)
        return np.column_stack([x, height]), replace(paint, lash=lash, lid=skin, lid_source=source)

    def _compute_jaw_levels(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return at columns x [N] heights [N, 4] below the mouth, how far they drop, and the seam [N]."""
        left, right = self._points[60], self._points[64]
        middle, half = (left[0] + right[0]) / 2, max((right[0] - left[0]) / 2, 1e-6)
        seam = np.interp(x, *self._seam)
        chin = np.maximum(_interpolate_line(self._points[2:15], x), seam + 0.45)
        hinge = np.cos(np.pi / 2 * np.clip((x - middle) / JAW_HALF_WIDTH, -1, 1))
        gap = np.clip(1 - ((x - middle) / half) ** 2, 0, None)
        levels = np.stack([seam, seam + 0.35 * (chin - seam), chin, chin + NECK_RADII], axis=1)
        return levels, self._jaw_drop * np.stack([gap, hinge, hinge, 0 * hinge], axis=1), seam

    @cached_property
    def _seam(self) -> tuple[np.ndarray, np.ndarray]:
        """Return columns and heights of the line along which the lips part."""
        upper, lower = self._points[list(UPPER_LIP)], self._points[list(LOWER_LIP)]
        line = lower if self._shows_teeth else (upper + lower) / 2
        x = np.linspace(line[0, 0], line[-1, 0], 41)
        return x, np.interp(x, line[:, 0], line[:, 1])

    @cached_property
    def _shows_teeth(self) -> bool:
        """Return whether the lips of the portrait are apart."""
        lip_gap = self._points[[65, 66, 67], 1] - self._points[[63, 62, 61], 1]
        return bool(lip_gap.mean() > MIN_LIP_GAP_SHARE * (self._points[54, 0] - self._points[48, 0]))

    def _undo_jaw(self, positions: np.ndarray) -> tuple[np.ndarray, Paint]:
        """Return the positions [N, 2] before the jaw opened, and the inside of the mouth there."""
        zeros = np.zeros(len(positions))
        if not self._jaw_drop:
            paint = Paint(
                alpha=zeros,
                teeth=zeros,
                level=zeros,
                shade=zeros,
                lash=zeros,
                lid=zeros,
                lid_source=positions,
            )
            return positions, paint
        levels, drops, seam = self._compute_jaw_levels(positions[:, 0])
        height = positions[:, 1]
        source_height = _remap_levels(height, levels + drops, levels)
        source_height = np.where(height < levels[:, 0] + drops[:, 0], seam, source_height)
        source = np.column_stack([positions[:, 0], np.where(height < seam, height, source_height)])
        depth, gap_height = height - seam, drops[:, 0]
        alpha = (
            _soft_step(depth) * _soft_step(gap_height - depth) * np.clip(gap_height / (2 * EDGE_RADII), 0, 1)
        )
        level = np.clip(depth / np.maximum(gap_height, 1e-9), 0, 1)
        teeth = zeros
        if not self._shows_teeth:
            teeth_height = TEETH_RADII * np.sqrt(np.clip(gap_height / JAW_RADII, 0, 1))
            teeth = np.clip((teeth_height - depth) / TEETH_EDGE_RADII, 0, 1)
            teeth = teeth * np.clip(1.6 * gap_height / self._jaw_drop - 0.5, 0, 1)  # none in the corners
        depth_below_gap = np.where(depth > gap_height, depth - gap_height, SHADE_RADII)
        shade = np.clip(1 - depth_below_gap / SHADE_RADII, 0, 1) * np.clip(gap_height / SHADE_RADII, 0, 1)
        paint = Paint(
            alpha=alpha,
            teeth=teeth,
            level=level,
            shade=shade,
            lash=zeros,
            lid=zeros,
            lid_source=positions,
        )
        return source, paint

    def _drop_jaw(self, points: np.ndarray) -> np.ndarray:
        """Return landmarks [68, 2] after the jaw opened."""
        if not self._jaw_drop:
            return points
        levels, drops, seam = self._compute_jaw_levels(points[:, 0])
        height = points[:, 1].copy()
        # of lips that touch, a landmark may lie on the wrong side of the seam
        height[list(BELOW_MOUTH)] = np.maximum(height, seam)[list(BELOW_MOUTH)]
        moved = _remap_levels(height, levels, levels + drops)
        moved[list(ABOVE_MOUTH)] = np.minimum(height, seam)[list(ABOVE_MOUTH)]
        return np.column_stack([points[:, 0], moved])


def _soft_step(depth: np.ndarray) -> np.ndarray:
    """Return 0 outside, 1 inside and a soft step between, of how deep inside positions are [N]."""
    return np.clip(0.5 + depth / (2 * EDGE_RADII), 0, 1)


def _interpolate_line(line: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the heights [N] of a line through points [M, 2] at columns x [N], level beyond its ends."""
    order = np.argsort(line[:, 0])
    return np.interp(x, line[order, 0], line[order, 1])


def _resample_line(line: np.ndarray) -> np.ndarray:
    """Return points [13, 2] along a line through [M, 2]."""
    at = np.linspace(0, len(line) - 1, 13)
    return np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in (0, 1)], axis=1)


def _remap_levels(height: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return heights [N] moved as levels old [N, K], increasing, move to new [N, K]: linear between them."""
    moved = height.copy()
    for lower in range(old.shape[1] - 1):
        start, end = old[:, lower], old[:, lower + 1]
        inside = (height >= start) & (height < end)
        share = (height - start) / np.maximum(end - start, 1e-12)
        moved = np.where(inside, new[:, lower] + share * (new[:, lower + 1] - new[:, lower]), moved)
    return moved
