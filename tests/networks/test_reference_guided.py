"""The reference-guided generator: its picture is the stated composition, and what it is shown reaches it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels.convolution import is_packed
from talkinghead_kernels.warp_by_landmarks import GRID

from conftest import face_points, guided_config
from talkinghead.checkpoint import random_model
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import ReferenceGuidedGenerator, ReferenceViews, build_generator, final_generator, pack_, resize_area

SIZE, LAYERS = 64, 32
OWN, WEIGHTS = slice(0, 3), slice(3, 6)


def smooth(count, channels, size, seed, strength=1.0):
    """Smooth random pictures [count, channels, size, size]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=random) * 2 - 1
    return strength * F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True).clamp(-1, 1)


@pytest.fixture(scope="module")
def generator(guided_model):
    return guided_model.generator


@pytest.fixture(scope="module")
def shown(generator):
    """Landmark images, styles and views of three frames."""
    drawn = landmark_image(torch.from_numpy(face_points((0, 0), (0.05, 0.02), (-0.03, 0.04))), LAYERS)
    styles = torch.randn(3, generator.style_length, generator=torch.Generator().manual_seed(1))
    plate = torch.cat([smooth(3, 3, SIZE, 3), smooth(3, 1, SIZE, 5).abs()], 1)
    views = ReferenceViews(smooth(3, 3, SIZE, 2), plate, smooth(3, 2, GRID, 4, 0.05))
    return drawn, styles, views


def run(generator, shown, own_alone=None):
    with torch.no_grad():
        return generator(*shown, own_alone)


def test_generator_kind_follows_the_configuration():
    networks = guided_config().networks
    made = build_generator(networks, projection=False)
    assert type(made) is ReferenceGuidedGenerator and made.projection is None
    assert made.down[0].conv1.weight.shape[1] == 12 and made.out.weight.shape[0] == 6


def test_picture_has_the_references_size(generator, shown):
    picture = run(generator, shown)
    assert picture.shape == (3, 3, SIZE, SIZE) and picture.dtype == torch.float32
    assert picture.abs().max() < 1.2 and picture.std() > 0.1
    assert generator.gather(shown[0], shown[2]).shape == (3, 12, LAYERS, LAYERS)


def test_layers_see_landmarks_references_and_motion(generator, shown):
    drawn, _, views = shown
    inputs = generator.gather(drawn, views)
    assert torch.equal(inputs[:, :3], drawn)
    for channels, view in ((slice(3, 6), views.warped), (slice(6, 10), views.plate)):
        wanted = view.reshape(3, -1, LAYERS, 2, LAYERS, 2).mean((3, 5))
        torch.testing.assert_close(inputs[:, channels], wanted, atol=1e-6, rtol=0)
    wanted = views.motion.reshape(3, 2, LAYERS, 2, LAYERS, 2).mean((3, 5)) * 10  # half the grid: bilinear is the mean of four
    torch.testing.assert_close(inputs[:, 10:], wanted, atol=1e-6, rtol=0)


