"""Video of a person driven by a video: the driver's landmarks, then the frames rendered and encoded.

Only the landmarks of the driving video (a Track, at most 628 bytes a frame) are kept; nothing else grows with
its length. See `DriverFrames` for how often it is decoded.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..clip import Track
from ..constants import LAYOUTS, MAX_SCALE
from ..data.load import read_track
from ..data.output_paths import check_outputs
from ..engines.base import Engine
from ..engines.verify import check_renders_person
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.open_detector import resolve_detector
from ..landmarks.smoothing import smooth
from ..media.images import enlarge
from ..media.video import VideoReader, VideoWriter, write_video
from ..model import Person
from ..system.device import choose_device
from ..system.prefetch import prefetch
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.signals import graceful_shutdown, interruptible
from ..system.stage_timer import StageTimer, timed_stage
from ..system.torch_state import with_default_torch_state
from .animate import (
    BATCH,
    SYNTHESISED,
    check_retarget,
    crop_framed_like,
    driver_is_same_person,
    driving_points,
    render,
    render_landmarks_uint8,
    warn_of_unlike_frames,
)
from .driver import DriverFrames
from .paste_back import PasteBack, open_place, show_before

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Animation:
    """Result of `animate_video`.

    Attributes:
        out: the video.
        frames: how many it has, as many as the driving video.
        without_face: those of them whose landmarks were interpolated.
        gaps: when that was for longer than half a second, [(start, end)] in seconds.
        retargeted: whether the person's own proportions were kept.
        fps: frames per second, the driving video's.
        size: (height, width) in pixels.
        seconds: time taken, landmarks and rendering.
        interrupted: whether it was before the last frame; then the file holds those up to there.
    """

    out: Path
    frames: int
    without_face: int
    gaps: tuple[tuple[float, float], ...]
    retargeted: bool
    fps: float
    size: tuple[int, int]
    seconds: float
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {**asdict(self), "out": str(self.out), "seconds": round(self.seconds, 2)}


@with_default_torch_state
def animate_video(
    person: Person,
    drive: str | Path,
    out: str | Path,
    layout: str = "result",
    detector: Detector | str | None = None,
    face: int = 1,
    retarget: str = "auto",
    precision: str = "auto",
    keep_partial: bool = False,
    device: str | torch.device = "auto",
    progress: Progress = no_progress,
    engine: Engine | None = None,
    paste_back: str | Path | None = None,
    scale: int = 1,
    fast: bool = False,
) -> Animation:
    """Write the video of `person` doing what the face in the video `drive` does, with its frame rate
    and sound.

    The landmarks are smoothed over time, and interpolated in frames without a face. With layout "result" the
    driving video is decoded once, except with retarget "auto" when one of its first 250 frames does not show
    the face clearly: frames up to the last one that is compared with the person are then decoded again.
    With "side-by-side" it is decoded twice.

    Args:
        person: whom to show.
        drive: the driving video.
        out: the mp4 to write; its metadata say that it is synthesised.
        layout: "result" alone, or "side-by-side": the driver, the landmarks, the result, framed alike.
        detector: detects the landmarks; by default the networks that ship.
        face: which of the video's faces drives; 1 is the largest times longest.
        keep_partial: Ctrl-C while frames are rendered ends the video there, else it raises KeyboardInterrupt.
        retarget, precision, device, engine, fast, progress: as for `talkinghead.animate`.
        paste_back: a picture or video that the result is put into, at its size; only with layout "result".
        scale: 1 to 8; the result is enlarged so many times with Lanczos' filter, landmarks are drawn and the
            driver is cut out at that size. Not with `paste_back`.

    Raises:
        TalkingheadError: the layout, `retarget` or `scale` is unknown, the driving video or `paste_back`
            cannot be read or shows no such face, the output cannot be written, or is one of the two.
    """
    check_callbacks(progress)
    _check_choices(layout, retarget, paste_back, scale)
    check_outputs([out], [drive, paste_back])
    check_renders_person(engine, person)
    device = choose_device(device, fast, placed=person.placed)  # fail before the work if it is missing
    start = perf_counter()
    frames = DriverFrames(VideoReader(drive))
    detector = resolve_detector(detector)
    place = None if paste_back is None else open_place(person, paste_back, detector)
    if place is not None:
        person = show_before(person, place, detector)
    render_points = partial(render, person, precision=precision, device=device, engine=engine, fast=fast)
    job = _VideoJob(
        person, frames, place, layout=layout, scale=scale, engine=engine, progress=progress, start=start
    )
    return job.run(
        Path(out), render_points, detector=detector, face=face, retarget=retarget, keep_partial=keep_partial
    )


@dataclass(frozen=True)
class _VideoJob:
    """Work of `animate_video` after its checks.

    Attributes:
        person: who is rendered.
        frames: of the driving video.
        place: the picture that the result is put into, if any.
        layout, scale, engine, progress: as for `animate_video`.
        start: `perf_counter` when the work started.
    """

    person: Person
    frames: DriverFrames
    place: PasteBack | None
    layout: str
    scale: int
    engine: Engine | None
    progress: Progress
    start: float

    def run(
        self,
        out: Path,
        render_points: Callable[[np.ndarray], Iterable[np.ndarray]],
        *,
        detector: Detector,
        face: int,
        retarget: str,
        keep_partial: bool,
    ) -> Animation:
        """Write the video; arguments as for `animate_video`."""
        reader, place = self.frames.reader, self.place
        side = self._side
        size = (side, side if self.layout == "result" else 3 * side) if place is None else place.size
        comment = {"comment": SYNTHESISED}
        # Open the output before the landmarks are detected, so that a bad path fails before the long work.
        with (
            graceful_shutdown() as stopped,  # until the video is complete
            nullcontext() if self.engine is None or place is None else self.engine.use_person(self.person),
            write_video(out, reader.fps, size, audio_from=reader.path, metadata=comment) as video,
        ):
            with interruptible():
                track, retargeted = self._read_driver(detector, face, retarget)
            points = driving_points(self.person, track, retargeted=retargeted)
            warn_of_unlike_frames(self.person, points, track.fps, reader.path.name)
            # Frames are encoded while the next ones are generated.
            rendered = StageTimer("rendering").waits(render_points(points))
            with closing(prefetch(rendered, 2 * BATCH)) as results:
                written = self._write_frames(video, points, results, stopped)
            if written < len(track) and not keep_partial:
                raise KeyboardInterrupt
        written_track = track[:written]
        return Animation(
            out=out,
            frames=written,
            without_face=int((~written_track.seen).sum()),
            gaps=tuple(written_track.gaps()),
            retargeted=retargeted,
            fps=float(reader.fps),
            size=size,
            seconds=perf_counter() - self.start,
            interrupted=written < len(track),
        )

    @property
    def _side(self) -> int:
        """The side of the result, and of each panel beside it, in pixels."""
        return self.person.config.networks.image_size * self.scale

    def _read_driver(self, detector: Detector, face: int, retarget: str) -> tuple[Track, bool]:
        """Return the smoothed landmarks of the driver, and whether they are to be retargeted."""
        frames, person = self.frames, self.person
        progress = frames.keeping(self.progress) if retarget == "auto" else self.progress
        track = smooth(read_track(frames.reader, detector, face, progress=progress))
        if self.layout != "result":
            # The driver is shown beside the result, framed like it.
            crop = crop_framed_like(track, person.neutral_landmarks, person.config.crop)
            frames.show(crop, self._side)
        if retarget != "auto":
            return track, retarget == "on"
        with timed_stage("comparing the driver with the person"):
            same = driver_is_same_person(person, frames, track, engine=self.engine)
        return track, not same

    def _write_frames(
        self,
        video: VideoWriter,
        points: np.ndarray,
        results: Iterable[np.ndarray],
        stopped: Callable[[], bool],
    ) -> int:
        """Write a frame for each of points [N, P, 2] until the end or a signal; return how many."""
        panels: Iterable[np.ndarray | None] = repeat(None, len(points))
        if self.layout != "result":
            panels = self.frames.panels()
        rows = zip(points, results, panels, strict=True)
        written, writing = 0, StageTimer("writing")
        for position, result, panel in self.progress(rows, desc="rendering", total=len(points)):
            with writing.running():
                video.write(self._compose(result, position, panel))
            written += 1
            if stopped():
                break
        writing.log()
        return written

    def _compose(self, head: np.ndarray, points: np.ndarray, driver: np.ndarray | None) -> np.ndarray:
        """Return a frame of the output: the head in a picture, or alone, or beside driver and landmarks."""
        if self.place is not None:
            return self.place.frame(head)
        head = enlarge(head, self.scale)
        if driver is None:
            return head
        return np.concatenate([driver, render_landmarks_uint8(points, self._side), head], axis=1)


def _check_choices(layout: str, retarget: str, paste_back: str | Path | None, scale: int) -> None:
    """Raise a TalkingheadError for choices that are unknown or do not go together."""
    if layout not in LAYOUTS:
        raise TalkingheadError(f"layout {layout!r}: is unknown; choose one of {', '.join(LAYOUTS)}")
    check_retarget(retarget)
    if type(scale) is not int or scale not in range(1, MAX_SCALE + 1):
        raise TalkingheadError(f"scale {scale!r}: is no factor; give a whole number from 1 to {MAX_SCALE}")
    if paste_back is not None and scale != 1:
        raise TalkingheadError(
            f"{paste_back}: the result has this picture's size; leave out scale, or enlarge the picture"
        )
    if paste_back is not None and layout != "result":
        raise TalkingheadError(
            f"{paste_back}: only the result is put into a picture, not layout {layout!r}; leave one of them "
            "out"
        )
