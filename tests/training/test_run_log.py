"""Trackers of a run, the libraries themselves: TensorBoard, W&B and MLflow, offline; and sample sheets."""

import json
import struct
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.minimal_training import minimal_config, write_data
from talkinghead import cli, config
from talkinghead.errors import TalkingheadError
from talkinghead.training import meta, run_log
from talkinghead.training.health import NotFiniteError
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.run_log import RunLog, check_trackers
from talkinghead.training.run_monitor import Monitoring
from talkinghead.training.tracked_runs import FILE
from talkinghead.training.wandb_tracker import WandbTracker

SETTINGS = {"seed": 3, "config": {"preset": "tiny", "meta": {"batch": 2}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a minimal network; let no tracker use the network."""
    monkeypatch.setitem(config._PRESETS, "tiny", minimal_config())
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1e9)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)


def rows() -> list[torch.Tensor]:
    """Return four rows of two images each: black, grey, white, and brighter than white."""
    return [torch.full((2, 3, 4, 4), value) for value in (-1.0, 0.0, 1.0, 5.0)]


def wandb_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file of an offline run: LevelDB's log format after a header of 7 bytes."""
    data, position, record = path.read_bytes(), 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:  # the rest of a block, too short for a record
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def offline_runs(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what W&B's files of a run hold, by the folder of each start: the values of every row."""
    from wandb.proto import wandb_internal_pb2

    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "wandb").glob("offline-run-*/run-*.wandb")):
        runs[path.parent.name] = []
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            items = record.history.item
            if items:
                names = [item.key or ".".join(item.nested_key) for item in items]
                values = [json.loads(item.value_json) for item in items]
                runs[path.parent.name].append(dict(zip(names, values, strict=True)))
    return runs


def test_sample_sheet_has_rows_of_images(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, (), settings=SETTINGS)
    log.write_samples(500, rows())
    sheet = np.asarray(Image.open(tmp_path / "samples" / "step-0000500.png"))
    assert sheet.shape == (16, 8, 3)
    assert [int(sheet[number, 0, 0]) for number in (0, 4, 8, 12)] == [0, 128, 255, 255]


def test_samples_without_room_end_with_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "samples").write_text("in the way")
    log = RunLog(tmp_path, 0, ("tensorboard",), settings=SETTINGS)
    log.write_samples(500, rows())
    log.close()
    assert [
        record.getMessage().endswith("the run continues without sample sheets") for record in caplog.records
    ] == [True]


def test_wandb_holds_scalars_and_samples_of_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb, an optional tracker, is not installed")
    for step in (20, 40):
        log = RunLog(tmp_path, step - 20, ("wandb",), settings=SETTINGS)
        log.write_scalars(step, {"content": 1.5 * step, "held_out/T8/fine-tuned/ssim": 0.5})
        log.write_samples(step, rows())
        log.close()
    runs = offline_runs(tmp_path)
    run_id = json.loads((tmp_path / FILE).read_text())["wandb"]
    assert len(runs) == 2 and all(run_id in name for name in runs)
    for step, rows_of_start in zip((20, 40), runs.values(), strict=True):
        scalars, samples = rows_of_start
        assert (scalars["step"], scalars["content"]) == (step, 1.5 * step)
        assert scalars["held_out/T8/fine-tuned/ssim"] == 0.5
        assert samples["step"] == step and "source, landmarks, generated, true" in str(samples)
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 2


def test_wandb_run_that_starts_again_in_one_process_keeps_its_data(tmp_path: Path) -> None:
    """Start as a run does that goes back, which lost data in about half of the starts."""
    pytest.importorskip("wandb", reason="wandb, an optional tracker, is not installed")
    for step in range(20, 120, 20):
        log = RunLog(tmp_path, 0, ("wandb",), settings=SETTINGS)
        log.write_scalars(step, {"content": 1.5 * step})
        log.close()
    steps = [row["step"] for rows in offline_runs(tmp_path).values() for row in rows]
    assert sorted(steps) == [20, 40, 60, 80, 100]


def test_wandb_that_cannot_start_is_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb, an optional tracker, is not installed")

    def refuse(**_: object) -> None:
        raise wandb.errors.UsageError("https://me:secret@server: no api_key (no-tty)\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        TalkingheadError,
        match=r"^wandb: no run can be started \(https://\*\*\*@server: no api_key \(no-tty\)\); "
        "run `wandb login`, set WANDB_MODE=offline, or leave wandb out of --track$",
    ):
        RunLog(tmp_path, 0, ("wandb",), settings=SETTINGS)


