"""Training runs of the landmark network."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_landmark_crops import write_faces

from talkinghead import cli
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.network import load_landmark_network
from talkinghead.training import landmark_run, network_run
from talkinghead.training.landmark_run import train_landmarks


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take steps of few crops."""
    monkeypatch.setattr(landmark_run, "BATCH", 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Shards of two people."""
    return write_faces(tmp_path / "data")


@pytest.mark.slow
def test_run_learns_to_find_the_face(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmark_run, "BATCH", 8)
    errors: list[float] = []
    train_landmarks(
        data,
        tmp_path / "run",
        steps=100,
        on_step=lambda step, steps, values: errors.append(values.get("error", 1.0)),
    )
    assert len(errors) == 100
    assert errors[-1] < 0.2


def test_interrupted_run_resumes_to_the_same_network(data: Path, tmp_path: Path) -> None:
    whole = train_landmarks(data, tmp_path / "whole", steps=6, save_seconds=0.0)
    folder = tmp_path / "parts"

    def interrupt(step: int, steps: int, values: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_run, "_LOG_EVERY_STEPS", 3)
        with pytest.raises(KeyboardInterrupt):
            train_landmarks(data, folder, steps=6, on_step=interrupt)
    resumed = train_landmarks(data, folder, steps=6)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    files = [load_file(out / "network.safetensors") for out in (tmp_path / "whole", folder)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_run_of_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    train_landmarks(data, tmp_path / "run", steps=1)
    with pytest.raises(TalkingheadError, match=r"run: holds a run with seed 0, not 1; choose another --out"):
        train_landmarks(data, tmp_path / "run", steps=2, seed=1)


def test_run_starts_from_given_network(data: Path, tmp_path: Path) -> None:
    train_landmarks(data, tmp_path / "first", steps=2)
    path = tmp_path / "first" / "network.safetensors"
    train_landmarks(data, tmp_path / "second", steps=1, init_from=path)
    before, after = (
        load_landmark_network(path),
        load_landmark_network(tmp_path / "second" / "network.safetensors"),
    )
    difference = max(
        float((value - after.state_dict()[name]).abs().max())
        for name, value in before.state_dict().items()
        if name.endswith("conv.weight") or name == "votes.weight"
    )
    assert difference < 0.01


def test_output_never_overwrites_initial_network(data: Path, tmp_path: Path) -> None:
    train_landmarks(data, tmp_path / "run", steps=1)
    path = tmp_path / "run" / "network.safetensors"
    with pytest.raises(TalkingheadError, match="network.safetensors"):
        train_landmarks(data, tmp_path / "run", steps=2, init_from=path)


def test_command_trains_and_names_the_network(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train-landmarks", str(data), "--out", str(out), "--steps", "1", "--json"]) == 0
    assert str(out / "network.safetensors") in capsys.readouterr().out


def test_command_without_data_reports_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train-landmarks", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == cli.USER_ERROR
    assert "holds no shards" in capsys.readouterr().err


def test_learning_rate_scales_the_steps(data: Path, tmp_path: Path) -> None:
    networks = [
        train_landmarks(data, tmp_path / str(rate), steps=3, learning_rate=rate) for rate in (1e-9, 1e-2)
    ]
    still, moved = (network.state_dict()["votes.weight"] for network in networks)
    assert (still - moved).abs().max() > 1e-6
