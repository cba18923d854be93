"""Tracker of MLflow, the library itself, with a store in the folder of the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from talkinghead.errors import TalkingheadError
from talkinghead.training.run_log import RunLog
from talkinghead.training.tracked_runs import FILE

SETTINGS = {"seed": 3, "config": {"preset": "tiny", "meta": {"batch": 2}}}
WRITE_SAMPLES = """
import sys
from pathlib import Path
import torch
from talkinghead.training.run_log import RunLog
log = RunLog(Path(sys.argv[1]), 0, ("mlflow",), settings={})
log.write_samples(20, [torch.zeros(2, 3, 4, 4)] * 4)
log.close()
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow use no network."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store without runs, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    mlflow_client(folder).search_experiments()
    return folder / "mlflow.db"


def rows() -> list[torch.Tensor]:
    """Return four rows of two grey images each."""
    return [torch.zeros(2, 3, 4, 4)] * 4


def mlflow_client(out: Path) -> Any:
    mlflow = pytest.importorskip("mlflow.tracking", reason="mlflow, an optional tracker, is not installed")
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")


def test_mlflow_holds_params_metrics_and_samples_of_resumed_run(tmp_path: Path) -> None:
    client = mlflow_client(tmp_path)
    for step in (20, 40):
        log = RunLog(tmp_path, step - 20, ("mlflow",), settings=SETTINGS)
        log.write_scalars(step, {"content": 1.5 * step, "held_out/T8/fine-tuned/ssim": 0.5})
        log.write_samples(step, rows())
        log.close()
    experiment = client.get_experiment_by_name("talkinghead")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((tmp_path / FILE).read_text())["mlflow"]
    assert run.info.status == "FINISHED" and run.info.run_name == tmp_path.name
    assert run.data.params == {"seed": "3", "config.preset": "tiny", "config.meta.batch": "2"}
    history = client.get_metric_history(run.info.run_id, "content")
    assert [(metric.step, metric.value) for metric in history] == [(20, 30.0), (40, 60.0)]
    assert run.data.metrics["held_out/T8/fine-tuned/ssim"] == 0.5
    sheets = client.list_artifacts(run.info.run_id, "samples")
    assert [sheet.path for sheet in sheets] == ["samples/step-0000020.png", "samples/step-0000040.png"]


def test_mlflow_that_cannot_start_is_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow, an optional tracker, is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(
        TalkingheadError,
        match=r"^mlflow: no run can be started \(.*nonsense.*\); correct "
        "MLFLOW_TRACKING_URI, or leave mlflow out of --track$",
    ):
        RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS)


def test_mlflow_shows_run_that_ended_by_an_error_as_failed(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    client = mlflow_client(tmp_path)
    RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS).close(failed=True)
    run_id = json.loads((tmp_path / FILE).read_text())["mlflow"]
    assert client.get_run(run_id).info.status == "FAILED"
    RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS).close()
    assert client.get_run(run_id).info.status == "FINISHED"


def test_mlflow_of_moved_folder_keeps_samples_in_it(empty_store: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "it's old", tmp_path / "new"
    old.mkdir()
    shutil.copy(empty_store, old)
    command = [sys.executable, "-c", WRITE_SAMPLES, str(old)]
    subprocess.run(command, check=True)  # MLflow remembers paths within a process
    old.rename(new)
    log = RunLog(new, 20, ("mlflow",), settings=SETTINGS)
    log.write_samples(40, rows())
    log.close()
    assert not old.exists()
    run_id = json.loads((new / FILE).read_text())["mlflow"]
    sheets = mlflow_client(new).list_artifacts(run_id, "samples")
    assert [sheet.path for sheet in sheets] == ["samples/step-0000020.png", "samples/step-0000040.png"]
    assert len(list((new / "mlartifacts").rglob("*.png"))) == 2


def test_mlflow_that_does_not_know_the_run_begins_another(
    empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(empty_store, tmp_path)
    client = mlflow_client(tmp_path)
    (tmp_path / FILE).write_text('{"mlflow": "0123", "wandb": "kept"}')
    RunLog(tmp_path, 20, ("mlflow",), settings=SETTINGS).close()
    ids = json.loads((tmp_path / FILE).read_text())
    assert client.get_run(ids["mlflow"]).data.params["seed"] == "3" and ids["wandb"] == "kept"
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("talkinghead")]
    assert line == "mlflow: does not know run 0123; the run continues as another there"
    client.delete_run(ids["mlflow"])
    RunLog(tmp_path, 20, ("mlflow",), settings=SETTINGS).close()
    assert json.loads((tmp_path / FILE).read_text())["mlflow"] != ids["mlflow"]


def test_password_of_mlflow_server_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow", reason="mlflow, an optional tracker, is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TalkingheadError, match=r"API request to http://\*\*\*@127.0.0.1:9/") as raised:
        RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS)
    RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS, restarts=True)
    assert "secret" not in str(raised.value) + caplog.text and "***@127.0.0.1" in caplog.text
