"""Health of a run: values that are not finite, alarms of the discriminator, going back to the last state."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from support.minimal_training import minimal_config, write_data
from support.rank_commands import BATCH, run_train
from talkinghead import cli, config
from talkinghead.errors import TalkingheadError
from talkinghead.training import meta
from talkinghead.training.adversarial import gradient_norms
from talkinghead.training.health import ALARMS, Health, MetricReader, NotFiniteError
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.ranks import ONE_RANK

LEARNING = {
    "discriminator": 0.9,
    "score_gap": 2.0,
    "grad_norm_discriminator": 3.0,
    "live_units": 0.9,
    "content": 1.0,
}
MODEL = Path("run/model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config._PRESETS, "tiny", minimal_config())
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1e9)


def header_of(out: Path) -> dict[str, Any]:
    """Return the header of a run's state."""
    with safe_open(out / "state.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["talkinghead"])["run"]


def damage(monkeypatch: pytest.MonkeyPatch, step: int, rate: float | None = None) -> None:
    """Let a weight become nan in the step after `step`, where learning rates are `rate` times the usual."""
    original, usual = MetaLearner.step, minimal_config().meta.generator.learning_rate

    def take(self: MetaLearner, *arguments: Any) -> Any:
        factor = self.generator_optimiser.param_groups[0]["lr"] / usual
        if self._steps == step and rate in (None, factor):
            with torch.no_grad():
                next(self.discriminator.parameters()).fill_(torch.nan)
        return original(self, *arguments)

    monkeypatch.setattr(MetaLearner, "step", take)


# what is not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_reader_reports_earlier_step_that_was_not_finite(value: float) -> None:
    reader = MetricReader(ONE_RANK, torch.device("cpu"))
    good = {"content": torch.tensor(1.5), "pixel": torch.tensor(2.0)}
    reader.add(good)
    assert reader.read(good, "run", 1) == {"content": 1.5, "pixel": 2.0}
    reader.add(good | {"pixel": torch.tensor(value)})
    reader.add(good)
    with pytest.raises(
        NotFiniteError, match=r"^run: a loss or gradient is not finite at step 3 \(content 1.5, pixel 2\)$"
    ):
        reader.read(good, "run", 3)
    assert reader.read(good, "run", 4)["pixel"] == 2.0


def test_infinite_gradient_is_not_finite_in_metrics(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = MetaLearner._accumulate_gradients

    def accumulate(self: MetaLearner, *arguments: Any) -> Any:
        result = original(self, *arguments)
        next(self.embedder.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(MetaLearner, "_accumulate_gradients", accumulate)
    reader_add = MetricReader.add
    monkeypatch.setattr(
        MetricReader, "add", lambda self, metrics: (seen.append(metrics), reader_add(self, metrics))
    )
    with pytest.raises(NotFiniteError, match="grad_norm_embedder inf"):
        train(data, data / "run", "tiny", steps=1)
    assert torch.isfinite(seen[0]["content"]) and torch.isinf(seen[0]["grad_norm_embedder"])


# going back


def test_run_goes_back_with_lower_rates_and_ends(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage(monkeypatch, step=6, rate=1.0)
    train(data, tmp_path / "run", "tiny", steps=4)
    with caplog.at_level("WARNING", "talkinghead"):
        model = train(data, tmp_path / "run", "tiny", steps=9)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "run: a loss or gradient is not finite at step 9 (" in line
    assert line.endswith("; going back to step 4, with learning rates times 0.5 from there on")
    assert model.provenance["steps"] == 9
    assert all(torch.isfinite(tensor).all() for tensor in model.generator.state_dict().values())
    assert header_of(tmp_path / "run")["health"]["rate"] == 0.5


def test_run_goes_back_to_start_without_saved_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage(monkeypatch, step=2, rate=1.0)
    with caplog.at_level("WARNING", "talkinghead"):
        train(data, tmp_path / "run", "tiny", steps=5, seed=3)
    assert "going back to step 0, with learning rates times 0.5" in caplog.records[0].getMessage()
    preset = minimal_config()
    halves = {
        name: replace(rates, learning_rate=rates.learning_rate / 2)
        for name, rates in (
            ("generator", preset.meta.generator),
            ("discriminator", preset.meta.discriminator),
        )
    }
    monkeypatch.setitem(config._PRESETS, "tiny", replace(preset, meta=replace(preset.meta, **halves)))
    train(data, tmp_path / "half", "tiny", steps=5, seed=3)
    went_back, half_rate = (load_file(tmp_path / name / "state.safetensors") for name in ("run", "half"))
    assert [name for name in half_rate if not torch.equal(went_back[name], half_rate[name])] == []


def test_second_time_ends_run_with_exit_code_2(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tmp_path / "run", "tiny", steps=1)
    damage(monkeypatch, step=2)
    saved = load_file(tmp_path / "run" / "state.safetensors")
    command = ["train", str(data), "--out", str(tmp_path / "run"), "--steps", "4"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"talkinghead: error: {tmp_path / 'run'}: a loss or gradient is not finite at step 4 ("
    )
    assert "although the learning rates were lowered at step 1; start another run with lower ones" in error
    after = load_file(tmp_path / "run" / "state.safetensors")
    assert all(torch.equal(after[name], saved[name]) for name in saved)
    assert cli.main(command) == 2, "the run goes back once, whatever how often it is started"
    assert "going back" not in capsys.readouterr().err


def test_lowered_rate_resumes_bit_for_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, step=3, rate=1.0)
    for name, ends in (("whole", [2, 8]), ("resumed", [2, 5, 8])):
        for steps in ends:
            train(data, tmp_path / name, "tiny", steps=steps)
    whole, resumed = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "resumed"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert header_of(tmp_path / "resumed")["health"] == header_of(tmp_path / "whole")["health"]


def damage_one_rank(rank: int) -> None:
    """Let a loss of rank 1 alone be infinite in step 4, once."""
    original, steps = MetaLearner.step, 0

    def take(self: MetaLearner, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        metrics, rows = original(self, *arguments)
        if rank == 1 and steps == 4:
            metrics["content"] = torch.tensor(torch.inf)
        return metrics, rows

    MetaLearner.step = take  # type: ignore[method-assign]


def test_ranks_go_back_together(data: Path, tmp_path: Path) -> None:
    arguments = [str(data), "--out", str(tmp_path / "run"), "--save-every", "0.001", "--track", "none"]
    outcome = run_train([*arguments, "--steps", "6"], 2, tmp_path / "log", damage_one_rank)
    assert outcome.codes == [0, 0], outcome.printed
    assert outcome.printed[0].count("going back to step 3, with learning rates times 0.5") == 1
    header = header_of(tmp_path / "run")
    assert (header["step"], header["health"]["lowered_at"]) == (6, 3)


def damage_second_step(rank: int) -> None:
    """Let a loss be infinite in the second step that this process takes, once."""
    original, steps = MetaLearner.step, 0

    def take(self: MetaLearner, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        metrics, rows = original(self, *arguments)
        if steps == 2:
            metrics["content"] = torch.tensor(torch.inf)
        return metrics, rows

    MetaLearner.step = take  # type: ignore[method-assign]


def test_run_extended_to_ranks_goes_back_before_first_save(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = minimal_config()
    shared = replace(preset.meta, batch=BATCH, videos=20)
    monkeypatch.setitem(config._PRESETS, "tiny", replace(preset, meta=shared))
    train(data, tmp_path / "run", "tiny", steps=2)
    arguments = [str(data), "--out", str(tmp_path / "run"), "--steps", "6", "--track", "none"]
    outcome = run_train(arguments, 2, tmp_path / "log", damage_second_step)
    assert outcome.codes == [0, 0], outcome.printed
    assert outcome.printed[0].count("going back to step 2, with learning rates times 0.5") == 1
    header = header_of(tmp_path / "run")
    assert (header["step"], header["health"]["lowered_at"], header["dealt"]) == (6, 2, True)


def damage_always(rank: int) -> None:
    """Let a loss of rank 1 alone be nan in every step from the fourth of the run on."""
    original = MetaLearner.step

    def take(self: MetaLearner, *arguments: Any) -> Any:
        metrics, rows = original(self, *arguments)
        if rank == 1 and self._steps >= 4:
            metrics["content"] = torch.tensor(torch.nan)
        return metrics, rows

    MetaLearner.step = take  # type: ignore[method-assign]


def test_ranks_end_together_with_line_of_first(data: Path, tmp_path: Path) -> None:
    arguments = [str(data), "--out", str(tmp_path / "run"), "--save-every", "0.001", "--track", "none"]
    outcome = run_train([*arguments, "--steps", "6", "--quiet"], 2, tmp_path / "log", damage_always)
    assert outcome.codes == [2, 2], outcome.printed
    (line,) = outcome.printed[0].splitlines()
    assert "although the learning rates were lowered at step 3" in line and outcome.printed[1] == ""
    assert header_of(tmp_path / "run")["step"] == 3


# alarms


def alarms_of(values: dict[str, float], steps: int, health: Health | None = None) -> list[tuple[int, str]]:
    """Return the alarms of steps with such metrics, measured every 20 steps."""
    health = health or Health()
    return [(step, line) for step in range(20, steps + 1, 20) for line in health.check(step, values, MODEL)]


@pytest.mark.parametrize(
    "changes, step, text",
    [
        (
            {"discriminator": 0.01, "score_gap": 9.0},
            1020,
            "the discriminator wins: its loss has been about 0 for 1000 steps (0.01, score gap 9)",
        ),
        (
            {"discriminator": 2.0, "score_gap": -0.01},
            2020,
            "does not learn: its scores of real and generated frames have been equal for 2000 steps (score "
            "gap -0.01)",
        ),
        (
            {"grad_norm_discriminator": 0.0, "live_units": 0.25},
            220,
            "has no gradient for 200 steps (25% of its units are active)",
        ),
    ],
)
def test_alarm_is_raised_once_with_remedy(changes: dict[str, float], step: int, text: str) -> None:
    ((raised_at, line),) = alarms_of(LEARNING | changes, 5000)
    assert raised_at == step and text in line
    assert line.endswith(
        "in a preset of your own, and start another run with --init-from run/model.safetensors"
    )


def test_learning_discriminator_raises_no_alarm() -> None:
    """Check the recorded runs too, of which all but one learned well."""
    assert alarms_of(LEARNING, 5000) == []
    path = Path(__file__).resolve().parents[2] / "bench" / "results" / "paper_start.json"
    for run in json.loads(path.read_text())["runs"]:
        health = Health()
        for number, means in enumerate(run["mean_of_each_100_steps"]):
            for step in range(100 * number + 20, 100 * number + 101, 20):
                assert health.check(step, means | {"grad_norm_discriminator": 1.0}, MODEL) == []
        assert health.since == {}


def test_alarm_waits_for_condition_without_interruption() -> None:
    health = Health()
    won = LEARNING | {"discriminator": 0.0}
    assert alarms_of(won, 900, health) == []
    assert health.check(920, LEARNING, MODEL) == [] and health.since == {}
    assert [health.check(step, won, MODEL) for step in range(940, 1700, 20)] == [[]] * 38


def test_gradient_that_ends_in_a_learning_run_raises_alarm() -> None:
    """Check that no average hides it, in which it would show after thousands of steps."""
    health = Health()
    assert alarms_of(LEARNING, 1000, health) == []
    stuck = LEARNING | {"grad_norm_discriminator": 0.0}
    lines = {step: health.check(step, stuck, MODEL) for step in range(1020, 1241, 20)}
    assert [step for step, texts in lines.items() if texts] == [1220]


class HostReads(TorchDispatchMode):
    """Counts the values that Python reads from a device, for each of which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_norms_and_flag_wait_for_no_device() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.full((4,), 3.0)
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    reader = MetricReader(ONE_RANK, torch.device("cpu"))
    with HostReads() as reads:
        (norm,) = gradient_norms(optimiser)
        reader.add({"norm": norm, "loss": norm / 0})
        assert reads.count == 0
        float(norm)
    assert reads.count == 1 and norm == 6.0


def test_health_of_header_goes_on_with_the_same_alarms() -> None:
    won = LEARNING | {"discriminator": 0.0}
    health = Health()
    alarms_of(won, 900, health)
    stored = json.loads(json.dumps(health.to_header()))
    resumed = Health.from_header(stored)
    for step in range(920, 1200, 20):
        assert resumed.check(step, won, MODEL) == health.check(step, won, MODEL)
    assert resumed == health and resumed.raised == ["wins"]
    assert Health.from_header({"step": 3}) == Health() and Health().to_header() == {}
    assert Health.from_header({"health": {"rate": 0.5, "later": 1}}).rate == 0.5


def test_run_without_discriminator_raises_no_alarm() -> None:
    assert alarms_of({"content": 1.0}, 5000) == [] and len(ALARMS) == 3


def test_train_logs_alarm(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meta, "LOG_EVERY_STEPS", 1)
    monkeypatch.setattr(Health, "check", lambda self, step, values, model: [f"alarm at {step}, {model.name}"])
    with caplog.at_level("WARNING", "talkinghead"):
        train(data, tmp_path, "tiny", steps=2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{tmp_path}: alarm at {step}, model.safetensors" for step in (1, 2)]


def test_not_finite_error_is_error_for_users() -> None:
    assert issubclass(NotFiniteError, TalkingheadError)
