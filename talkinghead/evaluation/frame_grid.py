"""Draw an image of held-out frames as every method renders them, evenly spaced."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.few_shot import evenly_spaced_indices
from ..media.contact_sheet import SheetRow, draw_contact_sheet
from ..pipelines.animate import render_landmarks_uint8
from .evaluate_clip import MAX_SHOWN as COLUMNS

_PANEL = 256
_LABELS = {
    "feed-forward": ("feed-forward", "not fine-tuned"),
    "fine-tuned": ("fine-tuned", ""),
    "no-adversarial": ("no adversarial", "fine-tuned without\nthe discriminator"),
    "random-weights": ("random weights", "the same steps"),
    "nearest": ("nearest frame", "of the T pictures,\nby landmarks"),
    "warped": ("warped", "nearest frame, bent\nto the landmarks"),
}


def draw_frame_grid(
    clips: Sequence[Mapping[str, Any]], shots: Sequence[int], results: Mapping[str, Any]
) -> np.ndarray:
    """Draw a column for each held-out frame, and a row for the truth and for each method.

    Returns:
        uint8 [H, W, 3]; its frames are evenly spaced over people.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for clip in clips:
        first.setdefault(clip["person"], clip)
    columns = [(clip, frame) for clip in first.values() for frame in range(len(clip["shown"]["truth"]))]
    columns = [columns[number] for number in evenly_spaced_indices(len(columns), COLUMNS)]
    middle = sorted(shots)[len(shots) // 2]

    def frames_of(key: str) -> list[np.ndarray]:
        return [clip["shown"][key][frame].numpy() for clip, frame in columns]

    rows = [
        SheetRow(
            "learned from",
            f"one of T = {middle}\npictures",
            [clip["shown"][f"{middle} pictures"][0].numpy() for clip, _ in columns],
        ),
        SheetRow(
            "landmarks",
            "of the held-out frame:\nall that drives",
            [render_landmarks_uint8(points, _PANEL) for points in frames_of("landmarks")],
        ),
        SheetRow("truth", "the held-out frame", frames_of("truth"), [clip["person"] for clip, _ in columns]),
    ]
    for method in results["summary"]["all"][str(middle)]:
        for count in sorted(shots) if method == "fine-tuned" else [middle]:
            name, explanation = _LABELS[method]
            rows.append(SheetRow(name, f"{explanation}\nT = {count}".strip(), frames_of(f"{count} {method}")))
    settings = results["settings"]
    steps = ", ".join(f"{steps} (T = {count})" for count, steps in settings["steps"].items())
    return draw_contact_sheet(
        "talkinghead: held-out frames",
        f"model {settings['model']['name']}, steps {steps}; frames evenly spaced, nobody chosen",
        rows,
    )
