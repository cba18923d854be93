"""Frames of a person driven by landmarks: the driver's motion on the person's face, rendered in batches."""

import logging
import os
from collections.abc import Iterator

import numpy as np
import torch

from ..checkpoint import load_person
from ..clip import Track
from ..constants import RETARGET
from ..data.crop import Crop, crop_around
from ..engines.base import Engine
from ..engines.torch_engine import TorchEngine
from ..engines.verify import check_renders_person
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.face_points import fit_points, split_points, track_points
from ..landmarks.geometry import centre_and_scale
from ..landmarks.landmark_image import landmark_image
from ..landmarks.retarget import neutral_face
from ..landmarks.retarget import retarget as retarget_track
from ..media.pixel_range import float_to_uint8
from ..model import Person
from ..networks.references import shape_distance
from ..pretrained.face_similarity import face_similarity_network, person_distance
from ..system.device import choose_device
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.torch_state import from_numpy, with_default_torch_state
from .driver import Driver, DriverFrames, read_driver

MAX_SHAPE_DIFFERENCE = 0.06
"""Difference of the faces at rest up to which a driver may be the person. Landmarks that are taken as they
are show the driver's proportions, so this bounds the harm of an error.
"""
MAX_SAME_PERSON_DISTANCE = 0.2
"""Distance of the pictures up to which a driver may be the person; docs/landmarks.md has the error rates."""

log = logging.getLogger(__name__)

BATCH = 8
FAR_SHAPE = 0.2
"""Shape distance (networks/references.py) beyond which no picture shows a similar face, for example of a
head turned by 30 degrees more.
"""
SYNTHESISED = "This video was synthesised by talkinghead: it is not a recording of the person it shows."


def align_track(track: Track, reference: np.ndarray, crop: Crop | None = None) -> np.ndarray:
    """Bring the driver's landmarks into the person's crop, with the driver's proportions.

    Without `crop`, scale and shift (no rotation) take the centroid and the root-mean-square size of the
    driver's median landmarks onto those of the reference: the driver's framing then has no effect, and the
    movement is kept. With `crop`, the person drives themself and the points are plain coordinates of that
    crop.

    Args:
        track: landmarks [N, 68, 2], pixels of the driver's frames, with irises or without.
        reference: the person's face at rest [68, 2], fractions of the person's crop.
        crop: the person's crop in the driver's frames, when they are of the same recording.

    Returns:
        float32 [N, 78, 2], fractions of the person's crop; [N, 68, 2] of a track without irises.

    Raises:
        TalkingheadError: the track is empty, or its points all fall together.
    """
    if len(track) == 0:
        raise TalkingheadError(
            "animate: the driving track has no frames, expected at least one; give a video that shows a face"
        )
    return (crop or crop_framed_like(track, reference)).points(track_points(track), 1)


def crop_framed_like(track: Track, reference: np.ndarray, convention: int = 1) -> Crop:
    """Return the crop of the driver's frames in which the face is as large, and where, as in the person's.

    Args:
        track, reference: as for `align_track`.
        convention: of the crop (data/crop.py).

    Raises:
        TalkingheadError: the points of the track all fall together.
    """
    driver_centre, driver_size = centre_and_scale(np.median(track.landmarks.astype(np.float64), axis=0))
    centre, size = centre_and_scale(reference.astype(np.float64))
    if not driver_size > 0:
        raise TalkingheadError(
            "animate: the driving landmarks all fall on one point, expected a face; give another video"
        )
    side = float(driver_size / size)
    x, y = driver_centre - centre * side
    return Crop(float(x), float(y), side, convention)


