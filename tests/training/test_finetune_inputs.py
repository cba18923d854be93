"""Inputs of fine-tuning: a person's images as tensors, and guidance that never includes the target itself."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import face_clip, face_points
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.networks.references import background_plates
from talkinghead.training import finetune_inputs
from talkinghead.training.finetune_inputs import (
    PersonImages,
    make_references,
    prepare_images,
    sample_guidance,
)

SIZE = 64


@pytest.fixture(scope="module")
def config(guided_model):
    return guided_model.config.finetune


def person_images_from(images, points, valid=None):
    return PersonImages(images, F.avg_pool2d(images, 2), landmark_image(points, SIZE // 2), points, valid)


@pytest.fixture(scope="module")
def coloured():
    """Return three images, red, green and blue."""
    images = -torch.ones(3, 3, SIZE, SIZE)
    for number in range(3):
        images[number, number] = 1
    return person_images_from(images, torch.from_numpy(face_points((0, 0), (0.05, 0), (0, 0.05))))


@pytest.fixture(scope="module")
def person_images(guided_model, guided_clip):
    return prepare_images(guided_model, guided_clip)


class FixedChoice:
    """A random generator whose choice between other images and the target is fixed."""

    def __init__(self, choice):
        self._choice, self._random = choice, np.random.default_rng(0)

    def random(self, *shape):
        return self._random.random(*shape) if shape else self._choice

    def __getattr__(self, name):
        return getattr(self._random, name)


OTHERS, OWN = FixedChoice(0.69), FixedChoice(0.71)


def test_prepare_images_returns_sizes_of_networks(guided_model, guided_clip, person_images):
    assert person_images.images.shape == (
        4,
        3,
        64,
        64,
    ) and person_images.small_images.shape == person_images.landmark_images.shape == (4, 3, 32, 32)
    torch.testing.assert_close(person_images.small_images, F.avg_pool2d(person_images.images, 2))
    frames = torch.from_numpy(guided_clip.frames).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(person_images.images, frames)
    assert (
        torch.equal(person_images.points, torch.from_numpy(guided_clip.track.landmarks / 64))
        and person_images.valid is None
    )
    assert torch.equal(person_images.landmark_images, landmark_image(person_images.points, 32))


def test_prepare_images_of_plain_model_has_one_size(guided_clip):
    plain = prepare_images(random_model("tiny"), guided_clip[:1])
    assert plain.small_images is plain.images and plain.images.shape == (1, 3, 64, 64)


def test_prepare_images_resizes_other_sizes(guided_model, person_images):
    large = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0), (0.02, -0.06)), 128)
    prepared = prepare_images(guided_model, large)
    assert (
        prepared.images.shape == (4, 3, 64, 64)
        and (prepared.images - person_images.images).abs().mean() < 0.01
    )
    torch.testing.assert_close(prepared.points, person_images.points)


def test_prepare_images_keeps_valid_mask(guided_model, guided_clip):
    valid = np.ones((4, SIZE, SIZE), dtype=bool)
    assert (
        prepare_images(guided_model, dataclasses.replace(guided_clip, valid=valid)).valid is None
    )  # there are none
    valid[2, :, :20] = False
    prepared = prepare_images(guided_model, dataclasses.replace(guided_clip, valid=valid))
    assert torch.equal(prepared.valid, torch.from_numpy(valid)[:, None].float())
    guidance = sample_guidance(prepared, [2, 0], guided_model.config.finetune, np.random.default_rng(0))
    assert torch.equal(guidance.valid, prepared.valid[[2, 0]])
    twice = prepare_images(
        guided_model,
        dataclasses.replace(face_clip(prepared.points.numpy(), 128), valid=valid.repeat(2, 1).repeat(2, 2)),
    )
    assert (
        twice.valid.shape == (4, 1, 64, 64)
        and (twice.valid - prepared.valid)[..., (*range(18), *range(22, 64))].abs().max() == 0
    )


def test_prepare_images_rejects_frames_not_square(guided_model, guided_clip):
    wide = dataclasses.replace(
        guided_clip,
        frames=guided_clip.frames[:, :60],
        track=dataclasses.replace(guided_clip.track, size=(60, 64)),
        name="wide.png",
    )
    with pytest.raises(TalkingheadError, match="wide.png: frames of 60x64 are not square"):
        prepare_images(guided_model, wide)
    with pytest.raises(TalkingheadError, match="no picture"):
        prepare_images(guided_model, guided_clip[:0])


def test_guidance_by_others_excludes_target(coloured, config):
    guidance = sample_guidance(coloured, [0, 1, 2, 1], config, OTHERS)
    for row, number in enumerate([0, 1, 2, 1]):
        for view in (guidance.views.warped, guidance.views.plate[:, :3]):
            torch.testing.assert_close(view[row, number], torch.full((SIZE, SIZE), -1.0), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                view[row].sum(0), torch.full((SIZE, SIZE), -1.0), atol=1e-4, rtol=0
            )  # one colour or a mixture
    assert guidance.views.motion.abs().amax((1, 2, 3)).min() > 0.01
    assert guidance.valid is None


def test_guidance_with_moved_head_warps_target(person_images, config, monkeypatch):
    """Check that the target's landmarks are moved and the views warp it back."""
    seen = []
    real = finetune_inputs.view_references

    def record(*arguments):
        seen.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(finetune_inputs, "view_references", record)
    guidance = sample_guidance(person_images, [1, 2], config, OWN)
    for row, (number, (references, points, target, plates)) in enumerate(zip([1, 2], seen, strict=True)):
        assert torch.equal(target[0], person_images.points[number]) and torch.equal(
            plates, background_plates(references, points, person_images.one_scene)
        )
        distance = (points[0] - person_images.points[number]).norm(dim=1)
        assert 0.005 < distance.max() < 0.2
        assert (references[0] - person_images.images[number]).abs().max() > 0.3
        back = (guidance.views.warped[row] - person_images.images[number]).abs().mean()
        assert 0 < back < 0.5 * (references[0] - person_images.images[number]).abs().mean()


