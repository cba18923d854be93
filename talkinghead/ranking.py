"""Choosing who drives: drivers ordered by how much of the person's identity they leave (paper, section 4, "Puppeteering results").

Landmarks carry the shape of the driver's face, so some drivers pull the person away. Each candidate drives the person for some frames, and
a face-recognition network says how like the person's pictures the result is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .animate import RETARGET, driving_points, render, shows
from .checkpoint import Person
from .clip import Track
from .corpus.layouts import find_videos
from .data.read import Progress, read_track, silent
from .data.shots import spread
from .errors import TalkingheadError
from .identity import IdentityNetwork, cosine, describe
from .landmarks.face import DOUBTFUL, Detector
from .media.video import VideoReader
from .torch_state import with_default_torch_state

FRAMES = 16
"""Of each driver, evenly spaced over the frames looked at."""
PICTURE_SIDE = 160
"""Pixels of the person's pictures that drivers are ranked by: what dlib's network looks at."""
_LOOKED_AT = 128


@dataclass(frozen=True)
class Ranked:
    """A candidate.

    Attributes:
        driver: the video.
        similarity: mean cosine between the descriptors of the driven person and of the person's pictures; a frame without a face counts 0.
        distance: mean Euclidean distance of those descriptors, over the frames with a face; None where there is none.
        faces: share of the frames in which a face was found.
        retargeted: whether the person's proportions were kept.
        problem: why it cannot drive; the figures are then None.
    """

    driver: Path
    similarity: float | None = None
    distance: float | None = None
    faces: float | None = None
    retargeted: bool | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "driver": str(self.driver)}


@with_default_torch_state
def rank_drivers(
    person: Person,
    drivers: Sequence[str | Path],
    network: IdentityNetwork,
    detector: Detector,
    pictures: np.ndarray | None = None,
    retarget: str = "auto",
    face: int = 1,
    progress: Progress = silent,
) -> list[Ranked]:
    """The candidates, the one that keeps most of the person's identity first; those that cannot drive last, with the reason.

    Args:
        person: who is driven.
        drivers: videos, and folders of videos.
        network: tells faces apart.
        detector: finds the landmarks.
        pictures: uint8 [N, H, W, 3] of the person; without them, the person at rest as the model shows them.
        retarget: as for `animate_video`.
        face: which of a video's faces.
        progress: shows the advance.

    Raises:
        TalkingheadError: no drivers, an unknown `retarget`, or no face is found in any of the pictures.
    """
    if retarget not in RETARGET:
        raise TalkingheadError(f"retarget {retarget!r}: unknown, one of {', '.join(RETARGET)} was expected")
    if not drivers:
        raise TalkingheadError("rank: no drivers were given, at least one video was expected")
    videos: list[Path] = []
    for path in map(Path, drivers):
        videos += [source.path for source in find_videos([path])] if path.is_dir() else [path]
    of = "the pictures" if pictures is not None else "the person at rest"
    if pictures is None:
        pictures = np.stack(list(render(person, person.reference[None])))
    own = [each for each in describe(network, pictures) if each is not None]
    if not own:
        raise TalkingheadError(f"rank: no face is found in {of}; name clear pictures of the person with --pictures")
    found = [_try(person, driver, own, network, detector, retarget, face) for driver in progress(videos, len(videos), "drivers")]
    return sorted(found, key=lambda each: -2.0 if each.similarity is None else each.similarity, reverse=True)


def _try(
    person: Person, driver: Path, own: Sequence[np.ndarray], network: IdentityNetwork, detector: Detector, retarget: str, face: int
) -> Ranked:
    try:
        reader = VideoReader(driver)
        stride = max(1, (reader.count or 0) // _LOOKED_AT)
        track = read_track(reader, detector, face, stride=stride)
        keep = retarget == "auto" and not shows(person, reader, track, stride)
        points = driving_points(person, track, retarget=keep)[_chosen(track)]
    except TalkingheadError as error:
        return Ranked(driver, problem=str(error))
    made = describe(network, np.stack(list(render(person, points))))
    pairs = [(each, picture) for each in made if each is not None for picture in own]
    similarity = sum(cosine(*pair) for pair in pairs) / (len(made) * len(own))
    distance = float(np.mean([np.linalg.norm(a - b) for a, b in pairs])) if pairs else None
    return Ranked(driver, similarity, distance, float(np.mean([each is not None for each in made])), keep)


def _chosen(track: Track) -> np.ndarray:
    clear = np.flatnonzero(track.confidence >= DOUBTFUL)
    usable = clear if len(clear) else np.flatnonzero(track.seen)
    return usable[spread(len(usable), FRAMES)]


def lines(ranked: Sequence[Ranked]) -> list[str]:
    """A table, best first, and a line for each that cannot drive."""
    width = max(len(each.driver.name) for each in ranked)
    table = [f"{'':4}{'driver':{width}}  similarity  distance  faces  proportions"]
    for number, each in enumerate(ranked, 1):
        if each.problem:
            table.append(f"{'-':4}{each.driver.name:{width}}  {each.problem}")
        else:
            apart = "no face" if each.distance is None else f"{each.distance:.3f}"
            kept = "the person's" if each.retargeted else "the driver's"
            table.append(f"{number:<4}{each.driver.name:{width}}  {each.similarity:10.3f}  {apart:>8}  {each.faces:5.0%}  {kept}")
    return table
