"""The contact sheet: held-out frames as every row shows them, evenly spaced, nobody chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..animate import landmark_frame
from ..data.shots import spread
from ..media.panels import Row, sheet

COLUMNS = 8
_PANEL = 256
_LABELS = {
    "feed-forward": ("feed-forward", "not fine-tuned"),
    "fine-tuned": ("fine-tuned", ""),
    "no-adversarial": ("no adversarial", "fine-tuned without\nthe discriminator"),
    "random-weights": ("random weights", "the same steps"),
    "nearest": ("nearest frame", "of the T pictures,\nby landmarks"),
    "warped": ("warped", "nearest frame, bent\nto the landmarks"),
}


def contact_sheet(clips: Sequence[Mapping[str, Any]], shots: Sequence[int], results: Mapping[str, Any]) -> np.ndarray:
    """uint8 [H, W, 3]: a column for each held-out frame, evenly over people; a row for the truth and for each row of the tables."""
    first: dict[str, Mapping[str, Any]] = {}
    for clip in clips:
        first.setdefault(clip["person"], clip)
    places = [(clip, frame) for clip in first.values() for frame in range(len(clip["shown"]["truth"]))]
    places = [places[number] for number in spread(len(places), COLUMNS)]
    middle = sorted(shots)[len(shots) // 2]

    def pictures(what: str) -> list[np.ndarray]:
        return [clip["shown"][what][frame].numpy() for clip, frame in places]

    rows = [
        Row("learned from", f"one of T = {middle}\npictures", [clip["shown"][f"{middle} pictures"][0].numpy() for clip, _ in places]),
        Row("landmarks", "of the held-out frame:\nall that drives", [landmark_frame(points, _PANEL) for points in pictures("landmarks")]),
        Row("truth", "the held-out frame", pictures("truth"), [clip["person"] for clip, _ in places]),
    ]
    for row in results["summary"]["all"][str(middle)]:
        for count in sorted(shots) if row == "fine-tuned" else [middle]:
            name, explanation = _LABELS[row]
            rows.append(Row(name, f"{explanation}\nT = {count}".strip(), pictures(f"{count} {row}")))
    settings = results["settings"]
    steps = ", ".join(f"{steps} (T = {count})" for count, steps in settings["steps"].items())
    return sheet(
        "talkinghead: held-out frames", f"model {settings['model']['name']}, steps {steps}; frames evenly spaced, nobody chosen", rows
    )
