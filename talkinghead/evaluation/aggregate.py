"""Aggregate scores of clips over people: means with bootstrap intervals, Frechet distances, shares of wins.

The value of a person is the mean over the clips of that person; every interval is over people, since a model
has to generalise to other people.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..metrics import frechet_distance
from ..pretrained.face_recognition import cosine
from .scorer import FACE_METRICS, METRICS

MAX_SSIM_OF_MOVING = 0.8
"""A person moves if the nearest frame's SSIM is lower; copied frames score best where people do not move."""
RESAMPLES = 10_000
_PERCENTILES = (2.5, 97.5)
Table = dict[str, dict[str, float]]


def bootstrap(values: Sequence[float], seed: int = 0) -> dict[str, float | int | None]:
    """Return the mean of one value for each person, with its 95% percentile interval.

    The interval comes from `RESAMPLES` samples of as many people. Values that are not finite (no face was
    found) are skipped.

    Returns:
        mean, low, high, people; low and high are None for fewer than two people, the mean None without any.
    """
    finite = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    result: dict[str, float | int | None] = {"mean": None, "low": None, "high": None, "people": len(finite)}
    if len(finite):
        result["mean"] = float(finite.mean())
    if len(finite) > 1:
        samples = np.random.default_rng(seed).integers(0, len(finite), (RESAMPLES, len(finite)))
        result["low"], result["high"] = np.percentile(finite[samples].mean(axis=1), _PERCENTILES).tolist()
    return result


