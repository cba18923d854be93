"""Tests of the reference-guided generator: the composition of its output, and the inputs of its layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels.packed_conv import is_packed
from talkinghead_kernels.warp_by_landmarks import GRID

from conftest import face_points, guided_config
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.networks import (
    ReferenceGuidedGenerator,
    ReferenceViews,
    build_generator,
    pack_weights_,
    prepare_for_inference,
    resize_area,
)

SIZE, LAYERS = 64, 32
OWN, WEIGHTS = slice(0, 3), slice(3, 6)


def smooth(count, channels, size, seed, strength=1.0):
    """Return smooth random images [count, channels, size, size]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=random) * 2 - 1
    return strength * F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True).clamp(
        -1, 1
    )


@pytest.fixture(scope="module")
def generator(guided_model):
    return guided_model.generator


@pytest.fixture(scope="module")
def inputs(generator):
    """Return landmark images, styles and views of three frames."""
    landmark_images = landmark_image(
        torch.from_numpy(face_points((0, 0), (0.05, 0.02), (-0.03, 0.04))), LAYERS
    )
    styles = torch.randn(3, generator.style_length, generator=torch.Generator().manual_seed(1))
    plate = torch.cat([smooth(3, 3, SIZE, 3), smooth(3, 1, SIZE, 5).abs()], 1)
    views = ReferenceViews(smooth(3, 3, SIZE, 2), plate, smooth(3, 2, GRID, 4, 0.05))
    return landmark_images, styles, views


def run(generator, inputs, own_image_only=None):
    with torch.no_grad():
        return generator(*inputs, own_image_only)


def test_generator_kind_follows_the_configuration():
    networks = guided_config().networks
    generator = build_generator(networks, projection=False)
    assert type(generator) is ReferenceGuidedGenerator and generator.projection is None
    assert generator.down[0].conv1.weight.shape[1] == 12 and generator.out.weight.shape[0] == 6


def test_guided_frame_has_size_of_references(generator, inputs):
    frames = run(generator, inputs)
    assert frames.shape == (3, 3, SIZE, SIZE) and frames.dtype == torch.float32
    assert frames.abs().max() < 1.2 and frames.std() > 0.1
    assert generator.gather(inputs[0], inputs[2]).shape == (3, 12, LAYERS, LAYERS)


def test_gather_joins_landmarks_references_and_motion(generator, inputs):
    landmark_images, _, views = inputs
    layer_inputs = generator.gather(landmark_images, views)
    assert torch.equal(layer_inputs[:, :3], landmark_images)
    for channels, view in ((slice(3, 6), views.warped), (slice(6, 10), views.plate)):
        expected = view.reshape(3, -1, LAYERS, 2, LAYERS, 2).mean((3, 5))
        torch.testing.assert_close(layer_inputs[:, channels], expected, atol=1e-6, rtol=0)
    expected = (
        views.motion.reshape(3, 2, LAYERS, 2, LAYERS, 2).mean((3, 5)) * 10
    )  # half the grid: bilinear is the mean of four
    torch.testing.assert_close(layer_inputs[:, 10:], expected, atol=1e-6, rtol=0)


