"""What networks see of a person's pictures, and what guides the generator to each of them: never the picture itself."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import face_clip, face_points
from talkinghead.checkpoint import random_model
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks.references import background_plates
from talkinghead.training import pictures as module
from talkinghead.training.pictures import Pictures, guide_pictures, inputs, stored_references

SIZE = 64


@pytest.fixture(scope="module")
def config(guided_model):
    return guided_model.config.finetune


def pictures_of(images, points, valid=None):
    return Pictures(images, F.avg_pool2d(images, 2), landmark_image(points, SIZE // 2), points, valid)


@pytest.fixture(scope="module")
def coloured():
    """Three pictures, red, green and blue all over."""
    images = -torch.ones(3, 3, SIZE, SIZE)
    for number in range(3):
        images[number, number] = 1
    return pictures_of(images, torch.from_numpy(face_points((0, 0), (0.05, 0), (0, 0.05))))


@pytest.fixture(scope="module")
def drawn(guided_model, guided_clip):
    return inputs(guided_model, guided_clip)


class Chance:
    """In the place of numpy's generator: the first choice of each row as told, everything else by a real one."""

    def __init__(self, choice):
        self._choice, self._random = choice, np.random.default_rng(0)

    def random(self, *shape):
        return self._random.random(*shape) if shape else self._choice

    def __getattr__(self, name):
        return getattr(self._random, name)


OTHERS, OWN = Chance(0.69), Chance(0.71)


def test_inputs_have_the_sizes_of_the_networks(guided_model, guided_clip, drawn):
    assert drawn.images.shape == (4, 3, 64, 64) and drawn.small.shape == drawn.drawn.shape == (4, 3, 32, 32)
    torch.testing.assert_close(drawn.small, F.avg_pool2d(drawn.images, 2))
    frames = torch.from_numpy(guided_clip.frames).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(drawn.images, frames)
    assert torch.equal(drawn.points, torch.from_numpy(guided_clip.track.landmarks / 64)) and drawn.valid is None
    assert torch.equal(drawn.drawn, landmark_image(drawn.points, 32))


def test_inputs_of_a_plain_model_have_one_size(guided_clip):
    plain = inputs(random_model("tiny"), guided_clip[:1])
    assert plain.small is plain.images and plain.drawn.shape == (1, 3, 64, 64)


def test_inputs_of_other_sizes_are_resized(guided_model, drawn):
    large = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0), (0.02, -0.06)), 128)
    made = inputs(guided_model, large)
    assert made.images.shape == (4, 3, 64, 64) and (made.images - drawn.images).abs().mean() < 0.01
    torch.testing.assert_close(made.points, drawn.points)


def test_pixels_beyond_the_source_are_carried(guided_model, guided_clip):
    valid = np.ones((4, SIZE, SIZE), dtype=bool)
    assert inputs(guided_model, dataclasses.replace(guided_clip, valid=valid)).valid is None  # there are none
    valid[2, :, :20] = False
    made = inputs(guided_model, dataclasses.replace(guided_clip, valid=valid))
    assert torch.equal(made.valid, torch.from_numpy(valid)[:, None].float())
    guide = guide_pictures(made, [2, 0], guided_model.config.finetune, np.random.default_rng(0))
    assert torch.equal(guide.valid, made.valid[[2, 0]])
    twice = inputs(guided_model, dataclasses.replace(face_clip(made.points.numpy(), 128), valid=valid.repeat(2, 1).repeat(2, 2)))
    assert twice.valid.shape == (4, 1, 64, 64) and (twice.valid - made.valid)[..., (*range(18), *range(22, 64))].abs().max() == 0


def test_frames_that_are_not_square_are_named(guided_model, guided_clip):
    wide = dataclasses.replace(
        guided_clip, frames=guided_clip.frames[:, :60], track=dataclasses.replace(guided_clip.track, size=(60, 64)), name="wide.png"
    )
    with pytest.raises(TalkingheadError, match="wide.png: frames of 60x64 are not square"):
        inputs(guided_model, wide)
    with pytest.raises(TalkingheadError, match="no picture"):
        inputs(guided_model, guided_clip[:0])


def test_others_show_no_colour_of_the_target(coloured, config):
    guide = guide_pictures(coloured, [0, 1, 2, 1], config, OTHERS)
    for row, number in enumerate([0, 1, 2, 1]):
        for view in (guide.views.warped, guide.views.plate[:, :3]):
            torch.testing.assert_close(view[row, number], torch.full((SIZE, SIZE), -1.0), atol=1e-5, rtol=0)
            torch.testing.assert_close(view[row].sum(0), torch.full((SIZE, SIZE), -1.0), atol=1e-4, rtol=0)  # one colour or a mixture
    assert guide.views.motion.abs().amax((1, 2, 3)).min() > 0.01
    assert guide.valid is None