@with_default_torch_state
def animate(
    person: Person | str | os.PathLike[str],
    drive: Driver,
    crop: Crop | None = None,
    retarget: str = "auto",
    precision: str = "auto",
    device: str | torch.device = "auto",
    *,
    engine: Engine | None = None,
    detector: Detector | str | None = None,
    face: int = 1,
    fast: bool = False,
    progress: Progress = no_progress,
) -> Iterator[np.ndarray]:
    """Yield the frames of the person doing what the driver does.

    Args:
        person: from `talkinghead.finetune` or `talkinghead.load_person`, or a file.
        drive: a Track; landmarks [N, 68, 2], or [N, 78, 2] with irises, in pixels; a path of a video, GIF,
            picture or folder; or an iterable of frames, of any type of picture. Only the movement matters,
            not where in the frame the face is. An iterator of frames is read to its end before the first
            result.
        crop: see `talkinghead.pipelines.animate.align_track`; only for a person driven by the recording it
            was made from, and then nothing is retargeted.
        retarget: "on" keeps the person's own proportions (`talkinghead.landmarks.retarget`); "off" lets the
            driver's face shape come through; "auto" is off where the driver's frames show the person, else
            on.
        precision: of the arithmetic: "fp32", "bf16", "fp16" or "auto", the faster of the first two.
        device: "cpu", "cuda" or "auto": where the person was moved to, else a GPU where there is one.
        engine: renders in place of torch, from `talkinghead.open_engine`.
        detector: finds the landmarks of frames, or its name; by default the networks that ship.
        face: of frames that show several: 1 is the largest times longest.
        fast: on a GPU, use this package's kernels and CUDA graphs, which have no measurement yet.
        progress: shows the advance of reading.

    Yields:
        uint8 [size, size, 3] RGB, one for each frame of the driver, size being the person's image size.

    Raises:
        TalkingheadError: the driver is empty, none, or cannot be read; an argument is unknown; the engine is
            another person's.
    """
    check_callbacks(progress)
    check_retarget(retarget)
    if engine is not None and not isinstance(engine, Engine):
        raise TalkingheadError(
            f"engine: got {type(engine).__name__}; open the file by talkinghead.open_engine(file, person)"
        )
    if not isinstance(person, Person):
        person = load_person(person)
    check_renders_person(engine, person)
    target = choose_device(device, fast, placed=person.placed)
    points = points_of_driver(
        person, drive, crop, retarget, engine=engine, detector=detector, face=face, progress=progress
    )
    return render(person, points, precision, target, engine=engine, fast=fast)


