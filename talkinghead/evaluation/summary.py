"""From clips to figures of people: means with bootstrap intervals, the Frechet distance of all frames, and who is beaten how often.

A person's figure is the mean over the clips of that person; every interval is over people, who are what a model has to generalise to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..identity import cosine
from ..metrics import frechet_distance
from .judge import METRICS, OF_FACES

MOVES = 0.8
"""A person moves when the nearest frame's SSIM is below this: where copying is easy, it wins everything."""
RESAMPLES = 10_000
_LEVELS = (2.5, 97.5)
Table = dict[str, dict[str, float]]


def bootstrap(values: Sequence[float], seed: int = 0) -> dict[str, float | int | None]:
    """Mean of one value for each person, with the 95% percentile interval over `RESAMPLES` draws of as many people.

    Values that are not finite (no face was found) are left out.

    Returns:
        mean, low, high, people; low and high None for fewer than two people, the mean None without any.
    """
    known = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    found: dict[str, float | int | None] = {"mean": None, "low": None, "high": None, "people": len(known)}
    if len(known):
        found["mean"] = float(known.mean())
    if len(known) > 1:
        drawn = np.random.default_rng(seed).integers(0, len(known), (RESAMPLES, len(known)))
        found["low"], found["high"] = np.percentile(known[drawn].mean(axis=1), _LEVELS).tolist()
    return found


def summarise(clips: Sequence[Mapping[str, Any]], shots: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """All that is reported of measured clips.

    Args:
        clips: what `Measure` returns, without those left out.
        shots: every T.
        seed: of the bootstrap.

    Returns:
        plain values: people {name: {T: {row: {metric: value}}}}; summary {group: {T: {row: {metric: bootstrap}}}} for "all" and, where some
        move and some do not, "moving"; groups {group: [names]}; frechet {T: {row: value}} over frechet_frames frames; fine_tuned_better
        {T: {row: {metric: share of people}}}; curve {T: {row: {steps: {metric: bootstrap}}}}.
    """
    names = sorted({clip["person"] for clip in clips})
    of = {name: [clip for clip in clips if clip["person"] == name] for name in names}
    nearer = _nearer_than_others(of, shots)
    people = {
        name: {
            shot: {
                row: _mean([clip["figures"][shot][row] for clip in some]) | nearer.get((name, shot, row), {})
                for row in some[0]["figures"][shot]
            }
            for shot in shots
        }
        for name, some in of.items()
    }
    groups = {"all": names}
    middle = sorted(shots)[len(shots) // 2]
    if all("nearest" in figures[middle] for figures in people.values()):
        moving = [name for name in names if people[name][middle]["nearest"]["ssim"] < MOVES]
        if 0 < len(moving) < len(names):
            groups["moving"] = moving
    rows = {shot: list(people[names[0]][shot]) for shot in shots}
    return {
        "people": people,
        "groups": groups,
        "summary": {
            group: {shot: {row: _over([people[name][shot][row] for name in some], seed) for row in rows[shot]} for shot in shots}
            for group, some in groups.items()
        },
        "frechet": {shot: {row: _frechet(clips, shot, row) for row in rows[shot]} for shot in shots},
        "frechet_frames": sum(len(clip["truth_features"]) for clip in clips),
        "fine_tuned_better": {shot: _better([people[name][shot] for name in names]) for shot in shots},
        "curve": {shot: _curve(of, shot, seed) for shot in shots},
    }


def _mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each metric over clips, those without a value left out."""
    found = {}
    for metric in tables[0]:
        known = [table[metric] for table in tables if np.isfinite(table[metric])]
        found[metric] = float(np.mean(known)) if known else float("nan")
    return found


def _over(tables: Sequence[Mapping[str, float]], seed: int) -> dict[str, dict[str, float | int | None]]:
    metrics = [metric for metric in tables[0] if all(metric in table for table in tables)]
    return {metric: bootstrap([table[metric] for table in tables], seed) for metric in metrics}


def _frechet(clips: Sequence[Mapping[str, Any]], shot: int, row: str) -> float | None:
    ours, theirs = (
        torch.cat(parts) for parts in zip(*((clip["features"][shot][row], clip["truth_features"]) for clip in clips), strict=True)
    )
    return frechet_distance(ours, theirs) if len(ours) > 1 else None


def _nearer_than_others(
    of: Mapping[str, Sequence[Mapping[str, Any]]], shots: Sequence[int]
) -> dict[tuple[str, int, str], dict[str, float]]:
    """For each person, T and row: the share of the other people whose true frames the made ones resemble less than the person's own."""
    truths = {name: [clip["truth_descriptor"] for clip in some if clip["truth_descriptor"] is not None] for name, some in of.items()}
    truth = {name: np.mean([each.numpy() for each in found], axis=0) for name, found in truths.items() if found}
    shares: dict[tuple[str, int, str], dict[str, float]] = {}
    for name, some in of.items():
        others = [who for who in truth if who != name]
        for shot in shots:
            for row in some[0]["descriptors"][shot]:
                made = [clip["descriptors"][shot][row] for clip in some if clip["descriptors"][shot][row] is not None]
                if made and others and name in truth:
                    ours = np.mean([each.numpy() for each in made], axis=0)
                    own = cosine(ours, truth[name])
                    shares[name, shot, row] = {"nearer": float(np.mean([own > cosine(ours, truth[who]) for who in others]))}
                elif others:
                    shares[name, shot, row] = {"nearer": float("nan")}
    return shares


def _better(people: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Against each other row, the share of people on whom the fine-tuned one is better.

    A row that shows a face in less than half of a person's frames has lost what is measured on faces: the few it has are its best.
    """
    shares: dict[str, dict[str, float]] = {}
    for row in people[0] if "fine-tuned" in people[0] else ():
        for metric in METRICS:
            if row != "fine-tuned" and all(metric in rows[row] for rows in people):
                wins = [_worth(metric, rows["fine-tuned"]) > _worth(metric, rows[row]) for rows in people]
                shares.setdefault(row, {})[metric] = float(np.mean(wins))
    return shares


def _worth(metric: str, figures: Mapping[str, float]) -> float:
    lost = metric in OF_FACES and figures.get("faces", 1.0) < 0.5
    return float("-inf") if lost or np.isnan(figures[metric]) else METRICS[metric].better * figures[metric]


def _curve(of: Mapping[str, Sequence[Mapping[str, Any]]], shot: int, seed: int) -> dict[str, dict[int, Any]]:
    first = next(iter(of.values()))[0]["curve"][shot]
    return {
        row: {
            steps: _over([_mean([clip["curve"][shot][row][steps] for clip in some]) for some in of.values()], seed) for steps in first[row]
        }
        for row in first
    }
