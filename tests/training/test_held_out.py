"""Evaluation of a run in a process of its own: `talkinghead evaluate` once, else a script in its place."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from support.minimal_training import minimal_config, write_data
from support.rank_commands import run_train
from talkinghead import cli, config
from talkinghead.cli import build_parser
from talkinghead.errors import TalkingheadError
from talkinghead.training import held_out, meta
from talkinghead.training.held_out import (
    HeldOutClips,
    HeldOutEvaluation,
    held_out_clips,
    read_table,
    table_rows,
)
from talkinghead.training.meta import train
from talkinghead.training.run_monitor import Monitoring

RESULTS = {
    "people": {"anna": {}, "bob": {}},
    "summary": {
        "all": {
            "8": {
                "feed-forward": {"ssim": {"mean": 0.5}, "identity": {"mean": None}},
                "fine-tuned": {"ssim": {"mean": 0.75}, "psnr": {"mean": 24.0}},
            }
        }
    },
}
WRITE_RESULTS = f"""
import json, os, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
assert Path(sys.argv[2]).is_file() and "RANK" not in os.environ
(out / "arguments.json").write_text(json.dumps([os.nice(0), *sys.argv[1:]]))
while Path(sys.argv[0]).with_name("wait").exists():
    time.sleep(0.01)
