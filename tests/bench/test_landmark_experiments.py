"""The experiments on landmarks: the fit of the mean face, and the comparison of detectors."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from bench.experiments import landmark_detectors
from bench.experiments.landmark_detectors import errors, faceless_pictures, fit_640_480, jitter
from bench.experiments.landmark_speed import measure
from bench.experiments.mean_face import fit
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.landmark_image import MIRROR_INDEX
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.media.video import VideoReader
from talkinghead.synthetic.face_rig import rotation

RANDOM = np.random.default_rng(0)


def test_mean_face_of_projections_is_the_projected_shape() -> None:
    shape = MEAN_FACE * [1, 1, 0.7] + RANDOM.normal(0, 0.03, (68, 3))
    shape = (shape + shape[list(MIRROR_INDEX)] * [-1, 1, 1]) / 2
    shape -= shape.mean(axis=0)
    shape /= np.sqrt((shape[:, :2] ** 2).sum(axis=1).mean())
    poses = RANDOM.uniform(-1, 1, (400, 3)) * [40, 15, 20]
    poses[:, 1] -= poses[:, 1].mean()
    faces = np.stack([((shape * [1, 1, -1]) @ rotation(pose).T)[:, :2] for pose in poses])
    faces /= np.sqrt((faces**2).sum(axis=2).mean(axis=1))[:, None, None]
    fitted, error = fit(faces, np.ones(400), np.ones(400, bool))
    np.testing.assert_allclose(fitted, shape, atol=0.03)
    assert np.median(error) < 0.01


def test_mean_face_that_ships_is_symmetric_and_of_radius_1() -> None:
    np.testing.assert_allclose(MEAN_FACE, MEAN_FACE[list(MIRROR_INDEX)] * [-1, 1, 1], atol=1e-9)
    assert np.sqrt((MEAN_FACE[:, :2] ** 2).sum(axis=1).mean()) == pytest.approx(1, abs=0.01)


def test_errors_are_percent_of_outer_eye_distance() -> None:
    truth = (MEAN_FACE[:, :2] * 50 + [200, 200]).astype(np.float32)
    size = float(np.linalg.norm(truth[45] - truth[36]))
    moved = truth.copy()
    moved[48:68, 0] += 0.03 * size
    references = [(Face(truth, 1.0), Face(truth, 1.0))] * 2
    result = errors([Face(moved, 1.0), None], references)
    assert result == {
        "eyes": [0, 0],
        "brows": [0, 0],
        "nose": [0, 0],
        "mouth": [3, 3],
        "jaw": [0, 0],
        "frames": 1,
    }


def test_errors_leave_out_turned_heads_and_other_faces() -> None:
    turned = (((MEAN_FACE * [1, 1, -1]) @ rotation(np.array([30.0, 0, 0])).T)[:, :2] * 50).astype(np.float32)
    front = (MEAN_FACE[:, :2] * 50).astype(np.float32)
    references = [(Face(turned, 1.0), Face(turned, 1.0)), (Face(front, 1.0), Face(front + 60, 1.0))]
    assert errors([Face(turned, 1.0), Face(front, 1.0)], references)["frames"] == 0


def test_faceless_parts_keep_away_from_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmark_detectors, "_faceless_samples", list)
    monkeypatch.setattr(landmark_detectors, "FACELESS", 150)
    frame = np.zeros((200, 300, 3), np.uint8)
    points = (MEAN_FACE[:, :2] * 20 + [150, 100]).astype(np.float32)
    low, high = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    frame[low[1] : high[1], low[0] : high[0]] = 255
    pictures = faceless_pictures([frame], [[[Face(points, 1.0)]]])
    assert len(pictures) == 150
    assert max(picture.max() for picture in pictures[100:]) == 0


@dataclass
class NoisyDetector:
    """Detector whose points move by a given noise."""

    sigma: float
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def follow(self, frames: list[np.ndarray], near: np.ndarray) -> list[Face]:
        return [
            Face((near + self.random.normal(0, self.sigma, near.shape)).astype(np.float32), 1.0)
            for _ in frames
        ]


def test_jitter_measures_the_noise_of_points() -> None:
    points = (MEAN_FACE[:, :2] * 50 + [100, 100]).astype(np.float32)
    size = float(np.linalg.norm(points[45] - points[36]))
    frame = np.full((200, 200, 3), 128, np.uint8)
    measured = jitter(NoisyDetector(0.5), [frame], [Face(points, 1.0)])  # type: ignore[arg-type]
    assert measured == pytest.approx(100 * 0.5 * np.sqrt(2) / size, rel=0.1)


def test_speed_measures_every_stage(carphone: Path) -> None:
    frames = [fit_640_480(frame) for frame in itertools.islice(VideoReader(carphone), 3)]
    rows = measure(frames, seconds=0.0)
    assert {name.split(",")[0] for name in rows} == {"find", "follow", "crop", "network"}
    assert all(0 < row["minimum"] <= row["10%"] <= row["median"] for row in rows.values())
