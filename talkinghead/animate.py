"""A person driven by landmarks: the driver's motion put on the person's face, rendered in batches, written as a video.

The driving video is read for its landmarks (a Track, 548 bytes a frame), its beginning to tell whether it shows the person, and, only for
a layout that shows them, once more for its frames. Nothing else grows with its length.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
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
from .data.outputs import check_outputs
from .data.read import Progress, read_track, select, silent
from .data.shots import spread
from .device import choose_device
from .engines.ahead import ahead
from .engines.eager import EagerEngine
from .engines.engine import Engine
from .errors import TalkingheadError
from .identity import SAME_PERSON
from .interrupt import interruptible, stop_flag
from .landmarks.detect import open_detector
from .landmarks.draw import landmark_image
from .landmarks.face import DOUBTFUL, Detector
from .landmarks.retarget import neutral_face
from .landmarks.retarget import retarget as put_on
from .landmarks.smooth import smooth
from .media.video import VideoReader, write_video
from .metrics import identity_distance
from .networks.references import shape_distance
from .paste_back import PasteBack, open_place, show_before
from .torch_state import from_numpy, with_default_torch_state

log = logging.getLogger(__name__)

BATCH = 8
LAYOUTS = ("result", "side-by-side")
RETARGET = ("auto", "off")
_COMPARED, _EARLY = 5, 250  # frames compared to tell that, out of the first so many
FAR_SHAPE = 0.2
"""Shape distance (networks/references.py) beyond which a driver does what no picture shows: a head turned by some 30 degrees more."""
SYNTHESISED = "This video was synthesised by talkinghead: it is not a recording of the person it shows."


def map_track(track: Track, reference: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """The driver's landmarks in the person's crop, with the driver's proportions.

    Without `crop`, scale and shift (no rotation) take the centroid and the root-mean-square size of the driver's median landmarks onto
    those of the reference: the driver's own framing then never matters, his movement stays. With `crop`, the person drives himself and
    the points are plain coordinates of that crop.

    Args:
        track: landmarks [N, 68, 2], pixels of the driver's frames.
        reference: the person's face at rest [68, 2], fractions of the person's crop.
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


@with_default_torch_state
def animate(
    person: Person, drive: Track, crop: Crop | None = None, retarget: bool = True, precision: str = "auto", device: str = "cpu"
) -> Iterator[np.ndarray]:
    """The person doing what the track does, frame by frame.

    Args:
        person: from `talkinghead.finetune` or `talkinghead.load_person`.
        drive: the driving landmarks; only their movement matters, not where in the frame the face is.
        crop: see `map_track`; only for a person driven by the recording it was made from, and then nothing is retargeted.
        retarget: keep the person's own proportions (`talkinghead.landmarks.retarget`); off, the driver's face shape comes through.
        precision, device: as for `EagerEngine`.

    Yields:
        uint8 [size, size, 3] RGB, one for each frame of the track, size being the person's image size.

    Raises:
        TalkingheadError: the track is empty.
    """
    return render(person, driving_points(person, drive, crop, retarget), precision, device)


def driving_points(person: Person, drive: Track, crop: Crop | None = None, retarget: bool = True) -> np.ndarray:
    """Where the landmarks are to be in the person's crop: float32 [N, 68, 2], fractions of it; arguments as for `animate`."""
    if crop is not None or not retarget or not len(drive):
        return map_track(drive, person.reference, crop)
    return put_on(drive, neutral_face(person.reference[None]))


@with_default_torch_state
def render(
    person: Person, points: np.ndarray, precision: str = "auto", device: str = "cpu", engine: Engine | None = None
) -> Iterator[np.ndarray]:
    """Frames uint8 [size, size, 3] for points float32 [N, 68, 2] in fractions of the crop; `BATCH` at a time, by `engine` if given."""
    engine = engine or EagerEngine(person, choose_device(device), precision, BATCH)
    for start in range(0, len(points), BATCH):
        yield from engine.run(points[start : start + BATCH])