def aggregate(clips: Sequence[Mapping[str, Any]], shots: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Aggregate the values of evaluated clips.

    Args:
        clips: results of `ClipEvaluator`, without clips that were left out.
        shots: every T.
        seed: of the bootstrap.

    Returns:
        plain values: people {name: {T: {method: {metric: value}}}}; summary {group: {T: {method: {metric:
            bootstrap}}}} for "all" and, where some people move and others do not, "moving"; groups {group:
            [names]}; frechet {T: {method: value}} over frechet_frames frames; fine_tuned_better and
            fine_tuned_equal {T: {method: {metric: share of people}}}; curve {T: {method: {steps: {metric:
            bootstrap}}}}.
    """
    names = sorted({clip["person"] for clip in clips})
    clips_of = {name: [clip for clip in clips if clip["person"] == name] for name in names}
    nearer = _nearer_than_others(clips_of, shots)
    people = {
        name: {
            shot: {
                method: _mean([clip["figures"][shot][method] for clip in own])
                | nearer.get((name, shot, method), {})
                for method in own[0]["figures"][shot]
            }
            for shot in shots
        }
        for name, own in clips_of.items()
    }
    groups = {"all": names}
    middle = sorted(shots)[len(shots) // 2]
    if all("nearest" in tables[middle] for tables in people.values()):
        moving = [name for name in names if people[name][middle]["nearest"]["ssim"] < MAX_SSIM_OF_MOVING]
        if 0 < len(moving) < len(names):
            groups["moving"] = moving
    methods = {shot: list(people[names[0]][shot]) for shot in shots}
    return {
        "people": people,
        "groups": groups,
        "summary": {
            group: {
                shot: {
                    method: _bootstrap_metrics([people[name][shot][method] for name in members], seed)
                    for method in methods[shot]
                }
                for shot in shots
            }
            for group, members in groups.items()
        },
        "frechet": {
            shot: {method: _frechet(clips, shot, method) for method in methods[shot]} for shot in shots
        },
        "frechet_frames": sum(len(clip["truth_features"]) for clip in clips),
        "fine_tuned_better": _compare_fine_tuned(people, shots, operator.gt),
        "fine_tuned_equal": _compare_fine_tuned(people, shots, operator.eq),
        "curve": {shot: _curve(clips_of, shot, seed) for shot in shots},
    }


def _mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over clips, without values that are not finite."""
    means = {}
    for metric in tables[0]:
        finite = [table[metric] for table in tables if np.isfinite(table[metric])]
        means[metric] = float(np.mean(finite)) if finite else float("nan")
    return means


def _bootstrap_metrics(
    tables: Sequence[Mapping[str, float]], seed: int
) -> dict[str, dict[str, float | int | None]]:
    metrics = [metric for metric in tables[0] if all(metric in table for table in tables)]
    return {metric: bootstrap([table[metric] for table in tables], seed) for metric in metrics}


def _frechet(clips: Sequence[Mapping[str, Any]], shot: int, method: str) -> float | None:
    features = torch.cat([clip["features"][shot][method] for clip in clips])
    truth = torch.cat([clip["truth_features"] for clip in clips])
    return frechet_distance(features, truth) if len(features) > 1 else None


def _nearer_than_others(
    clips_of: Mapping[str, Sequence[Mapping[str, Any]]], shots: Sequence[int]
) -> dict[tuple[str, int, str], dict[str, float]]:
    """Return how often generated frames resemble their person more than the others.

    The value for each person, T and method is the share of the other people whose true frames resemble the
    generated ones less than the person's own true frames do.
    """
    truth: dict[str, np.ndarray] = {}
    for name, clips in clips_of.items():
        mean = _mean_descriptor([clip["truth_descriptor"] for clip in clips])
        if mean is not None:
            truth[name] = mean
    shares: dict[tuple[str, int, str], dict[str, float]] = {}
    for name, clips in clips_of.items():
        others = [other for other in truth if other != name]
        for shot in shots if others else ():
            for method in clips[0]["descriptors"][shot]:
                mean = _mean_descriptor([clip["descriptors"][shot][method] for clip in clips])
                share = float("nan")
                if mean is not None and name in truth:
                    own = cosine(mean, truth[name])
                    share = float(np.mean([own > cosine(mean, truth[other]) for other in others]))
                shares[name, shot, method] = {"nearer": share}
    return shares


def _mean_descriptor(descriptors: Sequence[torch.Tensor | None]) -> np.ndarray | None:
    """Average the descriptors that are not None; None when all are."""
    arrays = [descriptor.numpy() for descriptor in descriptors if descriptor is not None]
    return np.mean(arrays, axis=0) if arrays else None


def _compare_fine_tuned(
    people: Mapping[str, Mapping[int, Table]], shots: Sequence[int], compare: Callable[[float, float], bool]
) -> dict[int, Table]:
    """Return {T: {other method: {metric: share of people on whom the fine-tuned one compares so}}}."""
    return {shot: _shares([tables[shot] for tables in people.values()], compare) for shot in shots}


def _shares(people: Sequence[Table], compare: Callable[[float, float], bool]) -> Table:
    """Return {other method: {metric: share of people on whom the fine-tuned one compares so}}.

    A method that shows a face in less than half of a person's frames loses on face metrics, since they only
    count its best frames.
    """
    shares: Table = {}
    for method in people[0] if "fine-tuned" in people[0] else ():
        for metric in METRICS:
            if method != "fine-tuned" and all(metric in tables[method] for tables in people):
                outcomes = [
                    compare(
                        _signed_value(metric, tables["fine-tuned"]), _signed_value(metric, tables[method])
                    )
                    for tables in people
                ]
                shares.setdefault(method, {})[metric] = float(np.mean(outcomes))
    return shares


def _signed_value(metric: str, figures: Mapping[str, float]) -> float:
    """Return a value that is higher for better frames."""
    few_faces = metric in FACE_METRICS and figures.get("faces", 1.0) < 0.5
    if few_faces or np.isnan(figures[metric]):
        return float("-inf")
    return METRICS[metric].sign * figures[metric]


def _curve(
    clips_of: Mapping[str, Sequence[Mapping[str, Any]]], shot: int, seed: int
) -> dict[str, dict[int, Any]]:
    first = next(iter(clips_of.values()))[0]["curve"][shot]
    return {
        method: {
            steps: _bootstrap_metrics(
                [
                    _mean([clip["curve"][shot][method][steps] for clip in clips])
                    for clips in clips_of.values()
                ],
                seed,
            )
            for steps in first[method]
        }
        for method in first
    }