(out / "results.json").write_text({json.dumps(RESULTS)!r})
"""
FAIL = "print('one\\ntalkinghead: error: clips: no face is seen; name others'); raise SystemExit(2)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config._PRESETS, "tiny", minimal_config())
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1e9)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a script that runs in place of `talkinghead evaluate`; it waits while a file `wait` is there."""
    script = tmp_path / "script" / "program.py"
    script.parent.mkdir()
    script.write_text(WRITE_RESULTS)
    start = held_out.subprocess.Popen

    def popen(command: list[str], **settings: object) -> object:
        assert command[:3] == [sys.executable, "-m", "talkinghead"]
        return start([sys.executable, "-S", str(script), *command[3:]], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(held_out.subprocess, "Popen", popen)
    return script


def evaluation_in(folder: Path, every: int = 10) -> HeldOutEvaluation:
    """Return the evaluation of a run whose folder holds a model."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"model")
    return HeldOutEvaluation(folder, HeldOutClips(("clips",), every))


def wait_for(evaluation: HeldOutEvaluation, seconds: float = 30.0) -> object:
    """Return the results of the evaluation that runs."""
    end = time.monotonic() + seconds
    while evaluation._process is not None:
        if (result := evaluation.poll()) is not None:
            return result
        assert time.monotonic() < end
        time.sleep(0.01)
    return None


def test_evaluation_runs_at_low_priority_and_writes_table(
    program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    run = tmp_path / "run"
    evaluation = evaluation_in(run)
    with caplog.at_level("INFO", "talkinghead"):
        for step in (10, 20):
            evaluation.begin(step)
            scalars = {
                "held_out/T8/feed-forward/ssim": 0.5,
                "held_out/T8/fine-tuned/ssim": 0.75,
                "held_out/T8/fine-tuned/psnr": 24.0,
            }
            assert wait_for(evaluation) == (step, scalars)
    folder = run / "evaluations" / "step-0000020"
    nice, *arguments = json.loads((folder / "arguments.json").read_text())
    assert nice == 19
    assert arguments == [
        *("evaluate", str(folder / "model.safetensors"), "clips", "--out", str(folder), "--shots", "8"),
        *("--clips-each", "1", "--workers", "1", "--methods", "feed-forward", "fine-tuned"),
    ]
    assert not (folder / "model.safetensors").exists(), "the copy of the model stays"
    table = (run / "evaluations" / "table.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["step", "shots", "method", "people", "ssim", "psnr"]
    assert table[1:3] == ["10\t8\tfeed-forward\t2\t0.5\t", "10\t8\tfine-tuned\t2\t0.75\t24.0"]
    assert [row["step"] for row in read_table(run / "evaluations" / "table.tsv")] == ["10", "10", "20", "20"]
    text = "held out at step 20: T = 8 feed-forward SSIM 0.500, T = 8 fine-tuned SSIM 0.750 of 2 people"
    assert text in caplog.records[-1].getMessage()


def test_repeated_step_replaces_its_rows(program: Path, tmp_path: Path) -> None:
    evaluation = evaluation_in(tmp_path / "run")
    for step in (20, 10, 20):
        evaluation.begin(step)
        wait_for(evaluation)
    table = read_table(tmp_path / "run" / "evaluations" / "table.tsv")
    assert [row["step"] for row in table] == ["10", "10", "20", "20"]


def test_one_evaluation_at_a_time_and_skipped_one_is_last(
    program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = program.with_name("wait")
    waiting.touch()
    evaluation = evaluation_in(tmp_path / "run")
    evaluation.begin(10)
    with caplog.at_level("INFO", "talkinghead"):
        evaluation.begin(20)
    assert caplog.records[0].getMessage() == (
        f"{tmp_path / 'run'}: the model of step 20 is not evaluated, since the evaluation of step 10 still "
        "runs; a larger --evaluate-every fits"
    )
    waiting.unlink()
    finished = evaluation.finish(lambda: False)
    assert [step for step, _ in finished] == [10, 20]


def test_evaluation_that_fails_warns_with_its_reason(
    program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program.write_text(FAIL)
    evaluation = evaluation_in(tmp_path / "run")
    evaluation.begin(10)
    assert wait_for(evaluation) is None
    program.write_text("import os; os.kill(os.getpid(), 9)")
    evaluation.begin(20)
    assert wait_for(evaluation) is None
    reasons = ("clips: no face is seen; name others", "exit code -9")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'run'}: the model of step {step} was not evaluated ({reason}); training goes on"
        for step, reason in zip((10, 20), reasons, strict=True)
    ]
    program.write_text(WRITE_RESULTS)
    evaluation.begin(30)
    assert wait_for(evaluation) is not None


def test_stop_ends_the_process(program: Path, tmp_path: Path) -> None:
    program.with_name("wait").touch()
    evaluation = evaluation_in(tmp_path / "run")
    evaluation.begin(10)
    process = evaluation._process
    assert process is not None
    assert evaluation.finish(lambda: True) == []
    assert process.returncode == -signal.SIGTERM
    assert not (evaluation.folder(10) / "model.safetensors").exists()
    evaluation.stop()


def test_options_follow_variant_people_and_config(tmp_path: Path) -> None:
    clips = held_out_clips(tmp_path, 5, None, only=("anna",), feed_forward=True)
    assert clips is not None and clips.clips == (str(tmp_path),)
    assert clips.options()[-4:] == ["--methods", "feed-forward", "--only", "anna"]
    (tmp_path / "e.toml").touch()
    path = tmp_path / "e.toml"
    clips = held_out_clips([tmp_path], 5, path)
    assert clips is not None and clips.options() == ["--config", str(path)]
    clips = held_out_clips([tmp_path], 5, path, only=("anna",))
    assert clips is not None and clips.options() == ["--config", str(path), "--only", "anna"]
    assert held_out_clips((), 5, None) is None


@pytest.mark.parametrize(
    "text, methods",
    [
        ("", ["feed-forward", "nearest", "warped"]),
        ('[evaluate]\nmethods = ["nearest", "fine-tuned"]', ["nearest"]),
        ('[evaluate]\nmethods = ["fine-tuned"]', ["feed-forward"]),
        ("methods = 'warped'", ["warped"]),
        ("evaluate = 3", ["feed-forward", "nearest", "warped"]),
        ("methods = 3", ["3"]),
        ("no toml", ["feed-forward", "nearest", "warped"]),
    ],
)
def test_config_of_feed_forward_run_keeps_methods_without_fine_tuning(
    text: str, methods: list[str], tmp_path: Path
) -> None:
    (tmp_path / "e.toml").write_text(text)
    clips = held_out_clips(tmp_path, 5, tmp_path / "e.toml", feed_forward=True)
    assert clips is not None
    assert clips.options() == ["--config", str(tmp_path / "e.toml"), "--methods", *methods]


def test_evaluate_gives_options_of_train_precedence_over_config(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text('[evaluate]\nonly = ["bob"]\nmethods = ["fine-tuned", "nearest"]\nshots = [1]\n')
    clips = held_out_clips(tmp_path, 5, path, only=("anna",), feed_forward=True)
    assert clips is not None
    command = ["evaluate", "tiny", str(tmp_path), "--out", str(tmp_path / "out"), *clips.options()]
    args = build_parser().parse_args(command)
    assert (args.only, args.methods, args.shots) == (["anna"], ["nearest"], (1,))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("gone", 5, None), "gone: does not exist; correct what to evaluate on"),
        ((".", 0, None), "evaluate_every 0: is below 1; give 1 or more"),
        ((".", 5, "gone.toml"), "gone.toml: does not exist; correct what to evaluate on"),
        (((), 5, "e.toml"), "evaluate_config: there is nothing to evaluate on; name clips by evaluate"),
    ],
)
def test_bad_options_report_user_error(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(TalkingheadError) as raised:
        held_out_clips(*arguments)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_table_rows_leave_out_what_was_not_measured() -> None:
    assert table_rows(RESULTS) == [
        {"shots": 8, "method": "feed-forward", "people": 2, "ssim": 0.5},
        {"shots": 8, "method": "fine-tuned", "people": 2, "ssim": 0.75, "psnr": 24.0},
    ]
    assert read_table(Path("gone")) == []


def test_train_evaluates_every_so_many_steps_and_at_the_end(
    program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta, "LOG_EVERY_STEPS", 1)
    monitoring = Monitoring(evaluate=data, evaluate_every=2)
    train(data, tmp_path / "run", "tiny", steps=3, exclude_identities=["second"], monitoring=monitoring)
    table = read_table(tmp_path / "run" / "evaluations" / "table.tsv")
    assert {row["step"] for row in table} >= {"3"} and len(table) % 2 == 0
    arguments = json.loads((tmp_path / "run" / "evaluations" / "step-0000003" / "arguments.json").read_text())
    assert arguments[-2:] == ["--only", "second"] and str(data) in arguments
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "log"))
    events.Reload()
    assert events.Scalars("held_out/T8/fine-tuned/ssim")[-1].step == 3


def test_interrupted_train_ends_evaluation(
    program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.with_name("wait").touch()
    processes = []
    begin = HeldOutEvaluation.begin

    def begin_and_interrupt(self: HeldOutEvaluation, step: int) -> None:
        begin(self, step)
        processes.append(self._process)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(HeldOutEvaluation, "begin", begin_and_interrupt)
    command = ["train", str(data), "--out", str(tmp_path / "run"), "--steps", "9", "--quiet"]
    assert cli.main([*command, "--evaluate", str(data), "--evaluate-every", "2"]) == cli.INTERRUPTED
    (process,) = processes
    assert process is not None and process.returncode == -signal.SIGTERM


def test_interrupted_evaluation_of_last_model_is_repeated(
    program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.with_name("wait").touch()
    begin = HeldOutEvaluation.begin
    steps = []

    def begin_and_interrupt(self: HeldOutEvaluation, step: int) -> None:
        begin(self, step)
        steps.append(step)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(HeldOutEvaluation, "begin", begin_and_interrupt)
    command = ["train", str(data), "--out", str(tmp_path / "run"), "--steps", "3", "--quiet"]
    command += ["--track", "none", "--evaluate", str(data), "--evaluate-every", "100"]
    assert cli.main(command) == cli.INTERRUPTED
    table = tmp_path / "run" / "evaluations" / "table.tsv"
    assert read_table(table) == [] and steps == [3]
    program.with_name("wait").unlink()
    assert cli.main(command) == 0
    assert {row["step"] for row in read_table(table)} == {"3"}
    assert cli.main(command) == 0
    assert steps == [3, 3], "a step that the table has is evaluated again"


def test_finished_run_is_evaluated_when_that_is_asked_for_later(
    program: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(data, out, "tiny", steps=3, monitoring=Monitoring(track=("none",)))
    state = (out / "state.safetensors").stat()
    monitoring = Monitoring(track=("none",), evaluate=data, evaluate_every=100)
    train(data, out, "tiny", steps=3, monitoring=monitoring)
    assert {row["step"] for row in read_table(out / "evaluations" / "table.tsv")} == {"3"}
    assert (out / "state.safetensors").stat().st_mtime_ns == state.st_mtime_ns


def test_missing_evaluation_is_one_of_a_due_step_outside_the_table(program: Path, tmp_path: Path) -> None:
    evaluation = evaluation_in(tmp_path / "run")
    assert [evaluation.is_missing(step, 25) for step in (0, 5, 10, 25, 30)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    program.with_name("wait").touch()
    evaluation.begin(10)
    assert not evaluation.is_missing(10, 25), "it runs"
    program.with_name("wait").unlink()
    wait_for(evaluation)
    assert not evaluation.is_missing(10, 25) and evaluation.is_missing(20, 25)


@pytest.mark.slow  # `talkinghead evaluate` itself, at low priority
def test_first_rank_alone_evaluates(data: Path, tmp_path: Path) -> None:
    options = 'shots = [1]\nmethods = ["feed-forward", "nearest"]\nnum-held-out = 2\nworkers = 1\n'
    (tmp_path / "quick.toml").write_text(f"[evaluate]\n{options}")
    arguments = [str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--track", "none"]
    evaluate = ["--evaluate", str(data), "--evaluate-config", str(tmp_path / "quick.toml")]
    outcome = run_train([*arguments, *evaluate], 2, tmp_path / "log")
    assert outcome.codes == [0, 0], outcome.printed
    assert "held out at step 2: T = 1 feed-forward SSIM 0." in outcome.printed[0]
    assert outcome.printed[1] == ""
    (folder,) = (path for path in (tmp_path / "run" / "evaluations").iterdir() if path.is_dir())
    assert folder.name == "step-0000002" and (folder / "sheet.png").exists()
    rows = read_table(tmp_path / "run" / "evaluations" / "table.tsv")
    assert [(row["step"], row["method"]) for row in rows] == [("2", "feed-forward"), ("2", "nearest")]