@with_default_torch_state
def landmark_frame(points: np.ndarray, size: int) -> np.ndarray:
    """What the generator is shown, as a picture: uint8 [size, size, 3] for points [68, 2] in fractions of the crop."""
    image = landmark_image(from_numpy(points.astype(np.float32))[None], size)[0]
    return image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Animation:
    """What `animate_video` made.

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
        return {**asdict(self), "out": str(self.out), "seconds": round(self.seconds, 2)}


@with_default_torch_state
def animate_video(
    person: Person,
    drive: str | Path,
    out: str | Path,
    layout: str = "result",
    detector: Detector | None = None,
    face: int = 1,
    retarget: str = "auto",
    precision: str = "auto",
    keep_partial: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
    engine: Engine | None = None,
    paste_back: str | Path | None = None,
) -> Animation:
    """Write the video of `person` doing what the face in the video `drive` does, at its frame rate and with its sound.

    The landmarks are smoothed over time. Frames without a face show what lies between those around them.

    Args:
        person: whom to show.
        drive: the driving video; memory does not grow with its length.
        out: the mp4 to write; its metadata say that it is synthesised.
        layout: "result" alone, or "side-by-side": the driver's crop, the landmarks, the result.
        detector: finds the landmarks; by default the best that is installed.
        face: which of the video's faces drives, 1 being the largest times longest.
        retarget: "auto" keeps the person's own proportions unless the driver is the person, by the distance of dlib's face descriptors;
            "off" takes the driver's landmarks as they are, scaled and shifted.
        precision: as for `EagerEngine`.
        keep_partial: Ctrl-C while frames are rendered ends the video there; otherwise it leaves none and raises KeyboardInterrupt.
        device: where frames are rendered: "cpu", "cuda" or "auto".
        progress: shows the advance.
        engine: renders in place of torch; from `talkinghead.engines.formats.open_engine`, which checks that it is the person's.
        paste_back: a picture, or a video, into which the result is put, at the picture's size; with layout "result" only.

    Raises:
        TalkingheadError: the layout or `retarget` is unknown, the driving video or `paste_back` cannot be read or shows no such face, the
            output cannot be written, or is one of the two.
    """
    _check_choices(layout, retarget, paste_back)
    check_outputs([out], [drive, paste_back])
    choose_device(device)  # one that is not there is told before the work
    start = perf_counter()
    side = person.config.networks.image_size
    reader = VideoReader(drive)
    detector = detector or open_detector()
    place = None if paste_back is None else open_place(person, paste_back, detector)
    if place is not None:
        person = show_before(person, place, detector)
    size = (side, side if layout == "result" else 3 * side) if place is None else place.size
    # opened before the landmarks are looked for, so that a place that cannot be written to is told at once
    with (
        stop_flag() as stopped,  # until the video is whole
        nullcontext() if engine is None or place is None else engine.showing(person),
        write_video(out, reader.fps, size, audio_from=drive, metadata={"comment": SYNTHESISED}) as video,
    ):
        with interruptible():
            track = smooth(read_track(reader, detector, face, progress=progress))
            retargeted = retarget == "auto" and not shows(person, reader, track, engine=engine)
        points = driving_points(person, track, retarget=retargeted)
        warn_of_unlike_frames(person, points, track.fps, reader.path.name)
        # the driver's own crop is only shown, never rendered from
        crops: Iterable[np.ndarray | None] = repeat(None, len(track)) if layout == "result" else _crops(reader, track, person)
        results = ahead(render(person, points, precision, device, engine), 2 * BATCH)  # frames are encoded while the next are generated
        written = 0
        with closing(results):
            for position, result, driver in progress(zip(points, results, crops, strict=True), len(track), "rendering"):
                video.write(_compose(result, position, driver, place))
                written += 1
                if stopped():
                    break
        if written < len(track) and not keep_partial:
            raise KeyboardInterrupt
    shown = track[:written]
    unseen, gaps = int((~shown.seen).sum()), tuple(shown.gaps())
    seconds = perf_counter() - start
    return Animation(Path(out), written, unseen, gaps, retargeted, float(reader.fps), size, seconds, written < len(track))


def warn_of_unlike_frames(person: Person, points: np.ndarray, fps: float, name: str) -> None:
    """Log a line where driving landmarks [N, 68, 2] are far from anything the person's pictures show, such as a head turned further."""
    if person.references is None:
        return
    frames = np.flatnonzero(shape_distance(person.references.landmarks, points) > FAR_SHAPE)
    if len(frames):
        at = f" at {frames[0] / fps:.1f} s" if fps else ""
        log.warning(
            "%s: in %d of %d frames, the first%s, the face is turned or opened further than in any picture of the person and may look "
            "bent; learn the person from pictures that show it so",
            name,
            len(frames),
            len(points),
            at,
        )


def _compose(head: np.ndarray, points: np.ndarray, driver: np.ndarray | None, place: PasteBack | None) -> np.ndarray:
    if place is not None:
        return place.frame(head)
    return head if driver is None else np.concatenate([driver, landmark_frame(points, len(head)), head], axis=1)


def _check_choices(layout: str, retarget: str, paste_back: str | Path | None) -> None:
    for name, choice, known in (("layout", layout, LAYOUTS), ("retarget", retarget, RETARGET)):
        if choice not in known:
            raise TalkingheadError(f"{name} {choice!r}: unknown, one of {', '.join(known)} was expected")
    if paste_back is not None and layout != "result":
        raise TalkingheadError(f"{paste_back}: only the result is put into a picture, not layout {layout!r}; leave one of them out")


def shows(person: Person, reader: VideoReader, track: Track, stride: int = 1, engine: Engine | None = None) -> bool:
    """Whether the video shows the person: some of its clearest early frames are compared with the person rendered in their place.

    Args:
        person: who is to be driven.
        reader: of the driving video.
        track: its landmarks, of every `stride`-th frame.
        engine: renders the person; by default torch does.
    """
    early = track[:_EARLY].confidence
    clear = np.flatnonzero(early >= (DOUBTFUL if (early >= DOUBTFUL).any() else early.max()))
    chosen = clear[spread(len(clear), _COMPARED)]
    side = person.config.networks.image_size
    crop = crop_around(track.landmarks[chosen], track.size, person.config.crop)
    real = np.stack([crop.pixels(frame, side) for frame in select(reader, chosen * stride)])
    try:
        distance = identity_distance(np.stack(list(render(person, driving_points(person, track[chosen]), engine=engine))), real)
    except TalkingheadError as error:
        log.info("%s: taken for another person than the one it drives (%s)", reader.path.name, error)
        return False
    if not np.isfinite(distance):
        log.info(
            "%s: whether it shows the person it drives cannot be told, dlib recognises no face in it or in the person: its motion is put "
            "on the person's own proportions (--retarget off takes its landmarks as they are)",
            reader.path.name,
        )
        return False
    same = distance < SAME_PERSON
    log.info(
        "%s: shows %s, by an identity distance of %.2f (%.1f or more is another): %s",
        reader.path.name,
        "the person it drives" if same else "another person than the one it drives",
        distance,
        SAME_PERSON,
        "its landmarks are taken as they are" if same else "its motion is put on the person's own proportions",
    )
    return same


def _crops(reader: VideoReader, track: Track, person: Person) -> Iterator[np.ndarray]:
    crop = crop_around(track.landmarks[track.seen], track.size, person.config.crop)
    for frame in reader:
        yield crop.pixels(frame, person.config.networks.image_size)
