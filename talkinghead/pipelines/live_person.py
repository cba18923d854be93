"""People who follow a driver frame by frame, from past frames alone, for `live` and the page."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..engines.base import Engine
from ..engines.torch_engine import TorchEngine
from ..engines.verify import check_renders_person
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.gaze import points_looking_ahead
from ..landmarks.online import OnlineRetargeter
from ..landmarks.open_detector import resolve_detector
from ..media.frame_source import SourceFrame
from ..model import Person
from ..system.device import choose_device
from ..system.torch_state import with_default_torch_state
from .animate import check_retarget

DrivenPoints = tuple[SourceFrame, np.ndarray]
"""A driver's frame, and the points of the person that it gives."""
RenderedFrame = tuple[SourceFrame, np.ndarray]
"""A driver's frame, and the person's frame uint8 [size, size, 3] that it gives."""


class LivePerson:
    """A person with a landmark detector and an engine, in two stages that may run in two threads.

    Args:
        person: who is shown.
        engine, detector, retarget, face, precision, device, fast: as for `talkinghead.live`.

    Attributes:
        size: side of a rendered frame in pixels.
        retargeter: finds the person's points, and counts the frames without a face.

    Raises:
        TalkingheadError: an argument is unknown, or the engine is another person's.
    """

    @with_default_torch_state
    def __init__(
        self,
        person: Person,
        *,
        engine: Engine | None = None,
        detector: Detector | str | None = None,
        retarget: str = "auto",
        face: int = 1,
        precision: str = "auto",
        device: str | torch.device = "auto",
        fast: bool = False,
    ) -> None:
        check_retarget(retarget)
        check_renders_person(engine, person)
        if engine is None:
            target = choose_device(device, fast, placed=person.placed)
            engine = TorchEngine(person, target, precision, fast=fast)
        at_rest = points_looking_ahead(person.neutral_landmarks, person.config.networks.num_points)
        self.retargeter = OnlineRetargeter(
            resolve_detector(detector), at_rest, keep_proportions=retarget != "off", face=face
        )
        self._engine, self.size = engine, engine.size
        # Run the engine once, so that its initialisation does not delay the first frame.
        self._last_points, self._last_frame = at_rest, engine.run(at_rest[None])[0]

    @property
    def stages(self) -> dict[str, Callable[[Any], Any]]:
        """Return the stages from a SourceFrame to a RenderedFrame, for a `StagePipeline`."""
        return {"landmarks": self.find_points, "render": self.render}

    def find_points(self, source_frame: SourceFrame) -> DrivenPoints:
        """Return a driver's frame with the person's points."""
        return source_frame, self.retargeter(source_frame.image, source_frame.t)

    def render(self, driven: DrivenPoints) -> RenderedFrame:
        """Return a driver's frame with the person's frame; points that stayed as they were cost nothing."""
        source_frame, points = driven
        if points is not self._last_points:
            self._last_points, self._last_frame = points, self._engine.run(points[None])[0]
        return source_frame, self._last_frame


class LiveCast:
    """People of whom one at a time is driven, with what a user changes meanwhile, from any thread.

    Args:
        people: of one frame size; they share a detector.

    Attributes:
        is_mirrored: whether the driver is seen as in a mirror.
        is_paused: whether the person stands still.

    Raises:
        TalkingheadError: their frames differ in size.
    """

    def __init__(self, people: Sequence[LivePerson]) -> None:
        sizes = sorted({person.size for person in people})
        if len(sizes) > 1:
            listed = ", ".join(f"{size}x{size}" for size in sizes)
            raise TalkingheadError(
                f"persons: have frames of {listed}, and one video has one size; name persons of one size"
            )
        self._people, self._current, self.size = people, 0, sizes[0]
        self.is_mirrored = self.is_paused = False
        self._restarts = False
        self._points: np.ndarray | None = None  # the last ones, of whoever was shown

    @property
    def stages(self) -> dict[str, Callable[[Any], Any]]:
        """Return the stages from a SourceFrame to a RenderedFrame, for a `StagePipeline`."""
        return {"landmarks": self._find_points, "render": self._render}

    @property
    def keeps_proportions(self) -> bool:
        """Return whether the people's own proportions are kept."""
        return self._people[0].retargeter.keeps_proportions

    @property
    def without_face(self) -> int:
        """Return the number of processed frames without a face."""
        return sum(person.retargeter.without_face for person in self._people)

    def show_next(self) -> int:
        """Show the next person, driven by the same driver; return their number, from 0."""
        before, number = self._people[self._current], (self._current + 1) % len(self._people)
        self._people[number].retargeter.take_over_driver(before.retargeter)
        self._current = number
        return number

    def mirror(self) -> None:
        """Turn the mirror on or off."""
        self.is_mirrored = not self.is_mirrored
        self.centre()

    def centre(self) -> None:
        """Take the driver's next face to be the face at rest."""
        self._restarts = True

    def _find_points(self, source_frame: SourceFrame) -> tuple[LivePerson, DrivenPoints]:
        """Return who is shown, and a driver's frame with their points."""
        person = self._people[self._current]
        if self.is_paused and self._points is not None:
            return person, (source_frame, self._points)
        if self._restarts:
            self._restarts = False
            person.retargeter.restart()
        seen = source_frame
        if self.is_mirrored:
            seen = replace(source_frame, image=np.ascontiguousarray(source_frame.image[:, ::-1]))
        _, self._points = person.find_points(seen)
        return person, (source_frame, self._points)

    def _render(self, driven: tuple[LivePerson, DrivenPoints]) -> RenderedFrame:
        """Return a driver's frame with the frame of the person who is shown."""
        person, points = driven
        return person.render(points)
