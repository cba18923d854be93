"""A run's metrics and images for MLflow, which no other module imports."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ..dataset.remote import display
from ..errors import TalkingheadError, require
from ..system.quiet import suppress_warnings
from .tracked_runs import TrackedRuns

log = logging.getLogger(__name__)

EXPERIMENT = "talkinghead"
"""Name of the experiment, unless MLFLOW_EXPERIMENT_NAME has another."""
_DATABASE = "mlflow.db"
_ARTIFACTS = "mlartifacts"
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
            reason = display((str(error).splitlines() or [type(error).__name__])[0])
            raise TalkingheadError(
                f"mlflow: no run can be started ({reason}); correct MLFLOW_TRACKING_URI, or leave mlflow out "
                "of --track"
            ) from error

    def _open(self, out: Path, uri: str | None, settings: Mapping[str, Any], runs: TrackedRuns) -> None:
        """Resume the run whose id is stored, or create one with its parameters."""
        tracking = require("mlflow.tracking", "mlflow")
        folder = out.absolute()
        self._client = tracking.MlflowClient(tracking_uri=uri or f"sqlite:///{folder / _DATABASE}")
        run_id = runs.get("mlflow")
        if run_id is not None:
            if (stored := self._find_run(run_id)) is not None:
                self._run_id = run_id
                if uri is None:
                    self._relocate_artifacts(folder, stored.experiment_id)
                self._client.update_run(run_id, status="RUNNING")
                return
            log.warning("mlflow: does not know run %s; the run continues as another there", run_id)
        name = runs.environment.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            artifacts = _artifacts_uri(folder) if uri is None else None
            experiment_id = self._client.create_experiment(name, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
            if uri is None:
                self._relocate_artifacts(folder, experiment_id)
        self._run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
        params = [self._entities.Param(name, text) for name, text in _flatten(settings)]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS])
        runs.set("mlflow", self._run_id)

    def _find_run(self, run_id: str) -> Any:
        """Return what the server stores of a run; None where it has none of this id, or a deleted one."""
        try:
            info = self._client.get_run(run_id).info
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return info if info.lifecycle_stage == "active" else None

    def _relocate_artifacts(self, folder: Path, experiment_id: str) -> None:
        """Let the store in the run's folder name the images there, also after the folder was moved.

        MLflow stores absolute paths, and has no call that changes them.
        """
        old, new = self._client.get_experiment(experiment_id).artifact_location, _artifacts_uri(folder)
        if old == new or not old.endswith(f"/{_ARTIFACTS}"):
            return
        import sqlite3

        with closing(sqlite3.connect(folder / _DATABASE)) as connection, connection:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old)
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )

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


def _artifacts_uri(folder: Path) -> str:
    """Return where images are kept that belong to the store in the folder of a run."""
    return (folder / _ARTIFACTS).as_uri()


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
