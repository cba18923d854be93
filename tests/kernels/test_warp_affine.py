import math

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import backends, extension
from talkinghead_kernels.warp_affine import warp_affine_reference

from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
NO_KERNEL = extension.unavailable_reason("cpu", "warp_affine")
RUNNABLE = [name for name in ("reference", "cpp") if backends()[name] is None]
SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 4), (40, 50)]
"""Heights and widths of images."""


@pytest.fixture(params=RUNNABLE)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def random_images(sizes):
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (*size, 3), generator=random).to(torch.uint8) for size in sizes]


def turned(size, height, width, side):
    """Return the map to a square of a side, turned by half a radian about the centre of an image."""
    c, s = (side / size * value for value in (math.cos(0.5), math.sin(0.5)))
    x, y = (width - 1) / 2, (height - 1) / 2
    half = (size - 1) / 2
    return [[c, -s, x - half * (c - s)], [s, c, y - half * (s + c)]]


def sample_by_definition(image, transform, size):
    """Return a square pixel by pixel, in double."""
    result = torch.zeros(3, size, size, dtype=torch.float64)
    for j in range(size):
        for i in range(size):
            x, y = (a * i + b * j + c for a, b, c in transform)
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                        weight = (1 - abs(x - column)) * (1 - abs(y - row))
                        result[:, j, i] += weight * image[row, column].double() / 255
    return result


@pytest.mark.parametrize("side", [0.4, 3.0, 40.0, 90.0])
def test_result_equals_definition(backend, threads, side):
    threads(2)
    images, size = random_images(SIZES), 13
    transforms = [turned(size, *image.shape[:2], side) for image in images]
    result = ops.warp_affine(images, torch.tensor(transforms, dtype=torch.float64), size)
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    for image, transform, square in zip(images, transforms, result, strict=True):
        expected = sample_by_definition(image, transform, size)
        torch.testing.assert_close(square.double(), expected, atol=2e-5, rtol=0)


def test_identity_returns_pixels_exactly(backend):
    (image,) = random_images([(20, 20)])
    same = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    result = ops.warp_affine([image], same, 20)[0].permute(1, 2, 0)
    torch.testing.assert_close((result * 255).round().to(torch.uint8), image)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e12])
def test_position_without_image_is_black(backend, value):
    (image,) = random_images([(20, 20)])
    for place in range(6):
        transform = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64)
        transform[place] = value
        result = ops.warp_affine([image], transform.view(1, 2, 3), 8)
        assert result.isfinite().all()
        assert not result[..., 1:, 1:].any() or place in (0, 1, 3, 4)


def test_images_accept_any_strides(backend):
    (image,) = random_images([(40, 50)])
    transform = torch.tensor([turned(16, 20, 25, 30.0)], dtype=torch.float64)
    parts = [image[10:30, 5:30], image[::2, ::2], image.transpose(0, 1)[10:30, 5:30]]
    parts.append(image[:, :1].transpose(1, 2).contiguous().transpose(1, 2))  # one column of strides 3, 1, 1
    for part in parts:
        copied = part.clone(memory_format=torch.contiguous_format)
        expected = ops.warp_affine([copied], transform, 16)
        assert torch.equal(ops.warp_affine([part], transform, 16), expected)
    assert ops.warp_affine([], transform[:0], 16).shape == (0, 3, 16, 16)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
def test_threads_and_batch_change_no_bit(threads):
    images = random_images([(40, 50)] * 5)
    transforms = torch.tensor([turned(64, 40, 50, side) for side in range(20, 70, 10)], dtype=torch.float64)
    threads(1)
    expected = ops.warp_affine(images, transforms, 64)
    for count in (2, 3, 40):
        threads(count)
        assert torch.equal(ops.warp_affine(images, transforms, 64), expected)
        assert torch.equal(ops.warp_affine(images[:1], transforms[:1], 64), expected[:1])


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_result(backend, torch_default, default):
    images = random_images([(20, 30)])
    transform = torch.tensor([turned(16, 20, 30, 30.0)], dtype=torch.float64)
    expected = ops.warp_affine(images, transform, 16)
    torch_default(default)
    result = ops.warp_affine(images, transform, 16)
    assert torch.equal(result, expected)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp")


def test_missing_kernel_falls_back_to_formula(monkeypatch):
    images = random_images([(20, 30)])
    transform = torch.tensor([turned(16, 20, 30, 30.0)], dtype=torch.float64)
    expected = warp_affine_reference(images, transform, 16)
    monkeypatch.setattr(extension, "unavailable_reason", lambda *_: "the extension is not built")
    assert torch.equal(ops.warp_affine(images, transform, 16), expected)


IMAGE = torch.zeros(4, 5, 3, dtype=torch.uint8)
BAD = [
    ({"images": [IMAGE[..., 0]]}, r"images must be uint8 \[H, W, 3\] on cpu, got torch.uint8 \[4, 5\]"),
    ({"images": [IMAGE[..., :2]]}, r"images must be uint8 .* got torch.uint8 \[4, 5, 2\]"),
    ({"images": [IMAGE[:0]]}, r"images must be uint8 .* got torch.uint8 \[0, 5, 3\]"),
    ({"images": [IMAGE.float()]}, "images must be uint8 .* got torch.float32"),
    ({"images": [IMAGE.to("meta")]}, "images must be uint8 .* on meta"),
    ({"images": [IMAGE, IMAGE]}, r"transforms must be floating-point \[2, 2, 3\] on cpu, got .* \[1, 2, 3\]"),
    ({"transforms": torch.zeros(1, 2, 3).int()}, "transforms must be floating-point .* got torch.int32"),
    ({"size": 0}, "size must be at least 1, got 0"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(wrong, message):
    arguments = {"images": [IMAGE], "transforms": torch.zeros(1, 2, 3).double(), "size": 4, **wrong}
    with pytest.raises(ValueError, match=f"^warp_affine: {message}"):
        ops.warp_affine(**arguments)


def test_op_passes_opcheck(backend):
    images = random_images([(20, 30), (7, 5)])
    transforms = torch.tensor([turned(16, 20, 30, 30.0)] * 2, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.talkinghead.warp_affine.default,
        (images, transforms, 16),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiled_and_exported_code_contains_op():
    class Layer(torch.nn.Module):
        def forward(self, image, transforms):
            return ops.warp_affine([image], transforms, 16) * 2

    (image,) = random_images([(20, 30)])
    transforms = torch.tensor([turned(16, 20, 30, 30.0)], dtype=torch.float64)
    expected = Layer()(image, transforms)
    program = torch.export.export(Layer(), (image, transforms))
    assert "talkinghead.warp_affine" in str(program.graph)
    torch.testing.assert_close(program.module()(image, transforms), expected)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True)(image, transforms), expected)
