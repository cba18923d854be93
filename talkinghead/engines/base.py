"""The interface of all engines: landmarks or landmark images, and styles, to frames."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..clip import POINTS, POINTS_WITH_IRISES
from ..errors import TalkingheadError
from ..landmarks.face_points import fit_points
from ..landmarks.landmark_image import landmark_image
from ..model import Person
from ..networks.references import ReferenceViewer
from ..system.torch_state import fork_count, from_numpy, with_default_torch_state
from .frame_format import to_uint8
from .manifest import EngineSpec

log = logging.getLogger(__name__)

_POINT_SHAPES = ((POINTS, 2), (POINTS_WITH_IRISES, 2))
_MAX_FRACTION = 4
"""Median of the landmarks' magnitudes above which they may be pixels. A driver who crosses a wide frame gets
there too, so that this is no error.
"""


class Engine(ABC):
    """Renderer of a person or, where styles are an input, of all feed-forward persons of a model.

    Attributes:
        spec: call signature.
        styles: float32 [1, S] that `run` uses by default; None where they are inside the engine.
        person_styles: float32 [1, S] of the person who was set last; None before.
        viewer: renders views of a person's references; None where the generator is not reference-guided, or
            before `set_person`.
    """

    spec: EngineSpec
    styles: np.ndarray | None = None
    person_styles: np.ndarray | None = None
    viewer: ReferenceViewer | None = None
    _fork_count: int
    _has_warned_of_pixels = False
    _has_reported_hidden_irises = False

    survives_fork = False
    """True if it runs in a process forked from the one that opened it. A runtime with threads of its own
    would wait for them forever.
    """

    advice = "export it again, or render with torch"
    """Remedy in the error message of a run that fails."""

    def __new__(cls, *args: object, **kwargs: object) -> "Engine":
        self = super().__new__(cls)
        self._fork_count = fork_count()
        return self

    def __repr__(self) -> str:
        spec = self.spec
        styles = "everybody of one model" if spec.styles == "input" else "one person"
        return (
            f"{type(self).__name__}({spec.format}, {spec.size}x{spec.size}, {spec.precision}, up to "
            f"{spec.batch} frames a run, of {styles})"
        )

    @property
    def size(self) -> int:
        """Height and width of the frames."""
        return self.spec.size

    @with_default_torch_state
    def set_person(self, person: Person) -> None:
        """Set the inputs that come from a person: styles where they are an input, and references."""
        self.person_styles = person.styles.detach().float().cpu().numpy()
        if self.spec.styles == "input":
            self.styles = self.person_styles
        if person.references is not None:
            self.viewer = ReferenceViewer(person.references)

    @contextmanager
    def use_person(self, person: Person) -> Iterator[None]:
        """Set a person for the duration of a block, and restore the one before."""
        previous = self.styles, self.person_styles, self.viewer
        self.set_person(person)
        try:
            yield
        finally:
            self.styles, self.person_styles, self.viewer = previous

    @with_default_torch_state
    def run(self, landmarks: np.ndarray | Tensor, styles: np.ndarray | Tensor | None = None) -> np.ndarray:
        """Render landmarks, or landmark images, to frames.

        Args:
            landmarks: float32 [B, 68, 2] as fractions of the person's crop, or [B, 78, 2] with irises, which
                reference images follow and an engine with irises shows; others leave them out. An engine with
                irises shows none of 68 points, and logs so once. For an engine whose input is "image" they
                are rendered to landmark images first. Such an engine also takes landmark images float32
                [B, 3, size, size] in [-1, 1], unless it is reference-guided.
            styles: float32 [S], [1, S] or [B, S] for an engine whose styles are an input: the face that each
                row shows. The attribute `styles` by default.

        Returns:
            uint8 [B, size, size, 3], RGB.

        Raises:
            TalkingheadError: a shape is not as above, a value is not finite, the engine lacks references,
                lacks or has no use for styles, or this process was forked from the one that opened it.
        """
        if fork_count() != self._fork_count and not self.survives_fork:
            raise TalkingheadError(
                f"{self.spec.format}: was opened before this process was forked, and its threads are "
                "gone; open it in this process"
            )
        array = _to_float32(landmarks)
        self._check_shape(array.shape)
        if _are_points(array):
            self._report_hidden_irises(array)
            self._warn_of_pixels(array)
        style_rows = self._style_rows(styles, len(array))
        if not np.isfinite(array).all() or (style_rows is not None and not np.isfinite(style_rows).all()):
            raise TalkingheadError(
                "engine: landmarks, images or styles are not finite; leave those frames out"
            )
        chunks = []
        for start in range(0, len(array), self.spec.batch):
            rows = slice(start, start + self.spec.batch)
            inputs = self._inputs(array[rows], None if style_rows is None else style_rows[rows])
            chunks.append(self._run_reporting(inputs))
        if not chunks:
            return np.empty((0, self.size, self.size, 3), np.uint8)
        frames = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return frames if frames.dtype == np.uint8 else to_uint8(frames)

    def _report_hidden_irises(self, points: np.ndarray) -> None:
        """Say once that points [B, 68 or 78, 2] lack the irises that the engine takes."""
        if points.shape[1] < self.spec.num_points and not self._has_reported_hidden_irises:
            self._has_reported_hidden_irises = True
            log.info("engine: the driver's irises are unknown, so that the gaze is left to the network")

    def _warn_of_pixels(self, array: np.ndarray) -> None:
        """Warn once of points [B, P, 2] far outside of the crop, which may be in pixels."""
        if self._has_warned_of_pixels or not len(array):
            return
        if np.median(np.abs(array)) > _MAX_FRACTION:
            self._has_warned_of_pixels = True
            log.warning(
                "engine: landmarks reach %.4g, far outside of the crop, which is 0 to 1; divide pixels of "
                "the crop by its side",
                np.abs(array).max(),
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Check the shape of landmarks or landmark images."""
        image_shape = (3, self.spec.layer_size, self.spec.layer_size)
        takes_images = self.spec.input == "image" and not self.spec.guided
        if shape[1:] in _POINT_SHAPES or (takes_images and shape[1:] == image_shape):
            return
        expected = f"landmarks [B, {POINTS}, 2], or [B, {POINTS_WITH_IRISES}, 2] with irises"
        if takes_images:
            expected += f", or landmark images {['B', *image_shape]}"
        raise TalkingheadError(f"engine: the input has the shape {list(shape)}; give {expected}")

    def _style_rows(self, styles: np.ndarray | Tensor | None, count: int) -> np.ndarray | None:
        """Return one style vector for each of `count` frames, or None where styles are inside."""
        if self.spec.styles == "constant":
            if styles is not None:
                raise TalkingheadError(
                    "engine: holds one person, whose styles are inside; leave styles out, or export one of "
                    "--steps 0"
                )
            return None
        chosen = self.styles if styles is None else styles
        if chosen is None:
            raise TalkingheadError("engine: was made for many people; give the styles of the one to show")
        rows = np.atleast_2d(_to_float32(chosen))
        if rows.shape not in {(1, self.spec.style_length), (count, self.spec.style_length)}:
            raise TalkingheadError(
                f"engine: styles have the shape {list(rows.shape)}; "
                f"give [1 or {count}, {self.spec.style_length}], those of a person of the engine's preset"
            )
        return np.array(np.broadcast_to(rows, (count, rows.shape[1])))

    def _inputs(self, landmarks: np.ndarray, styles: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the arguments of a run by name, in the order of the network's."""
        drawn_points = fit_points(landmarks, self.spec.num_points) if _are_points(landmarks) else landmarks
        inputs = {self.spec.input: drawn_points}
        if self.spec.input == "image" and _are_points(landmarks):
            points = from_numpy(np.ascontiguousarray(drawn_points))
            inputs["image"] = landmark_image(points, self.spec.layer_size).numpy()
        if styles is not None:
            inputs["styles"] = styles
        if self.spec.guided:
            if self.viewer is None:
                raise TalkingheadError(
                    "engine: needs a person's reference images and has none; open it with the person, or "
                    "call set_person(person)"
                )
            views = self.viewer(from_numpy(landmarks))
            inputs |= {name: view.numpy() for name, view in views._asdict().items()}
        # compiled packages read memory row by row, whatever the strides
        return {name: np.ascontiguousarray(rows) for name, rows in inputs.items()}

    def _run_reporting(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Run, and raise errors of the runtime as `TalkingheadError`."""
        try:
            return self._run(inputs)
        except (TalkingheadError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has its own exception types
            raise TalkingheadError(
                f"{self.spec.format}: running failed ({first_line(error)}); {self.advice}"
            ) from error

    @abstractmethod
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Run up to `spec.batch` rows of each input.

        Returns:
            uint8 [B, size, size, 3] or float [B, 3, size, size].
        """


def first_line(error: Exception) -> str:
    """Return the first line of an error of somebody else's code, at most 160 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _are_points(array: np.ndarray) -> bool:
    """Return whether an engine's input is points, not landmark images."""
    return array.shape[1:] in _POINT_SHAPES


def _to_float32(values: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.require(values, np.float32, ["C", "W"])
