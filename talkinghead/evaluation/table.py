"""The results as Markdown; everything is read from the values of results.json."""

from collections.abc import Mapping
from typing import Any

from .clips import ROWS
from .judge import METRICS

NEARER = "nearer than others"


def markdown(results: Mapping[str, Any]) -> str:
    """A table for each group and T, then who is beaten how often, and the figures against steps."""
    settings = results["settings"]
    lines = [_made(results), ""]
    for group, by_shots in results["summary"].items():
        for shots, rows in by_shots.items():
            lines += [*_table(results, group, shots, rows), ""]
    for shots, rows in results["fine_tuned_better"].items():
        if rows:
            lines += [*_better(f"T = {shots}: share of people on whom fine-tuned is better than", rows), ""]
    for shots, rows in results["curve"].items():
        if rows:
            lines += [*_curve(shots, rows), ""]
    lines += _notes(settings, results["frechet_frames"])
    return "\n".join(lines) + "\n"


def _made(results: Mapping[str, Any]) -> str:
    settings, protocol = results["settings"], results["settings"]["protocol"]
    people, clips = len(results["people"]), len(results["clips"])
    steps = ", ".join(f"{steps} for T = {shots}" for shots, steps in settings["steps"].items())
    model = settings["model"]
    return (
        f"Model {model['name']} ({model['digest'][:12] or 'random weights'}, {settings['image_size']}x{settings['image_size']}), "
        f"people: {people}, clips: {clips}, up to {protocol['held_out']} held-out frames each; fine-tuning steps: {steps}. "
        "Mean over people [95% bootstrap interval]."
    )


def _table(results: Mapping[str, Any], group: str, shots: str, rows: Mapping[str, Any]) -> list[str]:
    frechet = results["settings"]["frechet"]["name"]
    some = list(next(iter(rows.values())))
    metrics = [name for name in METRICS if name in some]
    people = len(results["groups"][group])
    whole = group == "all"
    head = [f"T = {shots}, {group}, people: {people}", *(METRICS[name].label for name in metrics)]
    head += [f"{frechet} (N = {results['frechet_frames']})"] * whole + [NEARER] * ("nearer" in some)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row, values in rows.items():
        cells = [ROWS[row], *(interval(values[name], METRICS[name].shown) for name in metrics)]
        if whole:
            value = results["frechet"][shots][row]
            cells.append("" if value is None else f"{value:.3g}")
        if "nearer" in some:
            cells.append(interval(values["nearer"], ".0%"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def interval(found: Mapping[str, Any], shown: str) -> str:
    """mean [low, high] of a bootstrap."""
    if found["mean"] is None:
        return "no face"
    mean = format(found["mean"], shown)
    return mean if found["low"] is None else f"{mean} [{format(found['low'], shown)}, {format(found['high'], shown)}]"


def _better(title: str, rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    metrics = [name for name in METRICS if any(name in row for row in rows.values())]
    lines = [f"| {title} | {' | '.join(METRICS[name].label for name in metrics)} |", "|" + "---|" * (len(metrics) + 1)]
    for row, values in rows.items():
        cells = ["" if name not in values else f"{values[name]:.0%}" for name in metrics]
        lines.append(f"| {ROWS[row]} | {' | '.join(cells)} |")
    return lines


def _curve(shots: str, rows: Mapping[str, Any]) -> list[str]:
    shown = {
        "ssim": "SSIM",
        "learned_ssim": "SSIM of the pictures learned from",
        "csim": "CSIM",
        "landmark_error": "landmark error",
        "perceptual": "perceptual",
    }
    lines = [f"| T = {shots}: steps | row | {' | '.join(shown.values())} |", "|" + "---|" * (len(shown) + 2)]
    for row, by_steps in rows.items():
        for steps, values in by_steps.items():
            cells = [interval(values[name], METRICS[name.removeprefix("learned_")].shown) for name in shown]
            lines.append(f"| {steps} | {ROWS[row]} | {' | '.join(cells)} |")
    return lines


def _notes(settings: Mapping[str, Any], frames: int) -> list[str]:
    identity, frechet = settings["identity"]["name"], settings["frechet"]["name"]
    lines = [
        f"CSIM by {identity}"
        + ("'s network, which gives two people 0.80 to 0.92: compare with its own only" if identity == "dlib" else "")
        + "; identity distance by dlib (0.15 to 0.42 between frames of one person, 0.6 parts two people); landmark error as a share of the "
        "distance between the eyes; perceptual distance by EfficientNet-Lite0 (10: two different frames of one clip).",
        "CSIM, identity distance and landmark error are of the frames in which a face was found; where rows are compared, one that shows a "
        "face in less than half of a person's frames has lost these.",
    ]
    what = (
        "FED is the Frechet distance between features of EfficientNet-Lite0, not FID: compare it with FED only"
        if frechet == "FED"
        else f"FID by {settings['frechet']['weights']}"
    )
    lines.append(
        f"{what}. It is of all {frames} held-out frames together, and too high with few frames: compare only at equal N. "
        "It has no interval, for frames drawn twice would raise it."
    )
    lines.append(f'"{NEARER}": of the other people here, those whose frames the made ones resemble less than the person\'s own, by CSIM.')
    return ["- " + line for line in lines]
