"""Irises on their way from a detector through tracks and crops into clips and data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_pictures, draw_video
from talkinghead.data.load import read_clip, read_track
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.shard_reader import read_index
from talkinghead.landmarks.detector import Face, is_valid_face
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.images import write_image
from talkinghead.synthetic.portraits import prepare_portraits

CORNERS = (36, 42)
"""Landmarks at which the detectors of this file see the irises."""
FACES = [(20 + 3 * (number % 10), 30, 60) for number in range(24)]


class SeesIrises:
    """Detector that sees each iris, all of its points, at a corner of its eye."""

    def __init__(self, detector: RedSquare) -> None:
        self.detector, self.name = detector, detector.name

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [list(map(self._add, faces)) for faces in self.detector.find(frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        return [self._add(face) for face in self.detector.follow(frames, near)]

    @staticmethod
    def _add(face: Face) -> Face:
        assert is_valid_face(face)
        return replace(face, irises=np.repeat(face.landmarks[list(CORNERS), None], 5, axis=1))


def check(irises: np.ndarray | None, landmarks: np.ndarray, within: float = 1e-3) -> None:
    """Check that all points of the irises lie at the corners of the eyes."""
    assert irises is not None
    assert irises.shape == (len(landmarks), 2, 5, 2)
    corners = landmarks[:, list(CORNERS), None]
    assert np.abs(irises - corners).max() < within
    assert np.ptp(landmarks[:, 36, 0]) > 0  # the face moves


def test_track_and_clip_have_irises_of_the_detector(tmp_path: Path) -> None:
    gap = [*FACES[:10], None, *FACES[11:]]
    video = draw_video(tmp_path / "a.mp4", gap)
    detector = SeesIrises(RedSquare())
    track = read_track(video, detector)
    check(track.irises, track.landmarks)
    clip = read_clip(video, 64, detector)
    check(clip.track.irises, clip.track.landmarks)
    pictures = read_clip(draw_pictures(tmp_path / "pictures", FACES[:3]), 64, detector)
    assert pictures.track.irises is not None
    assert read_clip(video, 64, RedSquare()).track.irises is None  # type: ignore[arg-type]


def test_data_set_of_videos_has_irises_of_the_detector(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    for name, detector in (("with", SeesIrises(RedSquare())), ("without", RedSquare())):
        prepare([video], tmp_path / name, 64, detector, workers=1)
    (clip,) = read_index(tmp_path / "with")
    check(clip.irises, clip.landmarks)
    assert read_index(tmp_path / "without")[0].irises is None


def test_data_set_of_portraits_moves_irises_with_the_head(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    write_image(tmp_path / "pictures" / "a.png", data.astronaut())
    detector = SeesIrises(open_detector("network"))  # type: ignore[arg-type]
    prepare_portraits(
        tmp_path / "pictures", tmp_path / "out", 64, frames_each=4, workers=1, detector=detector
    )
    (clip,) = read_index(tmp_path / "out")
    check(clip.irises, clip.landmarks, within=1.5)  # lids move the corners of the eyes a little
