"""The results as curves: over T, and over the steps of fine-tuning. The only module that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import replacing
from .clips import ROWS
from .judge import METRICS

_ARROWS = {1: "higher is better", -1: "lower is better"}


def plot_shots(results: Mapping[str, Any], path: Path) -> None:
    """Every metric against T, a line for each row, its interval shaded."""
    by_shots = results["summary"]["all"]
    shots = [int(each) for each in by_shots]
    first = next(iter(by_shots.values()))
    frechet = results["settings"]["frechet"]["name"]
    metrics = [name for name in METRICS if name in next(iter(first.values()))]
    titles = [f"{METRICS[name].label} ({_ARROWS[METRICS[name].better]})" for name in metrics]
    figure, axes = _panels([*titles, f"{frechet}, N = {results['frechet_frames']} (lower is better)"])
    for number, row in enumerate(first):
        for name, panel in zip(metrics, axes, strict=False):
            _line(panel, shots, [by_shots[str(each)][row][name] for each in shots], f"C{number}", ROWS[row])
        values = [results["frechet"][str(each)][row] for each in shots]
        axes[len(metrics)].plot(shots, [float("nan") if value is None else value for value in values], "o-", color=f"C{number}")
    _finish(figure, axes, "T, pictures learned from", shots, path, f"held-out frames, people: {len(results['people'])}")


def plot_steps(results: Mapping[str, Any], path: Path) -> None:
    """Every metric against fine-tuning steps, a line for each row and T; dashed, the pictures learned from."""
    curves = [(shots, row, by_steps) for shots, rows in results["curve"].items() for row, by_steps in rows.items()]
    metrics = [name for name in METRICS if name in next(iter(curves[0][2].values()))]
    figure, axes = _panels([f"{METRICS[name].label} ({_ARROWS[METRICS[name].better]})" for name in metrics])
    steps = [int(each) for each in curves[0][2]]
    for number, (shots, row, by_steps) in enumerate(curves):
        for name, panel in zip(metrics, axes, strict=False):
            at = [int(each) for each in by_steps]
            _line(panel, at, [by_steps[str(each)][name] for each in at], f"C{number}", f"T = {shots}, {ROWS[row]}")
            if f"learned_{name}" in by_steps[str(at[0])]:
                means = [by_steps[str(each)][f"learned_{name}"]["mean"] for each in at]
                panel.plot(at, means, "--", color=f"C{number}", linewidth=1)
    _finish(figure, axes, "steps of fine-tuning", steps, path, "dashed: the pictures learned from; solid: held-out frames")


def _panels(titles: Sequence[str]) -> tuple[Any, list[Any]]:
    # without pyplot: nothing global, and no window wanted
    figure = require("matplotlib.figure", "evaluate").Figure(figsize=(16, 8.4), layout="constrained")
    axes = list(figure.subplots(2, 4).flat)
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(title, fontsize=10)
    for panel in axes[len(titles) :]:
        panel.axis("off")
    return figure, axes


def _line(panel: Any, places: Sequence[int], values: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    nothing = float("nan")
    panel.plot(
        places, [nothing if value["mean"] is None else value["mean"] for value in values], "o-", color=colour, label=label, markersize=4
    )
    if all(value["low"] is not None for value in values):
        panel.fill_between(places, [value["low"] for value in values], [value["high"] for value in values], color=colour, alpha=0.12)


def _finish(figure: Any, axes: Sequence[Any], label: str, ticks: Sequence[int], path: Path, title: str) -> None:
    for panel in axes:
        if panel.axison:
            panel.set_xscale("symlog" if min(ticks) == 0 else "log", base=2)
            panel.set_xticks(list(ticks), [str(tick) for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel(label, fontsize=8)
            panel.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"{title}; shaded: 95% bootstrap interval over people", fontsize=11)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=100)
