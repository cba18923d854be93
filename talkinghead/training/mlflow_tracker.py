"""A run's metrics and images for MLflow, which no other module imports."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import TalkingheadError, require
from ..system.quiet import suppress_warnings
from .tracked_runs import TrackedRuns

EXPERIMENT = "talkinghead"
"""Name of the experiment, unless MLFLOW_EXPERIMENT_NAME has another."""
_MAX_PARAMS = 100  # of a request
_MAX_PARAM_CHARACTERS = 500


class MlflowTracker:
    """Writer to a run of MLflow on the server or store of MLFLOW_TRACKING_URI; without it, to the SQLite file
    mlflow.db in the folder of the run, with images in mlartifacts.

    Args:
        out: folder of the run.
        settings: of the run, written as its parameters.
        runs: ids of the run.

    Attributes:
        place, errors: as of `TensorBoardTracker`.

    Raises:
        TalkingheadError: mlflow or what SQLite needs is not installed, or no run can be started.
    """

    place = "mlflow"
    errors: tuple[type[Exception], ...] = (Exception,)  # of its own, of requests, of SQLAlchemy

    def __init__(self, out: Path, settings: Mapping[str, Any], runs: TrackedRuns) -> None:
        uri = runs.environment.get("MLFLOW_TRACKING_URI")
        require("mlflow", "mlflow")
        if uri is None:
            require("sqlalchemy", "mlflow")
            require("alembic", "mlflow")
        self._entities = require("mlflow.entities", "mlflow")
        try:
            with suppress_warnings("mlflow"), suppress_warnings("alembic"):
                self._open(out, uri, settings, runs)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TalkingheadError(
                f"mlflow: no run can be started ({reason}); correct MLFLOW_TRACKING_URI, or leave mlflow out "
                "of --track"
            ) from error

    def _open(self, out: Path, uri: str | None, settings: Mapping[str, Any], runs: TrackedRuns) -> None:
        """Resume the run whose id is stored, or create one with its parameters."""
        tracking = require("mlflow.tracking", "mlflow")
        folder = out.absolute()
        self._client = tracking.MlflowClient(tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}")
        run_id = runs.get("mlflow")
        if run_id is not None:
            self._run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        name = runs.environment.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            artifacts = (folder / "mlartifacts").as_uri() if uri is None else None
            experiment_id = self._client.create_experiment(name, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        self._run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
        params = [self._entities.Param(name, text) for name, text in _flatten(settings)]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS])
        runs.set("mlflow", self._run_id)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(_valid_name(name), value, now, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def write_image(self, step: int, name: str, image: torch.Tensor, path: Path | None) -> None:
        """Write an image, uint8 [H, W, 3], which is also the file `path`."""
        if path is not None:
            self._client.log_artifact(self._run_id, str(path), "samples")

    def close(self, *, failed: bool = False) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and texts of the values of nested tables."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)[:_MAX_PARAM_CHARACTERS]


def _valid_name(name: str) -> str:
    """Return a name with the characters that MLflow's metrics may have."""
    return "".join(character if character.isalnum() or character in "_-. /" else "-" for character in name)