def test_picture_is_the_composition_of_its_parts(generator, shown):
    """Pixel by pixel from the layers: softmax of the enlarged logits, over references and own picture."""
    drawn, styles, views = shown
    with torch.no_grad():
        layers = generator.run_layers(generator.gather(drawn, views), styles)
    large = F.interpolate(layers, scale_factor=2, mode="bilinear", align_corners=False)
    powers = torch.exp(3.0 * large[:, WEIGHTS].double())
    weights = powers / powers.sum(1, keepdim=True)
    parts = torch.stack([views.warped, views.plate[:, :3], torch.tanh(large[:, OWN])], 1)
    wanted = (weights[:, :, None] * parts).sum(1).float()
    picture, given = generator.compose(layers, views)
    torch.testing.assert_close(picture, wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(given, weights.float(), atol=1e-5, rtol=0)
    assert torch.equal(run(generator, shown), picture)
    # each of the three takes part somewhere
    assert all(weights[:, part].amax() > 0.5 for part in range(3)) and (weights.amin((0, 2, 3)) < 0.3).all()


def test_rows_alone_show_the_own_picture(generator, shown):
    drawn, styles, views = shown
    alone = torch.tensor([True, False, True])
    picture = run(generator, shown, alone)
    with torch.no_grad():
        layers = generator.run_layers(generator.gather(drawn, views), styles)
    own = torch.tanh(F.interpolate(layers[:, OWN], scale_factor=2, mode="bilinear", align_corners=False))
    torch.testing.assert_close(picture[alone], own[alone], atol=1e-6, rtol=0)
    assert torch.equal(picture[1], run(generator, shown)[1])
    assert (picture[1] - own[1]).abs().max() > 0.1


@pytest.mark.parametrize("part, name", [(0, "warped"), (1, "plate")])
def test_one_weight_alone_shows_its_reference(generator, shown, part, name):
    views = shown[2]
    layers = torch.randn(3, 6, LAYERS, LAYERS)
    layers[:, WEIGHTS] = -100
    layers[:, WEIGHTS][:, part] = 100
    picture, weights = generator.compose(layers, views)
    assert (weights[:, part] == 1).all()
    torch.testing.assert_close(picture, getattr(views, name)[:, :3], atol=1e-5, rtol=0)


def test_gradients_reach_own_picture_and_weights(generator, shown):
    for each in (copy.deepcopy(generator), random_model(guided_config()).generator):
        each(*shown).square().sum().backward()
        assert (each.out.weight.grad.flatten(1).norm(dim=1) > 1e-3).all()
        assert each.down[0].conv1.weight.grad.abs().amax((0, 2, 3)).min() > 1e-6  # of each channel of the input


def test_gradients_of_the_composition_are_those_of_differences(generator, shown):
    layers = (0.1 * torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(8))).double().requires_grad_()
    small = ReferenceViews(*(F.interpolate(view[:1].double(), size=(16, 16), mode="area") for view in shown[2]))
    assert torch.autograd.gradcheck(lambda x: generator.compose(x, small)[0], layers, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_final_form_gives_the_same_pictures(generator, shown, packed):
    final = final_generator(generator, LAYERS)
    if packed:
        pack_(final, LAYERS, batch=2)
        assert all(is_packed(layer.weight) for layer in final.layers())
    drawn, styles, views = shown
    with torch.inference_mode():
        made = final(drawn.contiguous(memory_format=torch.channels_last), styles, views)
    torch.testing.assert_close(made, run(generator, shown), atol=1e-4, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_is_close_and_gives_float32(generator, shown, packed):
    final = final_generator(generator, LAYERS, torch.bfloat16)
    if packed:
        pack_(final, LAYERS)
    drawn, styles, views = shown
    with torch.inference_mode():
        made = final(drawn.to(torch.bfloat16, memory_format=torch.channels_last), styles, views)
    wanted = run(generator, shown)
    assert made.dtype == torch.float32
    assert (made - wanted).abs().mean() < 0.01 and (made - wanted).abs().max() < 0.15
    layers = torch.zeros(3, 8, LAYERS, LAYERS)
    layers[:, 4] = 100  # pictures that are shown lose nothing
    assert torch.equal(final.compose(layers, views)[0], views.plate[:, :3])


def test_mixed_precision_keeps_pictures_float32(generator, shown):
    with torch.autocast("cpu", torch.bfloat16):
        made = run(generator, shown)
    assert made.dtype == torch.float32
    assert (made - run(generator, shown)).abs().mean() < 0.01


def test_rows_of_a_batch_are_independent(generator, shown):
    drawn, styles, views = shown
    together = run(generator, shown)
    for row in range(3):
        alone = (drawn[row, None], styles[row, None], ReferenceViews(*(view[row, None] for view in views)))
        torch.testing.assert_close(run(generator, alone)[0], together[row], atol=1e-5, rtol=0)
    other = ReferenceViews(*(torch.cat([view[:2], view[:1]]) for view in views))
    assert torch.equal(run(generator, (drawn, styles, other))[:2], together[:2])


def test_each_view_changes_the_picture(generator, shown):
    drawn, styles, views = shown
    before = run(generator, shown)
    for name in views._fields:
        after = run(generator, (drawn, styles, views._replace(**{name: -getattr(views, name)})))
        assert (after - before).abs().mean() > 0.003, name


def test_area_means_shrink_pictures():
    pictures = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize_area(pictures, 4) is pictures
    assert torch.equal(resize_area(pictures, 2), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