def test_moved_head_shows_the_target_elsewhere(drawn, config, monkeypatch):
    """The picture itself, bent: its landmarks are moved, and the views bring them back."""
    seen = []
    real = module.view_references

    def look(*arguments):
        seen.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "view_references", look)
    guide = guide_pictures(drawn, [1, 2], config, OWN)
    for row, (number, (shown, points, target, plates)) in enumerate(zip([1, 2], seen, strict=True)):
        assert torch.equal(target[0], drawn.points[number]) and torch.equal(plates, background_plates(shown, points, drawn.one_scene))
        distance = (points[0] - drawn.points[number]).norm(dim=1)
        assert 0.005 < distance.max() < 0.2
        assert (shown[0] - drawn.images[number]).abs().max() > 0.3
        back = (guide.views.warped[row] - drawn.images[number]).abs().mean()
        assert 0 < back < 0.5 * (shown[0] - drawn.images[number]).abs().mean()


def test_one_picture_is_shown_with_its_head_moved(drawn, config):
    one = pictures_of(drawn.images[:1], drawn.points[:1])
    for chance in (OTHERS, OWN):
        guide = guide_pictures(one, [0, 0, 0], config, chance)
        assert guide.views.motion.abs().amax((1, 2, 3)).min() > 0.003
        assert (guide.views.plate[:, :3] - one.images).abs().amax((1, 2, 3)).min() > 0.1
        assert guide.views.plate[:, 3].amin((1, 2)).max() < 0.2  # what is behind its head nobody saw
        assert (guide.views.motion[0] - guide.views.motion[1]).abs().max() > 0.005  # each row in its own way


def test_heads_keep_their_shape_when_moved(drawn):
    """Turned, scaled and shifted, no more: about as far as told, and to all sides."""
    random, points = np.random.default_rng(1), drawn.points[:1]
    shifts = []
    for _ in range(100):
        moved = module._move_head(points, 0.03, random)
        ratio = torch.pdist(moved[0]) / torch.pdist(points[0])
        assert ratio.std() < 1e-4 and abs(ratio.mean() - 1) <= 0.0301
        shifts.append((moved.mean(1) - points.mean(1))[0])
    shifts = torch.stack(shifts)
    assert shifts.abs().max() <= 0.0601 and shifts.mean(0).abs().max() < 0.015 and shifts.std(0).min() > 0.02


def test_seven_in_ten_are_shown_by_others(drawn, config, monkeypatch):
    counts = []
    monkeypatch.setattr(module, "view_references", lambda shown, *_: counts.append(len(shown)) or [torch.zeros(1)] * 3)
    monkeypatch.setattr(module, "background_plates", lambda *_: None)
    monkeypatch.setattr(module, "warp_by_landmarks", lambda image, *_: image)
    guide_pictures(drawn, [0, 1, 2, 3] * 100, config, np.random.default_rng(0))
    assert set(counts) == {1, 3} and 250 < counts.count(3) < 310


def test_plates_are_made_of_what_is_shown(drawn, config):
    guide = guide_pictures(drawn, [3], config, OTHERS)
    shown, points = drawn.images[:3], drawn.points[:3]
    expected = module.view_references(shown, points, drawn.points[3:], background_plates(shown, points, drawn.one_scene))
    torch.testing.assert_close(guide.views.plate, expected.plate)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_own_picture_stands_alone_as_often_as_told(coloured, config, share):
    one = pictures_of(coloured.images[:1, :, :8, :8], coloured.points[:1])
    guide = guide_pictures(one, [0] * 200, dataclasses.replace(config, own_picture=share), np.random.default_rng(0))
    assert guide.own_alone.dtype == torch.bool and guide.own_alone.shape == (200,)
    assert abs(float(guide.own_alone.float().mean()) - share) < (0.1 if 0 < share < 1 else 1e-9)
    assert guide.boxes.shape == (200, 3) and guide.boxes.std(0).min() > 0.01


def test_same_seed_guides_the_same(drawn, config):
    first, again, other = (guide_pictures(drawn, [0, 2], config, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first.views, again.views, strict=True)) and torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.boxes, other.boxes)


def test_stored_references_are_the_pictures(drawn, guided_clip):
    references = stored_references(drawn)
    assert references.pictures.shape == (4, 64, 64, 3) and len(references.jpegs) == 4
    difference = np.abs(references.pictures.astype(int) - guided_clip.frames)
    assert difference.mean() < 2
    assert np.array_equal(references.landmarks, drawn.points.numpy())
    beyond = pictures_of(torch.full((1, 3, SIZE, SIZE), 1.3), drawn.points[:1])
    assert stored_references(beyond).pictures.min() > 250  # and not turned over
