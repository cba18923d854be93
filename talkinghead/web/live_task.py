"""Live driving in a worker: JPEG frames of a camera in, JPEG frames of a person out, the newest first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..checkpoint import load_person
from ..errors import TalkingheadError
from ..media.frame_source import SourceFrame
from ..media.images import decode_jpeg, encode_jpeg
from ..pipelines.animate import SYNTHESISED
from ..pipelines.live_person import LivePerson
from ..system.stage_pipeline import BoundedQueue, StagePipeline
from .report import JobReport
from .task_resources import TaskResources

MAX_LIVE_PIXELS = 1280 * 960
"""Limit of a camera's frame; the page sends 320x240."""
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class LiveFrame:
    """A frame of a camera.

    Attributes:
        number: rising, chosen by the page.
        jpeg: its bytes.
    """

    number: int
    jpeg: bytes


@dataclass(frozen=True)
class _NumberedFrame(SourceFrame):
    number: int = 0


def run_live(
    resources: TaskResources, request: Mapping[str, Any], report: JobReport, frames: BoundedQueue[LiveFrame]
) -> dict[str, Any]:
    """Render frames until their queue is closed.

    Args:
        resources: of the worker.
        request: `person` is the file, `retarget` and `mirror` are settings.
        report: sends each frame as {"frame": number, "seen": whether a face was seen} with a JPEG.
        frames: of the camera; of those that wait, the newest is taken.

    Raises:
        TalkingheadError: the person cannot be read, or a frame is no JPEG of usual size.
    """
    person = LivePerson(
        load_person(Path(request["person"])),
        detector=resources.detector(request),
        retarget=request["retarget"],
        device=request["device"],
    )
    report.send({"ready": True, "size": person.size})
    source, count = _decode(frames, bool(request["mirror"])), 0
    with StagePipeline(source, person.stages, "page", blocking=False) as pipeline:
        without_face = 0
        while not pipeline.is_over():
            item = pipeline.get(0.1)
            if item is None:
                continue
            source_frame, image = item
            seen = person.retargeter.without_face == without_face
            without_face = person.retargeter.without_face
            fields = {"frame": source_frame.number, "seen": seen}
            report.send(fields, encode_jpeg(image, _JPEG_QUALITY, SYNTHESISED))
            count += 1
    return {"frames": count}


def _decode(frames: BoundedQueue[LiveFrame], mirror: bool) -> Iterator[_NumberedFrame]:
    """Yield decoded frames, the newest of those that wait."""
    start: float | None = None
    while (frame := frames.get()) is not None:
        now = perf_counter()
        start = now if start is None else start
        try:
            image = decode_jpeg(frame.jpeg, max_pixels=MAX_LIVE_PIXELS)
        except Exception as error:  # of various types, for damaged data
            raise TalkingheadError(
                "the camera's picture cannot be read, it is damaged or too large; start the camera again"
            ) from error
        if mirror:
            image = np.ascontiguousarray(image[:, ::-1])
        yield _NumberedFrame(image, now - start, now, frame.number)
