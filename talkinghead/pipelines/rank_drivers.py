"""Ranking of driving videos by how much of the person's identity they preserve (paper, section 4,
"Puppeteering results").

Landmarks carry the shape of the driver's face, so some drivers pull the person away. Each candidate drives
the person for some frames, and a face-recognition network compares the result with the person's pictures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..clip import Track
from ..data.few_shot import evenly_spaced_indices
from ..data.load import read_track
from ..dataset.discover import find_videos
from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE, Detector
from ..landmarks.gaze import points_looking_ahead
from ..media.video import VideoReader
from ..model import Person
from ..pretrained.face_recognition import IdentityNetwork, cosine, embed_faces
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.torch_state import with_default_torch_state
from .animate import check_retarget, driver_is_same_person, driving_points, render
from .driver import DriverFrames

FRAMES = 16
"""Rendered for a driver, evenly spaced over its sampled frames."""
PICTURE_SIDE = 160
"""Pixels of the person's pictures that the result is compared with, as large as dlib's network takes them."""
_SAMPLED_FRAMES = 128


@dataclass(frozen=True)
class DriverScore:
    """Score of a driving video.

    Attributes:
        driver: the video.
        similarity: mean cosine between the descriptors of the driven person and of the person's pictures; a
            frame without a face counts 0.
        distance: mean Euclidean distance of those descriptors, over the frames with a face; None where there
            is none.
        faces: share of the frames in which a face was found.
        retargeted: whether the person's proportions were kept.
        problem: why it cannot drive; the scores are then None.
    """

    driver: Path
    similarity: float | None = None
    distance: float | None = None
    faces: float | None = None
    retargeted: bool | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
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
    progress: Progress = no_progress,
) -> list[DriverScore]:
    """Return the drivers, the one that keeps most of the identity first; those that cannot drive come last,
    with the reason.

    Args:
        person: who is driven.
        drivers: videos, and folders of videos.
        network: tells faces apart.
        detector: finds the landmarks.
        pictures: uint8 [N, H, W, 3] of the person; without them, the person at rest as the model shows them.
        retarget: as for `animate_video`.
        face: number of the driving face; 1 is the largest times longest.
        progress: shows the advance.

    Raises:
        TalkingheadError: no drivers, an unknown `retarget`, or no face is found in any of the pictures.
    """
    check_callbacks(progress)
    check_retarget(retarget)
    if not drivers:
        raise TalkingheadError("rank: no drivers; name at least one video")
    videos: list[Path] = []
    for path in map(Path, drivers):
        videos += [source.path for source in find_videos([path])] if path.is_dir() else [path]
    source = "the pictures" if pictures is not None else "the person at rest"
    if pictures is None:
        points = points_looking_ahead(person.neutral_landmarks, person.config.networks.num_points)
        pictures = np.stack(list(render(person, points[None])))
    embeddings = [embedding for embedding in embed_faces(network, pictures) if embedding is not None]
    if not embeddings:
        raise TalkingheadError(
            f"rank: no face is found in {source}; name clear pictures of the person with --pictures"
        )
    scores = [
        _score_driver(person, driver, embeddings, network, detector=detector, retarget=retarget, face=face)
        for driver in progress(videos, desc="drivers", total=len(videos))
    ]
    return sorted(
        scores, key=lambda score: -2.0 if score.similarity is None else score.similarity, reverse=True
    )


def _score_driver(
    person: Person,
    driver: Path,
    embeddings: Sequence[np.ndarray],
    network: IdentityNetwork,
    *,
    detector: Detector,
    retarget: str,
    face: int,
) -> DriverScore:
    """Return the score of a driver against embeddings of the person's pictures."""
    try:
        reader = VideoReader(driver)
        stride = max(1, (reader.count or 0) // _SAMPLED_FRAMES)
        track = read_track(reader, detector, face, stride=stride)
        retargeted = retarget == "on"
        if retarget == "auto":
            retargeted = not driver_is_same_person(person, DriverFrames(reader), track, stride)
        points = driving_points(person, track, retargeted=retargeted)[_choose_frames(track)]
    except TalkingheadError as error:
        return DriverScore(driver, problem=str(error))
    rendered = embed_faces(network, np.stack(list(render(person, points))))
    recognised = [embedding for embedding in rendered if embedding is not None]
    pairs = [(embedding, reference) for embedding in recognised for reference in embeddings]
    return DriverScore(
        driver,
        similarity=sum(cosine(*pair) for pair in pairs) / (len(rendered) * len(embeddings)),
        distance=float(np.mean([np.linalg.norm(a - b) for a, b in pairs])) if pairs else None,
        faces=float(np.mean([embedding is not None for embedding in rendered])),
        retargeted=retargeted,
    )


def _choose_frames(track: Track) -> np.ndarray:
    """Return numbers of evenly spaced frames that show the face clearly, or else at all."""
    clear = np.flatnonzero(track.confidence >= MIN_CONFIDENCE)
    usable = clear if len(clear) else np.flatnonzero(track.seen)
    return usable[evenly_spaced_indices(len(usable), FRAMES)]


def format_scores(scores: Sequence[DriverScore]) -> list[str]:
    """Return a table, best first, and a line for each video that cannot drive."""
    width = max(len(score.driver.name) for score in scores)
    table = [f"{'':4}{'driver':{width}}  similarity  distance  faces  proportions"]
    for number, score in enumerate(scores, 1):
        if score.problem:
            table.append(f"{'-':4}{score.driver.name:{width}}  {score.problem}")
        else:
            distance = "no face" if score.distance is None else f"{score.distance:.3f}"
            proportions = "the person's" if score.retargeted else "the driver's"
            table.append(
                f"{number:<4}{score.driver.name:{width}}  {score.similarity:10.3f}  {distance:>8}  "
                f"{score.faces:5.0%}  {proportions}"
            )
    return table
