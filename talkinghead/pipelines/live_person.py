"""A person who follows a driver frame by frame, from past frames alone, for `live` and the page."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engines.base import Engine
from ..engines.torch_engine import TorchEngine
from ..engines.verify import check_renders_person
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
        engine, detector, retarget, precision, device, fast: as for `talkinghead.live`.

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
            resolve_detector(detector), at_rest, keep_proportions=retarget != "off"
        )
        self._engine, self.size = engine, engine.size
        # Run the engine once, so that its initialisation does not delay the first frame.
        engine.run(at_rest[None])

    @property
    def stages(self) -> dict[str, Callable[[Any], Any]]:
        """Return the stages from a SourceFrame to a RenderedFrame, for a `StagePipeline`."""
        return {"landmarks": self.find_points, "render": self.render}

    def find_points(self, source_frame: SourceFrame) -> DrivenPoints:
        """Return a driver's frame with the person's points."""
        return source_frame, self.retargeter(source_frame.image, source_frame.t)

    def render(self, driven: DrivenPoints) -> RenderedFrame:
        """Return a driver's frame with the person's frame."""
        source_frame, points = driven
        return source_frame, self._engine.run(points[None])[0]