def test_compose_blends_parts_by_weights(generator, inputs):
    """Compute each pixel from the layers: softmax of the enlarged logits, over references and own image.

    The own image's share is small where the reference hardly moves.
    """
    landmark_images, styles, views = inputs
    with torch.no_grad():
        layers = generator.run_layers(generator.gather(landmark_images, views), styles)
    large = F.interpolate(layers, scale_factor=2, mode="bilinear", align_corners=False)
    powers = torch.exp(3.0 * large[:, WEIGHTS].double())
    square = views.motion.double().square().sum(1, keepdim=True)
    share = square / (square + 0.005**2) + 1e-3
    powers[:, 2:] *= F.interpolate(share, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    weights = powers / powers.sum(1, keepdim=True)
    parts = torch.stack([views.warped, views.plate[:, :3], torch.tanh(large[:, OWN])], 1)
    expected = (weights[:, :, None] * parts).sum(1).float()
    frames, actual_weights = generator.compose(layers, views)
    torch.testing.assert_close(frames, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(actual_weights, weights.float(), atol=1e-5, rtol=0)
    assert torch.equal(run(generator, inputs), frames)
    # each of the three takes part somewhere
    assert all(weights[:, part].amax() > 0.5 for part in range(3)) and (weights.amin((0, 2, 3)) < 0.3).all()


def test_own_image_only_rows_use_own_image(generator, inputs):
    landmark_images, styles, views = inputs
    own_image_only = torch.tensor([True, False, True])
    frames = run(generator, inputs, own_image_only)
    with torch.no_grad():
        layers = generator.run_layers(generator.gather(landmark_images, views), styles)
    own = torch.tanh(F.interpolate(layers[:, OWN], scale_factor=2, mode="bilinear", align_corners=False))
    torch.testing.assert_close(frames[own_image_only], own[own_image_only], atol=1e-6, rtol=0)
    assert torch.equal(frames[1], run(generator, inputs)[1])
    assert (frames[1] - own[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    "motion, low, high",
    [(0.0, 0.0, 0.001), (0.005, 0.33, 0.34), (0.1, 0.498, 0.5), (float(2**9), 0.5, 0.501)],
)
def test_own_image_fades_where_reference_hardly_moves(generator, inputs, motion, low, high):
    views = inputs[2]._replace(motion=torch.zeros(3, 2, GRID, GRID))
    views.motion[:, 0] = motion
    layers = torch.zeros(3, 6, LAYERS, LAYERS)
    layers[:, WEIGHTS][:, 1] = -100  # the warped reference and the own image alone
    weights = generator.compose(layers, views)[1]
    assert low <= weights[:, 2].amin() and weights[:, 2].amax() <= high
    half = views._replace(motion=views.motion.half())
    torch.testing.assert_close(generator.compose(layers, half)[1], weights, atol=1e-3, rtol=0)


@pytest.mark.parametrize("part, name", [(0, "warped"), (1, "plate")])
def test_single_weight_selects_its_part(generator, inputs, part, name):
    views = inputs[2]
    layers = torch.randn(3, 6, LAYERS, LAYERS)
    layers[:, WEIGHTS] = -100
    layers[:, WEIGHTS][:, part] = 100
    frames, weights = generator.compose(layers, views)
    assert (weights[:, part] == 1).all()
    torch.testing.assert_close(frames, getattr(views, name)[:, :3], atol=1e-5, rtol=0)


def test_gradients_reach_own_image_and_weights(generator, inputs):
    for network in (copy.deepcopy(generator), random_model(guided_config()).generator):
        network(*inputs).square().sum().backward()
        assert (network.out.weight.grad.flatten(1).norm(dim=1) > 1e-3).all()
        assert (
            network.down[0].conv1.weight.grad.abs().amax((0, 2, 3)).min() > 1e-6
        )  # of each channel of the input


def test_compose_gradient_equals_finite_differences(generator, inputs):
    layers = (
        (0.1 * torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(8))).double().requires_grad_()
    )
    small = ReferenceViews(
        *(F.interpolate(view[:1].double(), size=(16, 16), mode="area") for view in inputs[2])
    )
    assert torch.autograd.gradcheck(lambda x: generator.compose(x, small)[0], layers, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_prepared_generator_gives_same_frames(generator, inputs, packed):
    final = prepare_for_inference(generator, LAYERS)
    if packed:
        pack_weights_(final, LAYERS, batch=2)
        assert all(is_packed(layer.weight) for layer in final.layers())
    landmark_images, styles, views = inputs
    with torch.inference_mode():
        frames = final(landmark_images.contiguous(memory_format=torch.channels_last), styles, views)
    torch.testing.assert_close(frames, run(generator, inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_prepared_bfloat16_is_close_and_float32(generator, inputs, packed):
    final = prepare_for_inference(generator, LAYERS, torch.bfloat16)
    if packed:
        pack_weights_(final, LAYERS)
    landmark_images, styles, views = inputs
    with torch.inference_mode():
        frames = final(landmark_images.to(torch.bfloat16, memory_format=torch.channels_last), styles, views)
    expected = run(generator, inputs)
    assert frames.dtype == torch.float32
    assert (frames - expected).abs().mean() < 0.01 and (frames - expected).abs().max() < 0.15
    layers = torch.zeros(3, 8, LAYERS, LAYERS)
    layers[:, 4] = 100  # reference pixels are copied exactly
    assert torch.equal(final.compose(layers, views)[0], views.plate[:, :3])


def test_mixed_precision_frames_are_float32(generator, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        frames = run(generator, inputs)
    assert frames.dtype == torch.float32
    assert (frames - run(generator, inputs)).abs().mean() < 0.01


def test_guided_batch_rows_are_independent(generator, inputs):
    landmark_images, styles, views = inputs
    together = run(generator, inputs)
    for row in range(3):
        row_inputs = (
            landmark_images[row, None],
            styles[row, None],
            ReferenceViews(*(view[row, None] for view in views)),
        )
        torch.testing.assert_close(run(generator, row_inputs)[0], together[row], atol=1e-5, rtol=0)
    other = ReferenceViews(*(torch.cat([view[:2], view[:1]]) for view in views))
    assert torch.equal(run(generator, (landmark_images, styles, other))[:2], together[:2])


def test_each_view_changes_the_frame(generator, inputs):
    landmark_images, styles, views = inputs
    before = run(generator, inputs)
    for name in views._fields:
        after = run(generator, (landmark_images, styles, views._replace(**{name: -getattr(views, name)})))
        assert (after - before).abs().mean() > 0.003, name


def test_resize_area_averages_areas():
    pictures = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize_area(pictures, 4) is pictures
    assert torch.equal(resize_area(pictures, 2), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