def test_guidance_of_one_image_moves_head(person_images, config):
    single_image = person_images_from(person_images.images[:1], person_images.points[:1])
    for chance in (OTHERS, OWN):
        guidance = sample_guidance(single_image, [0, 0, 0], config, chance)
        assert guidance.views.motion.abs().amax((1, 2, 3)).min() > 0.003
        assert (guidance.views.plate[:, :3] - single_image.images).abs().amax((1, 2, 3)).min() > 0.1
        assert guidance.views.plate[:, 3].amin((1, 2)).max() < 0.2  # what is behind its head nobody saw
        assert (
            guidance.views.motion[0] - guidance.views.motion[1]
        ).abs().max() > 0.005  # each row in its own way


def test_move_head_keeps_shape(person_images):
    """Check that heads are rotated, scaled and shifted by about the amount, in all directions."""
    random, points = np.random.default_rng(1), person_images.points[:1]
    shifts = []
    for _ in range(100):
        moved = finetune_inputs._move_head(points, 0.03, random)
        ratio = torch.pdist(moved[0]) / torch.pdist(points[0])
        assert ratio.std() < 1e-4 and abs(ratio.mean() - 1) <= 0.0301
        shifts.append((moved.mean(1) - points.mean(1))[0])
    shifts = torch.stack(shifts)
    assert shifts.abs().max() <= 0.0601 and shifts.mean(0).abs().max() < 0.015 and shifts.std(0).min() > 0.02


def test_guidance_uses_others_for_seven_in_ten(person_images, config, monkeypatch):
    counts = []
    monkeypatch.setattr(
        finetune_inputs,
        "view_references",
        lambda references, *_: counts.append(len(references)) or [torch.zeros(1)] * 3,
    )
    monkeypatch.setattr(finetune_inputs, "background_plates", lambda *_: None)
    monkeypatch.setattr(finetune_inputs, "warp_by_landmarks", lambda image, *_: image)
    sample_guidance(person_images, [0, 1, 2, 3] * 100, config, np.random.default_rng(0))
    assert set(counts) == {1, 3} and 250 < counts.count(3) < 310


def test_guidance_plates_use_chosen_references(person_images, config):
    guidance = sample_guidance(person_images, [3], config, OTHERS)
    references, points = person_images.images[:3], person_images.points[:3]
    expected = finetune_inputs.view_references(
        references,
        points,
        person_images.points[3:],
        background_plates(references, points, person_images.one_scene),
    )
    torch.testing.assert_close(guidance.views.plate, expected.plate)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_guidance_own_image_only_has_configured_share(coloured, config, share):
    single_image = person_images_from(coloured.images[:1, :, :8, :8], coloured.points[:1])
    guidance = sample_guidance(
        single_image, [0] * 200, dataclasses.replace(config, own_picture=share), np.random.default_rng(0)
    )
    assert guidance.own_image_only.dtype == torch.bool and guidance.own_image_only.shape == (200,)
    assert abs(float(guidance.own_image_only.float().mean()) - share) < (0.1 if 0 < share < 1 else 1e-9)
    assert guidance.boxes.shape == (200, 3) and guidance.boxes.std(0).min() > 0.01


def test_guidance_with_equal_seed_is_equal(person_images, config):
    first, repeated, other = (
        sample_guidance(person_images, [0, 2], config, np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.views, repeated.views, strict=True)) and torch.equal(
        first.boxes, repeated.boxes
    )
    assert not torch.equal(first.boxes, other.boxes)


def test_make_references_returns_images(person_images, guided_clip):
    references = make_references(person_images)
    assert references.images.shape == (4, 64, 64, 3) and len(references.jpegs) == 4
    difference = np.abs(references.images.astype(int) - guided_clip.frames)
    assert difference.mean() < 2
    assert np.array_equal(references.landmarks, person_images.points.numpy())
    beyond = person_images_from(torch.full((1, 3, SIZE, SIZE), 1.3), person_images.points[:1])
    assert make_references(beyond).images.min() > 250  # and not turned over
