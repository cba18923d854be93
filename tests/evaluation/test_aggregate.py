"""Aggregation of clips over people, on known numbers."""

import operator
from typing import Any

import numpy as np
import pytest
import torch

from talkinghead.evaluation.aggregate import RESAMPLES, _shares, aggregate, bootstrap


def test_bootstrap_interval_matches_normal_theory() -> None:
    values = np.random.default_rng(3).normal(5, 2, 40)
    result = bootstrap(values.tolist())
    error = values.std() / np.sqrt(40)
    assert result["mean"] == pytest.approx(values.mean()) and result["people"] == 40
    assert result["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert result["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert bootstrap(values.tolist(), seed=1) != result == bootstrap(values.tolist()) and RESAMPLES == 10_000


def test_bootstrap_handles_few_and_missing_values() -> None:
    assert bootstrap([2.0, 2.0, float("nan"), float("inf")]) == {
        "mean": 2.0,
        "low": 2.0,
        "high": 2.0,
        "people": 2,
    }
    assert bootstrap([3.0]) == {"mean": 3.0, "low": None, "high": None, "people": 1}
    assert bootstrap([float("nan")]) == {"mean": None, "low": None, "high": None, "people": 0}


METHODS = ("feed-forward", "fine-tuned", "random-weights", "nearest")


def clip(
    person: str,
    ssim: dict[str, float],
    csim: dict[str, float],
    descriptor: tuple[float, float],
    truth: tuple[float, float],
) -> dict[str, Any]:
    """Return a measured clip, T = 8 alone."""
    figures = {method: {"ssim": ssim[method], "csim": csim[method]} for method in METHODS}
    random = np.random.default_rng(len(person))
    features = torch.from_numpy(random.normal(size=(20, 2)))
    return {
        "person": person,
        "figures": {8: figures},
        "curve": {8: {"fine-tuned": {steps: {"ssim": ssim["fine-tuned"] + steps} for steps in (10, 20)}}},
        "features": {8: {method: features + (method != "nearest") for method in METHODS}},
        "truth_features": features,
        "descriptors": {8: {method: torch.tensor(descriptor) for method in METHODS}},
        "truth_descriptor": torch.tensor(truth),
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    nan = float("nan")
    easy = {"feed-forward": 0.5, "fine-tuned": 0.8, "random-weights": 0.7, "nearest": 0.95}
    hard = {"feed-forward": 0.3, "fine-tuned": 0.6, "random-weights": 0.65, "nearest": 0.5}
    same = {"feed-forward": 0.4, "fine-tuned": 0.6, "random-weights": nan, "nearest": 0.9}
    clips = [
        clip("anna", easy, same, (1.0, 0.1), (1.0, 0.0)),
        clip("anna", {method: value + 0.04 for method, value in easy.items()}, same, (1.0, 0.1), (1.0, 0.0)),
        clip("bob", hard, same, (1.0, 0.2), (0.0, 1.0)),  # made frames of bob resemble anna
    ]
    return aggregate(clips, (8,))


def test_aggregate_averages_clips_of_person(summary: dict[str, Any]) -> None:
    assert summary["people"]["anna"][8]["fine-tuned"]["ssim"] == pytest.approx(0.82)
    result = summary["summary"]["all"][8]["fine-tuned"]["ssim"]
    assert (result["mean"], result["people"]) == (
        pytest.approx((0.82 + 0.6) / 2),
        2,
    )  # over clips it would be 0.747
    assert summary["curve"][8]["fine-tuned"][20]["ssim"]["mean"] == pytest.approx(20.71)


def test_aggregate_groups_moving_people(summary: dict[str, Any]) -> None:
    assert summary["groups"] == {"all": ["anna", "bob"], "moving": ["bob"]}
    assert summary["summary"]["moving"][8]["nearest"]["ssim"]["mean"] == 0.5


def test_aggregate_counts_wins_of_fine_tuned(summary: dict[str, Any]) -> None:
    better = summary["fine_tuned_better"][8]
    assert better["random-weights"] == {"ssim": 0.5, "csim": 1.0}  # no face is worse than any figure
    assert better["nearest"] == {"ssim": 0.5, "csim": 0.0}
    assert "fine-tuned" not in better


def test_method_with_few_faces_loses_face_metrics() -> None:
    figures = {method: {"csim": 0.8, "faces": 1.0, "ssim": 0.5} for method in METHODS}
    figures["random-weights"] = {"csim": 0.9, "faces": 0.4, "ssim": 0.6}
    better = _shares([figures], operator.gt)
    assert better["random-weights"] == {"ssim": 0.0, "csim": 1.0, "faces": 1.0}


def test_aggregate_counts_ties_of_fine_tuned(summary: dict[str, Any]) -> None:
    figures = {method: {"faces": 1.0, "ssim": 0.5} for method in METHODS}
    assert _shares([figures], operator.gt)["nearest"] == {"ssim": 0.0, "faces": 0.0}
    assert _shares([figures], operator.eq)["nearest"] == {"ssim": 1.0, "faces": 1.0}
    assert summary["fine_tuned_equal"][8]["nearest"] == {"ssim": 0.0, "csim": 0.0}


def test_aggregate_compares_resemblance_with_others(summary: dict[str, Any]) -> None:
    assert summary["people"]["anna"][8]["fine-tuned"]["nearer"] == 1
    assert summary["people"]["bob"][8]["fine-tuned"]["nearer"] == 0


def test_aggregate_frechet_uses_all_frames(summary: dict[str, Any]) -> None:
    assert summary["frechet_frames"] == 60
    assert summary["frechet"][8]["nearest"] == pytest.approx(0, abs=1e-6)
    assert summary["frechet"][8]["fine-tuned"] == pytest.approx(2)  # both coordinates moved by 1
