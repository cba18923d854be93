"""Augmented crops for the landmark network: the labels stay where the pictures show them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from talkinghead.data.crop import Crop
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.training import landmark_crops, landmark_disturbances
from talkinghead.training.landmark_crops import FaceSource
from talkinghead.training.landmark_disturbances import disturb

SIDE = 256
FACE = (MEAN_FACE[:, :2] * 48 + [128, 140]).astype(np.float32)
IRISES = np.stack([FACE[36:42].mean(axis=0), FACE[42:48].mean(axis=0)])[:, None] + np.array(
    [[0, 0], [5, 0], [0, -5], [-5, 0], [0, 5]], np.float32
)


def marked_frame() -> np.ndarray:
    """Return a dark frame with discs: red on the chin, green on the nose, blue on the left iris."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, (x, y) in enumerate((FACE[8], FACE[30], IRISES[0, 0])):
        frame[..., channel] = 255 * np.clip(5 - np.hypot(columns - x, rows - y), 0, 1)
    return frame


def write_faces(folder: Path, people: tuple[str, ...] = ("anna", "bob"), irises: bool = True) -> Path:
    """Write shards of people whose frames are marked."""
    with ShardWriter(folder) as writer:
        for person in people:
            info = ClipInfo(
                name=f"{person}.mp4",
                sha256=hashlib.sha256(person.encode()).hexdigest(),
                person=person,
                fps=25.0,
                frame_size=(SIDE, SIDE),
                crop=Crop(0, 0, SIDE),
                frames=(0, 1),
                size=SIDE,
                detector="mesh",
            )
            points = np.stack([FACE, FACE])
            eyes = np.stack([IRISES, IRISES]) if irises else None
            writer.write(info, points, [marked_frame(), marked_frame()], irises=eyes)
    return folder


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures as they are cut."""
    monkeypatch.setattr(landmark_crops, "disturb", lambda pictures, points, random: pictures)


@pytest.mark.usefixtures("undisturbed")
def test_labels_stay_on_what_they_mark(tmp_path: Path) -> None:
    batch = FaceSource([str(write_faces(tmp_path / "data"))]).draw(0, 64)
    rows, columns = (np.mgrid[:128, :128] + 0.5) / 128
    checked = mirrored = 0
    for picture, points, known, presence in zip(
        batch.pictures.numpy(), batch.points.numpy(), batch.known, batch.presence, strict=True
    ):
        if not presence:
            assert known.sum() == 0
            continue
        assert known.sum() == 78
        (x, y), (u, v) = points[8] - points[27], points[36] - points[27]
        assert x * v - y * u > 0  # the labels are in the order of an unmirrored face
        for channel, labels in enumerate(([8], [30], [68, 73])):
            light = np.where(picture[channel] > 0.3, picture[channel], 0)
            if light.sum() < 20 or np.abs(points[labels] - 0.5).max() > 0.38:
                continue  # in part beyond the crop
            centre = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
            distances = np.linalg.norm(points[labels] - centre, axis=1)
            assert distances.min() < 0.01
            checked += 1
            mirrored += int(distances.argmin())
    assert checked > 90
    assert 10 < mirrored < 50  # about half of the crops


@pytest.mark.usefixtures("undisturbed")
def test_edges_of_irises_keep_their_sides(tmp_path: Path) -> None:
    batch = FaceSource([str(write_faces(tmp_path / "data"))]).draw(1, 32)
    irises = batch.points[batch.presence > 0][:, 68:].reshape(-1, 2, 5, 2)
    across = batch.points[batch.presence > 0][:, [45]] - batch.points[batch.presence > 0][:, [36]]
    right = irises[:, :, 1] - irises[:, :, 0]
    assert ((right * across).sum(dim=-1) > 0).all()
    left = irises[:, :, 3] - irises[:, :, 0]
    assert ((left * across).sum(dim=-1) < 0).all()


def test_same_step_draws_same_batch(tmp_path: Path) -> None:
    folder = str(write_faces(tmp_path / "data"))
    first, second = FaceSource([folder], seed=3).draw(5, 8), FaceSource([folder], seed=3).draw(5, 8)
    assert torch.equal(first.pictures, second.pictures)
    assert torch.equal(first.points, second.points)
    assert not torch.equal(first.pictures, FaceSource([folder], seed=4).draw(5, 8).pictures)


def test_unknown_irises_are_not_learned(tmp_path: Path) -> None:
    batch = FaceSource([str(write_faces(tmp_path / "data", irises=False))]).draw(0, 16)
    assert batch.known[:, 68:].sum() == 0
    assert batch.known[:, :68].sum() > 0


def test_excluded_people_are_not_drawn(tmp_path: Path) -> None:
    folder = str(write_faces(tmp_path / "data"))
    assert {clip.person for clip in FaceSource([folder], ["anna"]).clips} == {"bob"}
    with pytest.raises(TalkingheadError, match="nobody is left to learn from; exclude fewer"):
        FaceSource([folder], ["anna", "bob"])


def test_disturbances_keep_range_and_most_of_the_picture() -> None:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:128, :128] / 128
    shade = 0.5 + 0.3 * np.sin(6 * rows) * np.cos(5 * columns)
    picture = torch.from_numpy(np.repeat(shade[None], 3, axis=0).astype(np.float32))
    points = torch.from_numpy(((MEAN_FACE[:, :2] / 3.8) + 0.5).astype(np.float32))
    points = torch.cat([points, points[:10]])
    disturbed = disturb(picture.expand(64, -1, -1, -1), points.expand(64, -1, -1), random)
    assert disturbed.shape == (64, 3, 128, 128)
    assert disturbed.min() >= 0
    assert disturbed.max() <= 1
    centred = disturbed.mean(dim=1).flatten(1)
    centred = centred - centred.mean(dim=1, keepdim=True)
    truth = picture.mean(dim=0).flatten() - picture.mean()
    likeness = (centred @ truth) / centred.norm(dim=1) / truth.norm()
    assert likeness.median() > 0.6  # still the same picture
    assert likeness.min() < 0.95  # and disturbed


def test_some_crops_end_at_a_border_of_the_frame() -> None:
    picture = torch.full((200, 3, 128, 128), 0.7)
    points = torch.from_numpy(((MEAN_FACE[:, :2] / 3.8) + 0.5).astype(np.float32))
    points = torch.cat([points, points[:10]]).expand(200, -1, -1)
    with pytest.MonkeyPatch.context() as patch:  # what else could darken a border, or hide that it is black
        for name in ("_change_light", "_lower_resolution"):
            patch.setattr(landmark_disturbances, name, lambda picture, random: picture)
        disturbed = disturb(picture, points, np.random.default_rng(0)).mean(dim=1)
    borders = torch.stack(
        [disturbed[:, :12].mean((1, 2)), disturbed[:, -12:].mean((1, 2))]
        + [disturbed[:, :, :12].mean((1, 2)), disturbed[:, :, -12:].mean((1, 2))]
    )
    assert 10 < (borders.amin(dim=0) < 0.1).sum() < 45
