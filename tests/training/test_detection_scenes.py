"""Scenes for the detection network: the labels lie on the faces that the pictures show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_landmark_crops import write_faces

from talkinghead.training import detection_scenes
from talkinghead.training.detection_scenes import MAX_FACES, SceneSource
from talkinghead.training.landmark_crops import FaceSource


@pytest.fixture
def source(tmp_path: Path) -> SceneSource:
    """Scenes of people whose nose tips are green, chins red and left irises blue, on black."""
    return SceneSource(FaceSource([str(write_faces(tmp_path / "data"))]), seed=0)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out light, noise, hands, backgrounds and parts without faces."""
    black = lambda self, size, random: torch.zeros(3, size, size)  # noqa: E731
    monkeypatch.setattr(detection_scenes, "disturb_scene", lambda picture, random: picture)
    monkeypatch.setattr(detection_scenes, "_OCCLUDED_SHARE", 0.0)
    monkeypatch.setattr(SceneSource, "_background", lambda self, random: torch.zeros(3, 160, 160))
    monkeypatch.setattr(SceneSource, "_part_without_face", black)


@pytest.mark.usefixtures("plain")
def test_labels_lie_on_the_faces(source: SceneSource) -> None:
    batch = source.draw(0, 96)
    rows, columns = (np.mgrid[:160, :160] + 0.5) / 160
    checked = 0
    for picture, faces, count in zip(batch.pictures.numpy(), batch.faces.numpy(), batch.count, strict=True):
        if count != 1 or not 0.08 < faces[0, 2] < 0.2 or np.abs(faces[0, :2] - 0.5).max() > 0.25:
            continue
        x, y, radius, roll = faces[0]
        chin, nose = (
            np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
            for light in (np.where(picture[channel] > 0.3, picture[channel], 0) for channel in (0, 1))
        )
        # in the mean face the nose tip lies 0.13 radii above the centre, and the chin 1.45 below it
        down = np.array([-np.sin(roll), np.cos(roll)]) * radius
        np.testing.assert_allclose(nose, [x, y] - 0.13 * down, atol=0.06 * radius)
        np.testing.assert_allclose(chin, [x, y] + 1.45 * down, atol=0.06 * radius)
        checked += 1
    assert checked > 5


@pytest.mark.usefixtures("plain")
def test_scene_without_a_label_shows_no_face(source: SceneSource) -> None:
    batch = source.draw(1, 64)
    empty = batch.count == 0
    assert empty.sum() > 3
    assert batch.pictures[empty].max() < 0.2


def test_counts_and_ranges(source: SceneSource) -> None:
    batch = source.draw(2, 64)
    assert batch.count.max() <= MAX_FACES
    assert batch.count.float().mean() > 0.7
    assert batch.pictures.min() >= 0
    assert batch.pictures.max() <= 1
    for faces, count in zip(batch.faces, batch.count, strict=True):
        assert (faces[:count, 2] > 0.005).all()
        assert (faces[count:] == 0).all()


def test_same_step_draws_same_scenes(source: SceneSource) -> None:
    assert torch.equal(source.draw(3, 4).pictures, source.draw(3, 4).pictures)


@pytest.mark.usefixtures("plain")
def test_some_faces_are_covered(source: SceneSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_scenes, "_OCCLUDED_SHARE", 0.5)
    monkeypatch.setattr(
        detection_scenes, "add_occluder", lambda patch, face, texture, random: torch.ones_like(patch)
    )
    pictures = source.draw(4, 32).pictures
    white = (pictures.amin(dim=1) > 0.99).flatten(1).any(dim=1)
    assert 4 < white.sum() < 32
