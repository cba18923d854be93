"""A person driven by landmarks: the driver's points mapped into the person's crop, rendered in batches, written as a video.

The driving video is read twice: once for its landmarks (a Track, 544 bytes a frame) and, only for a layout that shows them, once
more for its frames. Nothing else grows with its length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from .checkpoint import Person
from .clip import Track
from .data.crop import Crop, crop_around
from .data.read import Progress, read_track, silent
from .data.video import VideoReader, write_video
from .engines.eager import EagerEngine
from .errors import TalkingheadError
from .landmarks.detect import Detector, open_detector
from .landmarks.draw import landmark_image

BATCH = 8
LAYOUTS = ("result", "side-by-side")
SYNTHESISED = "This video was synthesised by talkinghead: it is not a recording of the person it shows."


def map_track(track: Track, reference: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """The driver's landmarks in the person's crop.

    Without `crop`, scale and shift (no rotation) take the centroid and the root-mean-square size of the driver's median landmarks onto
    those of the reference: the driver's own framing then never matters, his movement stays. With `crop`, the person drives himself and
    the points are plain coordinates of that crop.

    Args:
        track: landmarks [N, 68, 2], pixels of the driver's frames.
        reference: mean landmarks [68, 2] of the person's pictures, fractions of the person's crop.
        crop: the person's crop in the driver's frames, when they are of the same recording.

    Returns:
        float32 [N, 68, 2], fractions of the person's crop.

    Raises:
        TalkingheadError: the track is empty, or its points all fall together.
    """
    if len(track) == 0:
        raise TalkingheadError("animate: the driving track has no frames, at least one was expected; give a video that shows a face")
    if crop is not None:
        return crop.points(track.landmarks, 1)
    points = track.landmarks.astype(np.float64)
    driver_centre, driver_size = _centre_and_size(np.median(points, axis=0))
    centre, size = _centre_and_size(reference.astype(np.float64))
    if not driver_size > 0:
        raise TalkingheadError("animate: the driving landmarks all fall on one point, a face was expected; give another video")
    return ((points - driver_centre) * (size / driver_size) + centre).astype(np.float32)


def _centre_and_size(points: np.ndarray) -> tuple[np.ndarray, float]:
    centre = points.mean(axis=0)
    return centre, float(np.sqrt(((points - centre) ** 2).sum(axis=1).mean()))


def fill_gaps(track: Track, kept: np.ndarray, total: int) -> Track:
    """Landmarks for every frame: those without a face hold what lies between their neighbours in time (or the nearest, at the ends).

    Args:
        track: landmarks of the frames that show a face, [len(kept), 68, 2].
        kept: the indices of those frames, rising.
        total: frames there are.
    """
    if len(kept) == total:
        return track
    known = track.landmarks.reshape(len(kept), -1)
    times = np.arange(total)
    filled = np.stack([np.interp(times, kept, known[:, column]) for column in range(known.shape[1])], axis=1)
    return Track(filled.reshape(total, *track.landmarks.shape[1:]), track.size, track.fps)


def animate(person: Person, drive: Track, crop: Crop | None = None) -> Iterator[np.ndarray]:
    """The person doing what the track does, frame by frame.

    Args:
        person: from `talkinghead.finetune` or `talkinghead.load_person`.
        drive: the driving landmarks; only their movement matters, not where in the frame the face is.
        crop: see `map_track`; only for a person driven by the recording it was made from.

    Yields:
        uint8 [size, size, 3] RGB, one for each frame of the track, size being the person's image size.

    Raises:
        TalkingheadError: the track is empty.
    """
    return render(person, map_track(drive, person.reference, crop))


def render(person: Person, points: np.ndarray) -> Iterator[np.ndarray]:
    """Frames uint8 [size, size, 3] for points float32 [N, 68, 2] in fractions of the crop; `BATCH` at a time."""
    engine = EagerEngine(person)
    for start in range(0, len(points), BATCH):
        yield from engine.run(points[start : start + BATCH])


def landmark_frame(points: np.ndarray, size: int) -> np.ndarray:
    """What the generator is shown, as a picture: uint8 [size, size, 3] for points [68, 2] in fractions of the crop."""
    image = landmark_image(torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))[None], size)[0]
    return image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Animation:
    """What `animate_video` made.

    Attributes:
        out: the video.
        frames: how many it has, as many as the driving video.
        without_face: those of them whose landmarks were interpolated.
        fps: frames per second, the driving video's.
        size: (height, width) in pixels.
        seconds: time taken, landmarks and rendering.
    """

    out: Path
    frames: int
    without_face: int
    fps: float
    size: tuple[int, int]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out), "seconds": round(self.seconds, 2)}


def animate_video(
    person: Person,
    drive: str | Path,
    out: str | Path,
    layout: str = "result",
    detector: Detector | None = None,
    progress: Progress = silent,
) -> Animation:
    """Write the video of `person` doing what the face in the video `drive` does, at its frame rate and with its sound.

    Args:
        person: whom to show.
        drive: the driving video; memory does not grow with its length.
        out: the mp4 to write; its metadata say that it is synthesised.
        layout: "result" alone, or "side-by-side": the driver's crop, the landmarks, the result.
        detector: finds the landmarks; by default the best that is installed.
        progress: shows the advance.

    Raises:
        TalkingheadError: the layout is unknown, the driving video cannot be read or shows no face, the output cannot be written.
    """
    if layout not in LAYOUTS:
        raise TalkingheadError(f"layout {layout!r}: unknown, one of {', '.join(LAYOUTS)} was expected")
    start = perf_counter()
    side = person.config.networks.image_size
    size = (side, side if layout == "result" else 3 * side)
    reader = VideoReader(drive)
    # opened before the landmarks are looked for, so that a place that cannot be written to is told at once
    with write_video(out, reader.fps, size, audio_from=drive, metadata={"comment": SYNTHESISED}) as video:
        track, kept, total = read_track(drive, detector or open_detector(), progress)
        points = map_track(fill_gaps(track, kept, total), person.reference)
        # the driver's own crop is only shown, never rendered from
        crops: Iterable[np.ndarray | None] = (
            repeat(None, total) if layout == "result" else _crops(reader, crop_around(track.landmarks), side)
        )
        for position, result, driver in progress(zip(points, render(person, points), crops, strict=True), total, "rendering"):
            video.write(result if driver is None else np.concatenate([driver, landmark_frame(position, side), result], axis=1))
    return Animation(Path(out), total, total - len(kept), float(reader.fps), size, perf_counter() - start)


def _crops(reader: VideoReader, crop: Crop, size: int) -> Iterator[np.ndarray]:
    for frame in reader:
        yield crop.pixels(frame, size)
