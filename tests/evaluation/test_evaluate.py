"""The command `evaluate` on a model of few channels, and its user errors."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import SMALL_NETWORKS, draw_video
from talkinghead import cli
from talkinghead.checkpoint import load_model, save_model
from talkinghead.config import Config, preset
from talkinghead.constants import DEFAULT_METHODS, METHODS
from talkinghead.evaluation import scorer
from talkinghead.evaluation.evaluate_clip import ClipEvaluator, Protocol, RowTask
from talkinghead.evaluation.scorer import METRICS
from talkinghead.evaluation.split import find_eval_clips, split_frames
from talkinghead.model import random_model

NETWORKS = replace(SMALL_NETWORKS, image_size=64, discriminator_gain=0.01, embedding_gain=0.01)


@pytest.fixture(scope="module")
def narrow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model file: random weights, few channels, 64x64."""
    tiny = preset("tiny")
    model = random_model(Config("tiny", NETWORKS, tiny.meta, tiny.finetune, tiny.perceptual), seed=5)
    model.provenance["people"] = ["first"]
    path = tmp_path_factory.mktemp("narrow_model") / "narrow_model.safetensors"
    save_model(model, path)
    return path


def run(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments), "--workers", "1"])


COMMON = (
    "--shots",
    "1,2",
    "--num-held-out",
    "3",
    "--steps",
    "1",
    "--steps-curve",
    "2",
    "--landmarks",
    "network",
)
WITHOUT_DLIB = [name for name in METRICS if name not in ("csim", "identity")]


@pytest.fixture(scope="module")
def evaluation(
    narrow_model: Path, face_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "open_installed_dlib", lambda: None)
        assert run(narrow_model, face_shards, "--out", out, "--quiet", "--methods", *METHODS, *COMMON) == 0
    return out, json.loads((out / "results.json").read_text())


def test_evaluate_scores_all_methods(evaluation: tuple[Path, dict[str, Any]]) -> None:
    _, results = evaluation
    assert (
        results["settings"]["steps"] == {"1": 1, "2": 1} and results["settings"]["frechet"]["name"] == "FED"
    )
    assert set(results["people"]) == {"first", "second"} and results["frechet_frames"] == 6
    for rows in results["summary"]["all"].values():
        assert list(rows) == list(METHODS)
        for row, figures in rows.items():
            assert set(figures) == set(WITHOUT_DLIB)
            assert (
                figures["ssim"]["people"] == 2
                and figures["ssim"]["low"] <= figures["ssim"]["mean"] <= figures["ssim"]["high"]
            ), row
    summary = results["summary"]["all"]
    assert summary["2"]["nearest"]["ssim"]["mean"] > summary["2"]["random-weights"]["ssim"]["mean"]
    assert summary["2"]["nearest"]["faces"]["mean"] > 0.5 > summary["2"]["random-weights"]["faces"]["mean"]
    assert (
        summary["2"]["warped"]["landmark_error"]["mean"] < summary["2"]["nearest"]["landmark_error"]["mean"]
    )
    assert len({summary["1"][row]["ssim"]["mean"] for row in METHODS}) == len(METHODS)  # no row is another's
    assert list(results["curve"]["1"]) == ["fine-tuned", "no-adversarial", "random-weights"]
    curve = results["curve"]["1"]["fine-tuned"]
    assert list(curve) == ["1", "2"] and curve["1"]["ssim"] == summary["1"]["fine-tuned"]["ssim"]
    assert curve["1"]["ssim"] != curve["2"]["ssim"] and curve["1"]["learned_ssim"] != curve["1"]["ssim"]


def test_evaluate_writes_table_and_frames(evaluation: tuple[Path, dict[str, Any]]) -> None:
    out, _ = evaluation
    table = (out / "table.md").read_text()
    labels = " | ".join(METRICS[name].label for name in WITHOUT_DLIB)
    assert f"| T = 2, all, people: 2 | {labels} | FED (N = 6) |\n" in table
    assert "| T = 1: steps | row | SSIM | SSIM of the pictures learned from | landmark error | perc" in table
    assert (
        "- identity: not measured (pip install 'talkinghead[identity]')." in table and "by dlib" not in table
    )
    assert all(f"| {label} |" in table for label in METHODS.values())
    assert "not FID" in table and "too high with few frames" in table
    for block in table.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block
    sheet = np.asarray(Image.open(out / "sheet.png"))
    assert sheet.shape[1] > 6 * 144 and sheet.std() > 20