@with_default_torch_state
def points_of_driver(
    person: Person,
    drive: Driver,
    crop: Crop | None = None,
    retarget: str = "auto",
    *,
    engine: Engine | None = None,
    detector: Detector | str | None = None,
    face: int = 1,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Return the points to render for a driver, smoothed and retargeted, as `driving_points` does.

    Args:
        person: who is driven.
        drive, crop, retarget, engine, detector, face, progress: as for `animate`.

    Raises:
        TalkingheadError: the driver is empty, none, or cannot be read; an argument is unknown.
    """
    check_callbacks(progress)
    check_retarget(retarget)
    driver = read_driver(drive, detector, face, progress)
    track, frames = driver.track, driver.frames
    retargeted = retarget == "on"
    if retarget == "auto" and crop is None:
        retargeted = frames is None or not driver_is_same_person(person, frames, track, engine=engine)
    points = driving_points(person, track, crop, retargeted)
    warn_of_unlike_frames(person, points, track.fps, driver.name)
    return points


def check_retarget(retarget: object) -> None:
    """Check a choice of `retarget`.

    Raises:
        TalkingheadError: it is another value, such as True.
    """
    if isinstance(retarget, bool):
        choice = "on" if retarget else "off"
        raise TalkingheadError(
            f'retarget {retarget}: is a bool; write "{choice}", "auto" decides by the driver'
        )
    if retarget not in RETARGET:
        raise TalkingheadError(f"retarget {retarget!r}: is unknown; choose one of {', '.join(RETARGET)}")


def driving_points(
    person: Person, drive: Track, crop: Crop | None = None, retargeted: bool = True
) -> np.ndarray:
    """Return the points to render in fractions of the person's crop: float32 [N, 78, 2], [N, 68, 2] where the
    driver's irises are unknown or the person's model does not follow them.

    Args:
        person, drive, crop: as for `animate`.
        retargeted: whether to keep the person's own proportions.
    """
    if crop is not None or not retargeted or not len(drive):
        points = align_track(drive, person.neutral_landmarks, crop)
    else:
        points = retarget_track(drive, neutral_face(person.neutral_landmarks[None]))
    return points[:, : person.config.networks.used_points]


@with_default_torch_state
def render(
    person: Person,
    points: np.ndarray,
    precision: str = "auto",
    device: str | torch.device = "auto",
    engine: Engine | None = None,
    fast: bool = False,
) -> Iterator[np.ndarray]:
    """Render frames, `BATCH` at a time.

    Args:
        person: whom to show.
        points: float32 [N, 68 or 78, 2], in fractions of the crop, as `Engine.run` takes them.
        precision, fast: as for `TorchEngine`.
        device: where frames are rendered, as for `animate`.
        engine: renders in place of torch; from `talkinghead.engines.load.open_engine`, which checks that it
            is the person's.

    Yields:
        uint8 [size, size, 3] RGB, size being the person's image size.
    """
    if engine is None:
        target = choose_device(device, fast, placed=person.placed)
        engine = TorchEngine(person, target, precision, BATCH, fast=fast)
    for start in range(0, len(points), BATCH):
        yield from engine.run(points[start : start + BATCH])


@with_default_torch_state
def render_landmarks_uint8(points: np.ndarray, size: int) -> np.ndarray:
    """Return the landmark image that the generator sees, uint8 [size, size, 3], for points
    [68 or 78, 2] in fractions of the crop.
    """
    image = landmark_image(from_numpy(points.astype(np.float32))[None], size)[0]
    return float_to_uint8(image).permute(1, 2, 0).numpy()


def warn_of_unlike_frames(person: Person, points: np.ndarray, fps: float, name: str) -> None:
    """Warn where driving points [N, 68 or 78, 2] are far from anything the person's pictures show, such as
    a head turned further.
    """
    if person.references is None:
        return
    frames = np.flatnonzero(shape_distance(person.references.landmarks, points) > FAR_SHAPE)
    if len(frames):
        at = f" at {frames[0] / fps:.1f} s" if fps else ""
        log.warning(
            "%s: in %s frames, the first%s, the face is turned or opened further than in any picture of the "
            "person and may look bent; learn the person from pictures that show it so",
            name,
            f"{len(frames)} of {len(points)}",
            at,
        )


def driver_is_same_person(
    person: Person, frames: DriverFrames, track: Track, stride: int = 1, engine: Engine | None = None
) -> bool:
    """Return whether a driver is the person: the face at rest has the person's shape, and some of the
    clearest early frames look like `person` rendered in their place.

    Args:
        person: who is to be driven.
        frames: of the driver.
        track: its landmarks, of every `stride`-th frame.
        engine: renders the person; by default torch does.
    """
    name, difference = frames.reader.path.name, shape_difference(person, track)
    measured = f"the shape of the face differs by {difference:.3f}, {MAX_SHAPE_DIFFERENCE:g} is allowed"
    same = difference < MAX_SHAPE_DIFFERENCE
    if same:
        distance = distance_to_driver(person, frames, track, stride, engine=engine)
        measured = f"{measured}; the pictures by {distance:.2f}, {MAX_SAME_PERSON_DISTANCE:g} is allowed"
        same = distance < MAX_SAME_PERSON_DISTANCE
    if same:
        effect = "taken for the person it drives; its own proportions are kept, which retarget on prevents"
    else:
        effect = "taken for another person; the proportions of the person it drives are kept"
    log.info("%s: %s (%s)", name, effect, measured)
    return same


def shape_difference(person: Person, track: Track) -> float:
    """Return how far the driver's face at rest differs from the person's: the root-mean-square distance of
    landmarks seen from the front, as a share of their root-mean-square radius.

    Args:
        person: who is to be driven.
        track: the driver's landmarks.
    """
    faces = [
        neutral_face(person.neutral_landmarks[None]).shape[:, :2],
        neutral_face(track.landmarks, track.confidence).shape[:, :2],
    ]
    driven, driver = (_normalised(face) for face in faces)
    return float(np.sqrt(np.square(driven - driver).sum(axis=1).mean()))


def _normalised(face: np.ndarray) -> np.ndarray:
    """Return landmarks [68, 2] with their centre at 0 and a root-mean-square radius of 1."""
    centre, radius = centre_and_scale(face)
    return (face - centre) / max(float(radius), 1e-9)


def distance_to_driver(
    person: Person, frames: DriverFrames, track: Track, stride: int = 1, engine: Engine | None = None
) -> float:
    """Return the distance, 0 to 2, of the driver's pictures and of `person` rendered in their place.

    Args:
        person, frames, track, stride, engine: as for `driver_is_same_person`.
    """
    chosen = frames.choose(track)
    side = person.config.networks.image_size
    crop = crop_around(track.landmarks[chosen], track.size, person.config.crop)
    network = face_similarity_network()
    points = fit_points(driving_points(person, track[chosen]), person.config.networks.used_points)
    real = np.stack([crop.pixels(frame, side) for frame in frames.at(chosen * stride)])
    rendered = np.stack(list(render(person, points, engine=engine)))
    return person_distance(
        network.embed(rendered, split_points(points)[0] * side),
        network.embed(real, crop.points(track.landmarks[chosen], side)),
    )