def test_warning_of_tracker_hides_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeTracker):
        def write_scalars(self, step: int, values: object) -> None:
            raise ValueError("https://user:secret@server/api is down")

    monkeypatch.setattr(run_log, "MlflowTracker", lambda *_: Broken([]))
    RunLog(tmp_path, 0, ("mlflow",), settings=SETTINGS).write_scalars(1, {})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("mlflow: cannot be written to (https://***@server/api is down)")


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_missing_tracker_is_one_line_with_pip(
    tracker: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    command = [
        "train",
        str(data),
        "--out",
        str(tmp_path),
        "--steps",
        "1",
        "--quiet",
        "--track",
        "tensorboard",
    ]
    assert cli.main([*command, tracker]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"talkinghead: error: {tracker} is needed here and cannot be imported")
    assert line.endswith(f"pip install 'talkinghead[{tracker}]'")


def test_tracker_that_fails_ends_and_run_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb", reason="wandb, an optional tracker, is not installed")
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise ConnectionError("the server has gone\nfor good")

    monkeypatch.setattr(WandbTracker, "write_scalars", fail)
    monkeypatch.setattr(meta, "LOG_EVERY_STEPS", 1)
    monitoring = Monitoring(track=("tensorboard", "wandb"))
    assert train(data, tmp_path, "tiny", steps=3, monitoring=monitoring).provenance["steps"] == 3
    warning = "wandb: cannot be written to (the server has gone); the run continues without its log"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [warning]
    assert len(calls) == 1 and scalars_of(tmp_path)["content"] == [1, 2, 3]


class FakeTracker:
    """Tracker that records how often it started and how each start ended.

    Args:
        refuses: numbers of the starts that fail.
        events: where to record.
    """

    place, errors = "mlflow", (Exception,)

    def __init__(self, events: list[object], refuses: tuple[int, ...] = ()) -> None:
        self._events = events
        events.append("start")
        if events.count("start") in refuses:
            raise TalkingheadError("mlflow: no run can be started (it is down); leave mlflow out of --track")

    def write_scalars(self, step: int, values: object) -> None:
        self._events.append(step)

    def write_image(self, step: int, *_: object) -> None:
        self._events.append(f"sheet {step}")

    def close(self, *, failed: bool = False) -> None:
        self._events.append("failed" if failed else "finished")


def make_infinite(monkeypatch: pytest.MonkeyPatch, steps: Container[int]) -> None:
    """Let a loss be infinite in these steps, counted over all that are taken."""
    original, count = MetaLearner.step, 0

    def take(self: MetaLearner, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        metrics, images = original(self, *arguments)
        if count in steps:
            metrics["content"] = torch.tensor(torch.inf)
        return metrics, images

    monkeypatch.setattr(MetaLearner, "step", take)


def test_run_that_goes_back_continues_without_tracker_that_is_down(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[object] = []
    monkeypatch.setattr(run_log, "MlflowTracker", lambda *_: FakeTracker(events, refuses=(2,)))
    make_infinite(monkeypatch, [2])
    model = train(data, tmp_path, "tiny", steps=3, monitoring=Monitoring(track=("mlflow",)))
    assert model.provenance["steps"] == 3 and events == ["start", "failed", "start"]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert lines[1:] == ["mlflow: no run can be started (it is down); the run continues without its log"]


def test_trackers_are_told_whether_the_run_failed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    monkeypatch.setattr(run_log, "MlflowTracker", lambda *_: FakeTracker(events))
    monitoring = Monitoring(track=("mlflow",))
    train(data, tmp_path, "tiny", steps=2, monitoring=monitoring)
    assert events == ["start", 2, "sheet 2", "finished"]
    make_infinite(monkeypatch, range(100))
    with pytest.raises(NotFiniteError):
        train(data, tmp_path, "tiny", steps=4, monitoring=monitoring)
    assert events[4:] == ["start", "failed", "start", "failed"]


def test_tracker_that_cannot_start_closes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    monkeypatch.setattr(run_log, "WandbTracker", lambda *_: FakeTracker(events))
    monkeypatch.setattr(run_log, "MlflowTracker", lambda *_: FakeTracker(events, refuses=(2,)))
    with pytest.raises(TalkingheadError, match="no run can be started"):
        RunLog(tmp_path, 0, ("wandb", "mlflow"), settings=SETTINGS)
    assert events == ["start", "start", "failed"]


def scalars_of(out: Path) -> dict[str, list[int]]:
    """Return the steps of every scalar in TensorBoard's log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "log"))
    events.Reload()
    return {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_train_logs_health_throughput_and_waiting(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    names = {
        "grad_norm_embedder",
        "grad_norm_generator",
        "grad_norm_discriminator",
        "score_gap",
        "live_units",
    }
    names |= {"episodes_per_second", "percent_of_peak", "data_wait_seconds", "discriminator", "content"}
    assert names <= set(scalars_of(tmp_path))


def test_track_none_writes_no_log(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1, monitoring=Monitoring(track=("none",)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.safetensors", "samples", "state.safetensors", "times.json"]


def test_check_trackers_rejects_unknown_and_contradicting_names() -> None:
    assert check_trackers(["mlflow", "wandb"]) == ("mlflow", "wandb") and check_trackers("none") == ()
    with pytest.raises(
        TalkingheadError, match="track: 'wandd' is unknown; choose of .* or none; did you mean wandb"
    ):
        check_trackers(["wandd"])
    with pytest.raises(TalkingheadError, match="track: none stands beside other trackers"):
        check_trackers(["none", "wandb"])
