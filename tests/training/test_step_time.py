"""The expected time of fine-tuning."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from talkinghead.cli import build_parser
from talkinghead.cli.finetune import MEASURED_SECONDS, STEPS_HELP
from talkinghead.clip import Clip
from talkinghead.config import preset
from talkinghead.model import networks_of, random_model, state_tensors
from talkinghead.pipelines.finetune import finetune
from talkinghead.training import step_time
from talkinghead.training.finetune import FinetuneRun
from talkinghead.training.step_time import describe_run, estimate_seconds, format_duration


def test_estimate_leaves_model_and_result_alone(carphone_clip: Clip) -> None:
    model, clip = random_model("tiny"), carphone_clip[:2]
    before = copy.deepcopy(state_tensors(networks_of(model)))
    random_state = torch.get_rng_state()
    seconds = estimate_seconds(model, clip, 40, perceptual=[])
    assert seconds is not None and seconds > 0
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[name], value) for name, value in state_tensors(networks_of(model)).items())
    after = finetune(model, clip, steps=1, perceptual=[])
    alone = finetune(random_model("tiny"), clip, steps=1, perceptual=[])
    assert torch.equal(after.styles, alone.styles)


@pytest.mark.parametrize(("durations", "expected"), [([1.3, 0.8, 0.9], 0.8), ([4.0, 3.0, 3.0], 4.0)])
def test_estimate_is_the_fastest_whole_step(
    carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch, durations: list[float], expected: float
) -> None:
    sizes: list[int] = []
    now = [0.0]
    monkeypatch.setattr("talkinghead.training.finetune.perf_counter", lambda: now[0])
    real = step_time.FinetuneRun.__init__

    def init(self: FinetuneRun, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        take_step = self._step

        def step(images: Any, *others: Any) -> Any:
            if sizes:  # the first step warms up
                now[0] += durations[len(sizes) - 1]
            sizes.append(len(images))
            return take_step(images, *others)

        self._step = step

    monkeypatch.setattr(step_time.FinetuneRun, "__init__", init)
    seconds = estimate_seconds(random_model("tiny"), carphone_clip[:3], 40, perceptual=[])
    assert seconds == pytest.approx(40 * expected)
    assert sizes == [1, 3, 3, 3] if expected < 1 else [1, 3]


def test_short_run_is_not_estimated(carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FinetuneRun, "measure_step_seconds", lambda self: pytest.fail("measured"))
    assert estimate_seconds(random_model("tiny"), carphone_clip[:1], 29, perceptual=[]) is None
    assert describe_run(random_model("tiny"), carphone_clip[:1], 29) == "learning 29 steps"


def test_describe_run_names_default_and_time(carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FinetuneRun, "measure_step_seconds", lambda self: 0.5)
    model = random_model("tiny")
    lines = [
        describe_run(model, carphone_clip[:1], perceptual=[]),
        describe_run(model, carphone_clip[:1], 40, perceptual=[]),
        describe_run(model, carphone_clip[:1], None, early_stopping=True, perceptual=[]),
    ]
    assert lines == [
        "learning 160 steps (tiny's default), about 80 s here",
        "learning 40 steps, about 20 s here",
        "learning up to 640 steps (four times tiny's default), at most about 5 min here",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "1 s"), (7.4, "5 s"), (88, "90 s"), (91, "2 min"), (5399, "90 min"), (7300, "2 h")],
)
def test_format_duration_rounds(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_help_names_times_of_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
    (row,) = re.findall(r"^\| fine-tuning on 8 pictures \|(.*)\|$", page.read_text(), re.MULTILINE)
    assert [int(cell.split()[0]) for cell in row.split("|")] == [
        MEASURED_SECONDS[name] for name in ("tiny", "small", "portrait")
    ]
    with pytest.raises(SystemExit):
        build_parser(only="finetune").parse_args(["finetune", "--help"])
    assert "portrait 24, tiny 57, small 141 seconds" in " ".join(capsys.readouterr().out.split())


def test_help_names_default_steps_of_shipped_presets() -> None:
    assert [preset(name).finetune.steps(16) for name in ("portrait", "tiny", "small")] == [40, 160, 160]
    assert [preset(name).finetune.steps(32) for name in ("portrait", "tiny", "small")] == [80, 320, 320]
    assert all(
        text in STEPS_HELP for text in ("portrait takes 40", "tiny 160", "small 160", "32 pictures twice")
    )
