"""Tests of the conversion between uint8 and float pixels."""

import numpy as np
import pytest
import torch

from talkinghead.media.pixel_range import float_to_levels, float_to_uint8, uint8_to_float

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_round_trip_keeps_every_level() -> None:
    pixels = uint8_to_float(LEVELS)
    assert pixels.dtype == torch.float32
    assert (pixels[0], pixels[255]) == (-1, 1)
    assert torch.equal(float_to_uint8(pixels), LEVELS)
    assert np.array_equal(float_to_uint8(pixels.numpy()), LEVELS.numpy())


def test_uint8_to_float_scales_float_levels() -> None:
    assert torch.equal(uint8_to_float(LEVELS.float()), uint8_to_float(LEVELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_torch_and_numpy_round_alike(dtype: torch.dtype) -> None:
    pixels = torch.linspace(-1.5, 1.5, 4001).to(dtype)
    levels = float_to_levels(pixels)
    assert levels.dtype == dtype
    assert np.array_equal(levels.numpy(), float_to_levels(pixels.numpy()))
    assert np.array_equal(float_to_uint8(pixels).numpy(), float_to_uint8(pixels.numpy()))


def test_float_to_uint8_clips_and_rounds() -> None:
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.001, 1.0, 7.0])
    assert float_to_uint8(pixels).tolist() == [0, 0, 128, 128, 255, 255]


def test_conversions_keep_the_layout() -> None:
    pixels = uint8_to_float(torch.zeros(2, 4, 5, 3, dtype=torch.uint8).permute(0, 3, 1, 2))
    assert pixels.shape == (2, 3, 4, 5)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert float_to_uint8(pixels).shape == pixels.shape
