"""Plot the results over T, and over the steps of fine-tuning. Only this module imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..constants import METHODS
from ..errors import require
from ..system.atomic_file import atomic_write
from .scorer import METRICS

_ARROWS = {1: "higher is better", -1: "lower is better"}


def plot_shots(results: Mapping[str, Any], path: Path) -> None:
    """Plot every metric against T: a line for each method, its interval shaded."""
    by_shots = results["summary"]["all"]
    shots = [int(shot) for shot in by_shots]
    first = next(iter(by_shots.values()))
    frechet = results["settings"]["frechet"]["name"]
    metrics = [name for name in METRICS if name in next(iter(first.values()))]
    titles = [f"{METRICS[name].label} ({_ARROWS[METRICS[name].sign]})" for name in metrics]
    figure, axes = _panels([*titles, f"{frechet}, N = {results['frechet_frames']} (lower is better)"])
    for number, method in enumerate(first):
        colour, label = f"C{number}", METHODS[method]
        for name, panel in zip(metrics, axes, strict=False):
            values = [by_shots[str(shot)][method][name] for shot in shots]
            _plot_line(panel, shots, values, colour=colour, label=label)
        distances = [results["frechet"][str(shot)][method] for shot in shots]
        axes[len(metrics)].plot(shots, [_nan_if_none(value) for value in distances], "o-", color=colour)
    _label_axes(axes, "T, pictures learned from", ticks=shots)
    _save(figure, axes, path, title=f"held-out frames, people: {len(results['people'])}")


def plot_steps(results: Mapping[str, Any], path: Path) -> None:
    """Plot every metric against fine-tuning steps: a line for each method and T.

    Dashed lines are of the training frames.
    """
    curves = [
        (shots, method, by_steps)
        for shots, methods in results["curve"].items()
        for method, by_steps in methods.items()
    ]
    first = curves[0][2]
    metrics = [name for name in METRICS if name in next(iter(first.values()))]
    figure, axes = _panels([f"{METRICS[name].label} ({_ARROWS[METRICS[name].sign]})" for name in metrics])
    for number, (shots, method, by_steps) in enumerate(curves):
        colour, label = f"C{number}", f"T = {shots}, {METHODS[method]}"
        steps, tables = [int(step) for step in by_steps], list(by_steps.values())
        for name, panel in zip(metrics, axes, strict=False):
            _plot_line(panel, steps, [table[name] for table in tables], colour=colour, label=label)
            if f"learned_{name}" in tables[0]:
                means = [table[f"learned_{name}"]["mean"] for table in tables]
                panel.plot(steps, means, "--", color=colour, linewidth=1)
    _label_axes(axes, "steps of fine-tuning", ticks=[int(step) for step in first])
    _save(figure, axes, path, title="dashed: the pictures learned from; solid: held-out frames")


def _panels(titles: Sequence[str]) -> tuple[Any, list[Any]]:
    # use no pyplot, which has global state and may open a window
    figure = require("matplotlib.figure", "evaluate").Figure(figsize=(16, 8.4), layout="constrained")
    axes = list(figure.subplots(2, 4).flat)
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(title, fontsize=10)
    for panel in axes[len(titles) :]:
        panel.axis("off")
    return figure, axes


def _plot_line(
    panel: Any, positions: Sequence[int], intervals: Sequence[Mapping[str, Any]], *, colour: str, label: str
) -> None:
    means = [_nan_if_none(interval["mean"]) for interval in intervals]
    panel.plot(positions, means, "o-", color=colour, label=label, markersize=4)
    if all(interval["low"] is not None for interval in intervals):
        low = [interval["low"] for interval in intervals]
        high = [interval["high"] for interval in intervals]
        panel.fill_between(positions, low, high, color=colour, alpha=0.12)


def _nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else value


def _label_axes(axes: Sequence[Any], label: str, ticks: Sequence[int]) -> None:
    for panel in axes:
        if panel.axison:
            panel.set_xscale("symlog" if min(ticks) == 0 else "log", base=2)
            panel.set_xticks(list(ticks), [str(tick) for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel(label, fontsize=8)
            panel.grid(alpha=0.3)


def _save(figure: Any, axes: Sequence[Any], path: Path, title: str) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"{title}; shaded: 95% bootstrap interval over people", fontsize=11)
    with atomic_write(path) as temp_path:
        figure.savefig(temp_path, dpi=100)
