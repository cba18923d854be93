"""Detector and model that a worker keeps from one job to the next."""

from collections.abc import Mapping
from typing import Any

from ..checkpoint import load_model
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.open_detector import open_detector
from ..model import Model
from ..weights import shipped_models


class TaskResources:
    """Landmark detector and last model of a worker, which several jobs use."""

    def __init__(self) -> None:
        self._detector: tuple[str, Detector] | None = None
        self._model: tuple[str, Model] | None = None

    def detector(self, request: Mapping[str, Any]) -> Detector:
        """Return the landmark detector that a request names."""
        name = request.get("landmarks", "auto")
        if self._detector is None or self._detector[0] != name:
            self._detector = name, open_detector(name)
        return self._detector[1]

    def model(self, name: str) -> Model:
        """Return a model that ships, by its name.

        Raises:
            TalkingheadError: there is none of that name.
        """
        if name not in shipped_models():
            raise TalkingheadError(
                f"model: no such model is here; choose one of {', '.join(shipped_models())}"
            )
        if self._model is None or self._model[0] != name:
            self._model = name, load_model(name)
        return self._model[1]
