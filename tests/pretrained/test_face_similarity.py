"""Comparison of the people in pictures without a face recogniser of others."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import face_clip, face_points
from talkinghead.clip import Clip, Track
from talkinghead.data.load import read_clip
from talkinghead.pretrained import face_similarity
from talkinghead.pretrained.face_similarity import (
    MIN_DIFFERENT_PEOPLE_DISTANCE,
    face_similarity_network,
    looks_like_two_people,
    person_distance,
    warn_if_two_people,
)


@pytest.fixture(scope="module")
def astronaut() -> Clip:
    """Return the astronaut's face."""
    data = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    return read_clip(data.astronaut(), 128, "network")


@pytest.fixture(scope="module")
def driver(carphone: Path) -> Clip:
    """Return every 15th frame of a clip of a man in a car."""
    clip = read_clip(carphone, 128, "network", limit=100)
    return Clip(clip.track[::15], clip.frames[::15], clip.name)


def joined(*clips: Clip) -> Clip:
    """Return the frames of clips of one size as those of one."""
    landmarks = np.concatenate([clip.track.landmarks for clip in clips])
    return Clip(Track(landmarks, (128, 128)), np.concatenate([clip.frames for clip in clips]), "both")


def embed(clip: Clip) -> np.ndarray:
    return face_similarity_network().embed(clip.frames, clip.track.landmarks)


def test_distance_separates_people(driver: Clip, astronaut: Clip) -> None:
    man, woman = embed(driver), embed(astronaut)
    np.testing.assert_allclose(np.linalg.norm(man, axis=1), 1, atol=1e-5)
    assert person_distance(man[::2], man[1::2]) < 0.15
    assert person_distance(man, woman) > MIN_DIFFERENT_PEOPLE_DISTANCE
    assert person_distance(man, man) == pytest.approx(0, abs=1e-6)


def test_distance_ignores_background(driver: Clip) -> None:
    frames = driver.frames.copy()
    for frame, points in zip(frames, driver.track.landmarks, strict=True):
        low, high = points.min(axis=0), points.max(axis=0)
        top = int(max(low[1] - 0.9 * (high[1] - low[1]), 0))
        left, right = int(low[0] - 0.15 * np.ptp(points[:, 0])), int(high[0] + 0.15 * np.ptp(points[:, 0]))
        inside = np.zeros(frame.shape[:2], bool)
        inside[top:, max(left, 0) : right] = True
        frame[~inside] = (0, 255, 0)
    assert (frames != driver.frames).mean() > 0.1
    other = Clip(driver.track, frames, "green")
    assert person_distance(embed(driver), embed(other)) < 0.22


def test_network_leaves_random_state_alone() -> None:
    face_similarity_network.cache_clear()
    state = torch.get_rng_state()
    face_similarity_network()
    assert torch.equal(torch.get_rng_state(), state)


def test_two_people_in_pictures_warn(driver: Clip, astronaut: Clip, caplog: pytest.LogCaptureFixture) -> None:
    both = joined(driver, astronaut)
    people = looks_like_two_people(both)
    count = len(driver.frames)
    assert people is not None and people[:2] == (list(range(1, count + 1)), [count + 1])
    assert people.distance >= MIN_DIFFERENT_PEOPLE_DISTANCE
    with caplog.at_level(logging.WARNING, "talkinghead"):
        warn_if_two_people(driver)
        warn_if_two_people(astronaut)
        assert not caplog.records
        warn_if_two_people(both)
    assert f"both: picture 1, 2, 3, 4, 5, 6, 7 and picture {count + 1} look like different" in caplog.text


def test_chain_of_similar_pictures_is_one_person(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.array([0, 60, 120, 180]) * np.pi / 180  # neighbours are near, the ends are not

    class Chain:
        def embed(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
            return np.column_stack([np.cos(angles), np.sin(angles)])[: len(frames)]

    monkeypatch.setattr(face_similarity, "face_similarity_network", Chain)
    clip = face_clip(face_points(*[(0, 0)] * 4), 32)
    assert looks_like_two_people(clip) is None
    angles[2:] += np.pi / 2
    people = looks_like_two_people(clip)
    assert people is not None
    assert (people.largest_group, people.others) == ([1, 2], [3, 4])