@pytest.mark.identity
def test_evaluate_with_dlib_compares_identities(
    narrow_model: Path, face_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(narrow_model, face_shards, "--out", out, "--quiet", "--methods", "nearest", *COMMON) == 0
    print(json.dumps(json.loads((out / "results.json").read_text())["people"]))
    figures = json.loads((out / "results.json").read_text())["summary"]["all"]["2"]["nearest"]
    assert set(figures) == {*METRICS, "nearer"}
    assert figures["csim"]["mean"] > 0.9 and 0 < figures["identity"]["mean"] < 0.5
    table = (out / "table.md").read_text()
    labels = " | ".join(metric.label for metric in METRICS.values())
    assert f"| T = 2, all, people: 2 | {labels} | FED (N = 6) | nearer than others |" in table
    assert "CSIM by dlib's network" in table and "Identity distance by dlib" in table
    assert "not measured" not in table


def test_evaluate_writes_plots(evaluation: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which plots need, is not installed")
    for name in ("shots.png", "steps.png"):
        plot = np.asarray(Image.open(evaluation[0] / name).convert("RGB"))
        assert plot.shape == (840, 1600, 3) and len(np.unique(plot.reshape(-1, 3), axis=0)) > 100


def test_evaluate_resumes_from_stored_results(
    evaluation: tuple[Path, dict[str, Any]],
    narrow_model: Path,
    face_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, before = evaluation
    monkeypatch.setattr(scorer, "open_installed_dlib", lambda: None)
    monkeypatch.setattr(ClipEvaluator, "_measure", lambda *_: pytest.fail("measured again"))
    assert run(narrow_model, face_shards, "--out", out, "--methods", *METHODS, *COMMON) == 0
    printed = capsys.readouterr()
    after = json.loads((out / "results.json").read_text())
    assert after["summary"] == before["summary"]
    assert "the model has learned from first" in printed.err and "2 people: the intervals" in printed.err
    assert "| feed-forward |" in printed.out and f"table   {out / 'table.md'}" in printed.out
    with pytest.raises(
        pytest.fail.Exception, match="measured again"
    ):  # with other settings it is not the same measurement
        run(narrow_model, face_shards, "--out", out, "--methods", *METHODS, *COMMON, "--seed", "1")
    printed = capsys.readouterr().err
    note = re.search(
        r"clips: holds measurements of other settings \((.*)\); these are measured again", printed
    )
    assert note and set(re.findall(r"(\w+): \d+", note[1])) == {"model", "seed"}, printed


def test_pickled_evaluator_gives_same_scores(narrow_model: Path, face_shards: Path) -> None:
    evaluator = ClipEvaluator(str(narrow_model), Protocol((1,), 2, ("feed-forward", "nearest")), "network")
    clip = find_eval_clips([face_shards])[1]
    parts = split_frames(clip, None, (1,), 2)
    task = RowTask(0, clip, None, parts, shots=1, method="feed-forward", stages=(0,))
    reports: list[list[Any]] = [[], []]
    assert evaluator.prepare()(task, lambda value=None: reports[0].append(value)) is None
    pickle.loads(pickle.dumps(evaluator))(task, lambda value=None: reports[1].append(value))
    here, there = ([value for value in values if value is not None][-1] for values in reports)
    np.testing.assert_equal(there.values["figures"], here.values["figures"])  # also where no face was found


def test_untrained_model_has_same_config(narrow_model: Path) -> None:
    evaluator = ClipEvaluator(str(narrow_model), Protocol())
    assert evaluator.untrained.config == evaluator.loaded.config
    assert set(DEFAULT_METHODS) == set(METHODS) - {"no-adversarial"}


def user_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "talkinghead: " in line]
    assert len(lines) == 1 and lines[0].startswith("talkinghead: error: ")
    return lines[0]


def test_evaluate_reports_user_errors_before_work(
    narrow_model: Path,
    face_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ClipEvaluator, "_measure", lambda *_: pytest.fail("the work of hours began"))
    (tmp_path / "file").write_text("")
    base, out = (narrow_model, face_shards), ("--out", tmp_path / "out")
    for shots in ("0", "33", "1,x", ""):
        assert "is not a comma-separated list of whole numbers from 1 to 32" in user_error(
            capsys, *base, *out, "--shots", shots
        )
    assert "file: is a file, expected a folder" in user_error(capsys, *base, "--out", tmp_path / "file")
    assert "gone.onnx: no such file; name an ArcFace network" in user_error(
        capsys, *base, *out, "--identity-network", tmp_path / "gone.onnx"
    )
    assert "file: cannot be run as a face-recognition network" in user_error(
        capsys, *base, *out, "--identity-network", tmp_path / "file"
    )
    assert "gone.pth: no such file; name a file that holds the weights of FID's Inception" in user_error(
        capsys, *base, *out, "--fid-network", tmp_path / "gone.pth"
    )
    assert "paper: no such file, and no model that comes with the package" in user_error(
        capsys, "paper", face_shards, *out
    )
    assert "gone: no such file" in user_error(capsys, narrow_model, tmp_path / "gone", *out)
    assert "--only bob" in user_error(capsys, *base, *out, "--only", "bob")
    feed_forward = load_model(narrow_model)
    feed_forward.provenance["variant"] = "ff"
    save_model(feed_forward, tmp_path / "ff.safetensors")
    assert "leave fine-tuned, random-weights out with --methods" in user_error(
        capsys, tmp_path / "ff.safetensors", face_shards, *out
    )
    assert not list(tmp_path.rglob("results.json"))


def test_evaluate_leaves_out_unusable_clips(
    narrow_model: Path, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wall = draw_video(tmp_path / "wall.mp4", [None] * 4)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(wall.read_bytes()[:300])
    rest = ("--out", tmp_path / "out", "--num-held-out", "2", "--methods", "nearest", "--steps-curve", "2")
    assert "no clip could be used: " in user_error(capsys, narrow_model, wall, *rest)
    assert run(narrow_model, face_shards, wall, cut, *rest, "--shots", "1") == 0
    printed = capsys.readouterr().err
    assert "left out: " in printed and "wall.mp4: no face was found" in printed
    assert "cut.mp4: holds no moving pictures" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not (tmp_path / "out" / "steps.png").exists()  # "nearest" is not fine-tuned: there is no curve
    assert set(results["left_out"]) == {"wall.mp4", "cut.mp4"} and set(results["people"]) == {
        "first",
        "second",
    }
