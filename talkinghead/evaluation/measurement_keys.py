"""Keys of measurements: all that each of them depends on."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..clip import POINTS
from ..constants import FINE_TUNED_METHODS
from ..system.file_hash import sha256
from ..version import __version__
from .evaluate_clip import TRUTH, ClipEvaluator
from .measurement_store import MeasurementKey
from .split import FrameSplit

_COPYING_METHODS = ("nearest", "warped")


class MeasurementKeys:
    """The keys of the measurements of an evaluation.

    Args:
        evaluator: the model, the networks and the settings.
    """

    def __init__(self, evaluator: ClipEvaluator) -> None:
        self._evaluator = evaluator
        self._config: dict[str, Any] = evaluator.loaded.config.to_dict()

    def landmarks(self, clip: str) -> MeasurementKey:
        """Return the key of the landmarks of a clip with this digest."""
        return MeasurementKey(clip, "landmarks", {"versions": _VERSIONS, **self._points})

    def row(self, clip: str, parts: FrameSplit, shots: int, method: str, *, steps: int) -> MeasurementKey:
        """Return the key of a row: of a clip with this digest, T, a method, and a number of steps."""
        settings = {**self._frames, "split": [len(parts.candidates), len(parts.held_out)]}
        if method not in (TRUTH, *_COPYING_METHODS):
            settings["model"] = self._model(method)
        if method in FINE_TUNED_METHODS:
            settings |= {"perceptual": self._perceptual, "seed": self._evaluator.protocol.seed}
            method = f"{method}-{steps}"
        return MeasurementKey(clip, method if method == TRUTH else f"T{shots}-{method}", settings)

    @cached_property
    def _detector(self) -> list[str]:
        evaluator = self._evaluator
        detector = evaluator.scorer.detector
        digest = getattr(detector, "digest", "")  # of its weights, where they may change
        return [detector.name, *([digest] if digest else []), evaluator.device]

    @cached_property
    def _points(self) -> dict[str, Any]:
        """The detector that finds the points, and that irises are among them where the model uses them."""
        uses_irises = self._evaluator.loaded.config.networks.used_points > POINTS
        return {"landmarks": self._detector, **({"irises": True} if uses_irises else {})}

    @cached_property
    def _frames(self) -> dict[str, Any]:
        """The settings of all rows."""
        evaluator, scorer = self._evaluator, self._evaluator.scorer
        return {
            "versions": _VERSIONS,
            **self._points,
            "image size": [evaluator.loaded.config.networks.image_size, evaluator.loaded.config.crop],
            "identity network": [*(scorer.describe_identity() or {}).values(), scorer.dlib is not None],
            "FID network": None if evaluator.fid is None else sha256(evaluator.fid),
        }

    def _model(self, method: str) -> list[Any]:
        """Return what stands for the model: its digest, or the seed of random weights, and its settings."""
        evaluator, digest = self._evaluator, self._evaluator.loaded.digest
        if method == "random-weights":
            digest = ""
        return [digest or f"random weights of seed {evaluator.protocol.seed}", self._config]

    @cached_property
    def _perceptual(self) -> dict[str, str]:
        return {name: sha256(Path(file)) for name, file in (self._evaluator.perceptual or {}).items()}


_VERSIONS = {"talkinghead": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
"""Other versions round differently, and results.json names one of each."""
