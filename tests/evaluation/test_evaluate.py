"""The verb from clips to pictures, on a model of few channels; and what is wrong, in one line."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL_NETWORKS, draw_video
from talkinghead import cli
from talkinghead.checkpoint import load_model, random_model, save_model
from talkinghead.config import Config, preset
from talkinghead.evaluation.clips import DEFAULT_ROWS, ROWS, Measure, Protocol
from talkinghead.evaluation.judge import METRICS
from talkinghead.evaluation.material import find_subjects

NETWORKS = replace(SMALL_NETWORKS, image_size=64, discriminator_gain=0.01, embedding_gain=0.01)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file: random weights, few channels, 64x64."""
    tiny = preset("tiny")
    model = random_model(Config("tiny", NETWORKS, tiny.meta, tiny.finetune, tiny.perceptual), seed=5)
    model.provenance["people"] = ["first"]
    path = tmp_path_factory.mktemp("little") / "little.safetensors"
    save_model(model, path)
    return path


def run(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments), "--workers", "1"])


COMMON = ("--shots", "1,2", "--held-out", "3", "--steps", "1", "--curve", "2", "--landmarks", "dlib")


@pytest.fixture(scope="module")
def made(little: Path, face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    assert run(little, face_shards, "--out", out, "--quiet", "--rows", *ROWS, *COMMON) == 0
    return out, json.loads((out / "results.json").read_text())


def test_everything_is_measured(made: tuple[Path, dict[str, Any]]) -> None:
    _, results = made
    assert results["settings"]["steps"] == {"1": 1, "2": 1} and results["settings"]["frechet"]["name"] == "FED"
    assert set(results["people"]) == {"first", "second"} and results["frechet_frames"] == 6
    for rows in results["summary"]["all"].values():
        assert list(rows) == list(ROWS)
        for row, figures in rows.items():
            assert set(figures) - {"nearer"} == set(METRICS)
            assert figures["ssim"]["people"] == 2 and figures["ssim"]["low"] <= figures["ssim"]["mean"] <= figures["ssim"]["high"], row
    summary = results["summary"]["all"]
    assert summary["2"]["nearest"]["ssim"]["mean"] > summary["2"]["random-weights"]["ssim"]["mean"]
    assert summary["2"]["nearest"]["faces"]["mean"] > 0.5 > summary["2"]["random-weights"]["faces"]["mean"]
    assert summary["2"]["warped"]["landmark_error"]["mean"] < summary["2"]["nearest"]["landmark_error"]["mean"]
    assert len({summary["1"][row]["ssim"]["mean"] for row in ROWS}) == len(ROWS)  # no row is another's
    assert list(results["curve"]["1"]) == ["fine-tuned", "no-adversarial", "random-weights"]
    curve = results["curve"]["1"]["fine-tuned"]
    assert list(curve) == ["1", "2"] and curve["1"]["ssim"] == summary["1"]["fine-tuned"]["ssim"]
    assert curve["1"]["ssim"] != curve["2"]["ssim"] and curve["1"]["learned_ssim"] != curve["1"]["ssim"]


def test_everything_is_written(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    table = (out / "table.md").read_text()
    labels = " | ".join(metric.label for metric in METRICS.values())
    assert f"| T = 2, all, people: 2 | {labels} | FED (N = 6) |" in table
    assert all(f"| {label} |" in table for label in ROWS.values())
    assert "not FID" in table and "too high with few frames" in table
    for block in table.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block
    sheet = np.asarray(Image.open(out / "sheet.png"))
    assert sheet.shape[1] > 6 * 144 and sheet.std() > 20


def test_plots_are_drawn(made: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which plots need, is not installed")
    for name in ("shots.png", "steps.png"):
        plot = np.asarray(Image.open(made[0] / name).convert("RGB"))
        assert plot.shape == (840, 1600, 3) and len(np.unique(plot.reshape(-1, 3), axis=0)) > 100


def test_started_again_it_measures_nothing_twice(
    made: tuple[Path, dict[str, Any]], little: Path, face_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = made
    monkeypatch.setattr(Measure, "_measure", lambda *_: pytest.fail("measured again"))
    assert run(little, face_shards, "--out", out, "--rows", *ROWS, *COMMON) == 0
    said = capsys.readouterr()
    after = json.loads((out / "results.json").read_text())
    assert after["summary"] == before["summary"]
    assert "the model has learned from first" in said.err and "2 people: the intervals" in said.err
    assert "| feed-forward |" in said.out and f"table   {out / 'table.md'}" in said.out
    with pytest.raises(pytest.fail.Exception, match="measured again"):  # with other settings it is not the same measurement
        run(little, face_shards, "--out", out, "--rows", *ROWS, *COMMON, "--seed", "1")


def test_a_clip_is_measured_alike_in_another_process(little: Path, face_shards: Path) -> None:
    measure = Measure(str(little), Protocol((1,), 2, ("feed-forward", "nearest")), "dlib")
    subject = find_subjects([face_shards])[1]
    here = measure.prepare()(subject, lambda: None)
    there = pickle.loads(pickle.dumps(measure))(subject, lambda: None)
    np.testing.assert_equal(there["figures"], here["figures"])  # also where no face was found


def test_random_weights_have_the_models_own_shape(little: Path) -> None:
    measure = Measure(str(little), Protocol())
    assert measure.untrained.config == measure.loaded.config
    assert set(DEFAULT_ROWS) == set(ROWS) - {"no-adversarial"}


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "talkinghead: " in line]
    assert len(lines) == 1 and lines[0].startswith("talkinghead: error: ")
    return lines[0]


def test_what_is_wrong_is_one_line(
    little: Path, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measure, "_measure", lambda *_: pytest.fail("the work of hours began"))
    (tmp_path / "file").write_text("")
    base, out = (little, face_shards), ("--out", tmp_path / "out")
    for shots in ("0", "33", "1,x", ""):
        assert "is not whole numbers from 1 to 32, with commas between them" in told(capsys, *base, *out, "--shots", shots)
    assert "file: is a file, a folder was expected" in told(capsys, *base, "--out", tmp_path / "file")
    assert "gone.onnx: no such file; an ArcFace network" in told(capsys, *base, *out, "--identity-network", tmp_path / "gone.onnx")
    assert "file: cannot be run as a face-recognition network" in told(capsys, *base, *out, "--identity-network", tmp_path / "file")
    assert "gone.pth: no such file; the weights of FID's Inception" in told(capsys, *base, *out, "--fid-network", tmp_path / "gone.pth")
    assert "paper: no such file, and no model that comes with the package" in told(capsys, "paper", face_shards, *out)
    assert "gone: no such file" in told(capsys, little, tmp_path / "gone", *out)
    assert "--only bob" in told(capsys, *base, *out, "--only", "bob")
    feed_forward = load_model(little)
    feed_forward.provenance["variant"] = "ff"
    save_model(feed_forward, tmp_path / "ff.safetensors")
    assert "leave fine-tuned, random-weights out with --rows" in told(capsys, tmp_path / "ff.safetensors", face_shards, *out)
    assert not list(tmp_path.rglob("results.json"))


def test_a_clip_that_cannot_be_used_is_left_out(
    little: Path, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wall = draw_video(tmp_path / "wall.mp4", [None] * 4)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(wall.read_bytes()[:300])
    rest = ("--out", tmp_path / "out", "--held-out", "2", "--rows", "nearest", "--landmarks", "dlib")
    assert "no clip could be used: " in told(capsys, little, wall, *rest)
    assert run(little, face_shards, wall, cut, *rest, "--shots", "1") == 0
    said = capsys.readouterr().err
    assert "left out: " in said and "wall.mp4: no face was found" in said
    assert "cut.mp4: holds no moving pictures" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["left_out"]) == {"wall.mp4", "cut.mp4"} and set(results["people"]) == {"first", "second"}
