"""Format the values of results.json as Markdown."""

from collections.abc import Mapping
from typing import Any

from ..constants import METHODS
from ..pretrained.face_recognition import NOT_MEASURED
from .scorer import METRICS

NEARER = "nearer than others"


def format_markdown(results: Mapping[str, Any]) -> str:
    """Format tables: one for each group and T, then shares of wins, and metrics by number of steps."""
    settings = results["settings"]
    lines = [_introduction(results), ""]
    for group, by_shots in results["summary"].items():
        for shots, rows in by_shots.items():
            lines += [*_table(results, group, shots, rows), ""]
    for shots, rows in results["fine_tuned_better"].items():
        if rows:
            equal = results.get("fine_tuned_equal", {}).get(shots, {})
            title = f"T = {shots}: share of people on whom fine-tuned is better (= as good) than"
            lines += [*_better(title, rows, equal), ""]
    for shots, rows in results["curve"].items():
        if rows:
            lines += [*_curve(shots, rows), ""]
    notes = _notes(settings, results["frechet_frames"], len(results["people"]))
    lines += [f"- {note}" for note in (*_identity_notes(results), *notes)]
    return "\n".join(lines) + "\n"


def _introduction(results: Mapping[str, Any]) -> str:
    settings, protocol = results["settings"], results["settings"]["protocol"]
    people, clips = len(results["people"]), len(results["clips"])
    steps = ", ".join(f"{steps} for T = {shots}" for shots, steps in settings["steps"].items())
    model = settings["model"]
    return (
        f"Model {model['name']} ({model['digest'][:12] or 'random weights'}, "
        f"{settings['image_size']}x{settings['image_size']}), "
        f"people: {people}, clips: {clips}, up to {protocol['held_out']} held-out frames each; fine-tuning "
        f"steps: {steps}. "
        f"{_explain_values(people)}"
    )


def _explain_values(people: int) -> str:
    if people == 1:
        return "Values of one person, which have no interval."
    return "Mean over people [95% bootstrap interval]."


def _table(results: Mapping[str, Any], group: str, shots: str, methods: Mapping[str, Any]) -> list[str]:
    first = next(iter(methods.values()))
    metrics = [name for name in METRICS if name in first]
    has_frechet, has_nearer = group == "all", "nearer" in first
    head = [f"T = {shots}, {group}, people: {len(results['groups'][group])}"]
    head += [METRICS[name].label for name in metrics]
    if has_frechet:
        head.append(f"{results['settings']['frechet']['name']} (N = {results['frechet_frames']})")
    if has_nearer:
        head.append(NEARER)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method, values in methods.items():
        cells = [METHODS[method]]
        cells += [format_interval(values[name], METRICS[name].number_format) for name in metrics]
        if has_frechet:
            value = results["frechet"][shots][method]
            cells.append("" if value is None else f"{value:.3g}")
        if has_nearer:
            cells.append(format_interval(values["nearer"], ".0%"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def format_interval(interval: Mapping[str, Any], number_format: str) -> str:
    """Format the result of a bootstrap as mean [low, high]."""
    if interval["mean"] is None:
        return "no face"
    mean = format(interval["mean"], number_format)
    if interval["low"] is None:
        return mean
    return f"{mean} [{format(interval['low'], number_format)}, {format(interval['high'], number_format)}]"


def _better(
    title: str, methods: Mapping[str, Mapping[str, float]], equal: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return a table of shares of people; those on whom both are as good follow in brackets."""
    metrics = [name for name in METRICS if any(name in values for values in methods.values())]
    lines = [
        f"| {title} | {' | '.join(METRICS[name].label for name in metrics)} |",
        "|" + "---|" * (len(metrics) + 1),
    ]
    for method, values in methods.items():
        cells = []
        for name in metrics:
            cell, share = "" if name not in values else f"{values[name]:.0%}", equal.get(method, {}).get(name)
            cells.append(f"{cell} (= {share:.0%})" if share else cell)
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    return lines


def _curve(shots: str, methods: Mapping[str, Any]) -> list[str]:
    labels = {
        "ssim": "SSIM",
        "learned_ssim": "SSIM of the pictures learned from",
        "csim": "CSIM",
        "landmark_error": "landmark error",
        "perceptual": "perceptual",
    }
    measured = next(values for by_steps in methods.values() for values in by_steps.values())
    labels = {name: label for name, label in labels.items() if name in measured}
    lines = [
        f"| T = {shots}: steps | row | {' | '.join(labels.values())} |",
        "|" + "---|" * (len(labels) + 2),
    ]
    for method, by_steps in methods.items():
        for steps, values in by_steps.items():
            cells = [
                format_interval(values[name], METRICS[name.removeprefix("learned_")].number_format)
                for name in labels
            ]
            lines.append(f"| {steps} | {METHODS[method]} | {' | '.join(cells)} |")
    return lines


def _notes(settings: Mapping[str, Any], frames: int, people: int) -> list[str]:
    frechet = settings["frechet"]["name"]
    if frechet == "FED":
        distance = (
            "FED is the Frechet distance between features of EfficientNet-Lite0, not FID: compare it with "
            "FED only"
        )
    else:
        distance = f"FID by {settings['frechet']['weights']}"
    return [
        "Landmark error as a share of the distance between the eyes; perceptual distance by "
        "EfficientNet-Lite0 (10: two different frames of one clip).",
        "Landmark error, and what tells who it is, are of the frames in which a face was found; where rows "
        "are compared, one that shows a face in less than half of a person's frames has lost these.",
        f"{distance}. It is of all {frames} held-out frames together, and too high with few frames: compare "
        "only at equal N."
        + (" It has no interval, for frames drawn twice would raise it." if people > 1 else ""),
    ]


def _identity_notes(results: Mapping[str, Any]) -> list[str]:
    """Return what the columns of identity are by, and which are left out."""
    network = results["settings"]["identity"]
    rows = [row for methods in results["summary"]["all"].values() for row in methods.values()]
    notes = []
    if network is not None:
        note = f"CSIM by {network['name']}"
        if network["name"] == "dlib":
            note += "'s network, which gives two people 0.80 to 0.92: compare with its own only"
        notes.append(f"{note}.")
        if any("nearer" in row for row in rows):
            notes.append(
                f'"{NEARER}": of the other people here, those whose frames the made ones resemble less than '
                "the person's own, by CSIM."
            )
    if any("identity" in row for row in rows):
        notes.append(
            "Identity distance by dlib (0.15 to 0.42 between frames of one person, 0.6 parts two people)."
        )
    else:
        notes.append(f"{NOT_MEASURED}.")
    if network is None:
        notes.append("A face is found where the landmark detector finds one.")
    return notes
