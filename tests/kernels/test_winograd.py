import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels import backends, extension, packed_conv, winograd

from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
NO_KERNEL = extension.unavailable_reason("cpu", "winograd_forward")
RUNNABLE = [name for name in ("reference", "cpp") if backends()[name] is None]
SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 3, 20, 1, 1),
    (2, 20, 3, 3, 5),
    (1, 40, 40, 7, 4),
    (3, 64, 40, 13, 9),
    (1, 17, 33, 4, 8),
    (2, 128, 100, 30, 30),
    (1, 64, 1, 2, 60),
]
"""B, in, out, H, W."""


@pytest.fixture(params=RUNNABLE)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def inputs(shape):
    """Return x in channels_last, weight and bias."""
    torch.manual_seed(0)
    batch, channels, outputs, height, width = shape
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    return x, torch.randn(outputs, channels, 3, 3) / (3 * channels**0.5), torch.randn(outputs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_near_plain_torch(backend, threads, shape, bias):
    threads(2)
    x, weight, offset = inputs(shape)
    offset = offset if bias else None
    expected = F.conv2d(x.double(), weight.double(), None if offset is None else offset.double(), padding=1)
    result = ops.conv2d(x, winograd.transform(weight), offset, padding=1)
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    error, baseline = (
        (y - expected).square().mean().sqrt() for y in (result, F.conv2d(x, weight, offset, padding=1))
    )
    assert error <= 8 * baseline + 2e-7  # the transforms cost digits
    assert (result - expected).abs().max() <= 2e-5


def test_clamp_keeps_nan(backend):
    x, weight, offset = inputs((2, 20, 40, 9, 6))
    expected = F.conv2d(x, weight, offset, padding=1)
    packed = winograd.transform(weight)
    torch.testing.assert_close(
        ops.conv2d(x, packed, offset, padding=1, clamp=(-0.5, 0.75)),
        expected.clamp(-0.5, 0.75),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(
        ops.conv2d(x, packed, offset, padding=1, clamp=(0, float("inf"))), expected.relu(), atol=1e-5, rtol=0
    )
    x[1, 3, 0, 0] = float("nan")
    result = ops.conv2d(x, packed, offset, padding=1, clamp=(-0.5, 0.75))
    assert result[1, :, :2, :2].isnan().all()
    assert (
        result[0].isfinite().all()
        and result[1, :, 4:].isfinite().all()
        and result[1, :, :, 4:].isfinite().all()
    )


def test_maps_accept_any_strides(backend):
    x, weight, offset = inputs((3, 24, 32, 9, 6))
    packed = winograd.transform(weight)
    expected = ops.conv2d(x, packed, offset, padding=1)
    wide = torch.randn(3, 48, 9, 6).to(memory_format=torch.channels_last)
    wide[:, ::2] = x
    for maps in (x.contiguous(), wide[:, ::2]):
        torch.testing.assert_close(ops.conv2d(maps, packed, offset, padding=1), expected, atol=1e-5, rtol=0)
    for maps in (x[1:2], x[..., :1], x[:, :, 3:4]):
        torch.testing.assert_close(
            ops.conv2d(maps, packed, offset, padding=1),
            F.conv2d(maps, weight, offset, padding=1),
            atol=1e-5,
            rtol=0,
        )
    torch.testing.assert_close(
        ops.conv2d(x, packed, offset.repeat_interleave(2)[::2], padding=1), expected, atol=1e-5, rtol=0
    )
    assert ops.conv2d(x[:0], packed, offset, padding=1).shape == (0, 32, 9, 6)


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_result(backend, torch_default, default):
    x, weight, offset = inputs((3, 24, 32, 9, 6))
    packed = winograd.transform(weight)
    expected = ops.conv2d(x, packed, offset, padding=1)
    torch_default(default)
    result = ops.conv2d(x, packed, offset, padding=1)
    assert torch.equal(result, expected)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.parametrize("shape", [(1, 160, 160, 16, 16), (3, 40, 100, 30, 9)], ids=str)
def test_threads_and_batch_change_no_bit(threads, shape):
    x, weight, offset = inputs(shape)
    packed = winograd.transform(weight)
    runs = []
    for count in (1, 2, 3, 5):
        threads(count)
        runs.append(ops.conv2d(x, packed, offset, padding=1))
    assert all(torch.equal(run, runs[0]) for run in runs[1:])
    assert torch.equal(ops.conv2d(x[:1], packed, offset, padding=1), runs[0][:1])


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp and not reference")


def test_missing_kernel_falls_back_to_formula(monkeypatch):
    x, weight, offset = inputs((2, 20, 40, 9, 6))
    packed = winograd.transform(weight)
    expected = F.conv2d(x, weight, offset, padding=1)
    monkeypatch.setattr(
        extension, "unavailable_reason", lambda device, kernel=None: "the extension is not built"
    )
    torch.testing.assert_close(ops.conv2d(x, packed, offset, padding=1), expected, atol=1e-5, rtol=0)
    assert not winograd.uses_native_kernel()


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
def test_pack_selects_layers_for_winograd():
    def chosen(weight, maps, *arguments, **more):
        packed = ops.pack(weight, maps, *arguments, **more)
        assert packed_conv.is_packed(packed) == (packed is not weight)
        return packed.dim() == 3

    weight, maps = torch.randn(32, 16, 3, 3), (1, 16, 32, 32)
    assert chosen(weight, maps, 1, 1)
    assert ops.pack(weight, maps, 1, 1).shape == (36, 16, 32)
    assert not chosen(weight, maps, 2, 1) and not chosen(weight, maps, 1, 0)
    assert not chosen(torch.randn(16, 1, 3, 3), maps, 1, 1, 16) and not chosen(
        torch.randn(16, 32, 3, 3), maps, 1, 1, transposed=True
    )
    assert not chosen(weight[..., :1, :1], maps, 1, 1) and not chosen(weight.double(), maps, 1, 1)
    assert not chosen(weight.bfloat16(), maps, 1, 1)
    assert not chosen(weight[:3], maps, 1, 1) and not chosen(weight[:, :3], (1, 3, 32, 32), 1, 1)
    assert (
        chosen(weight, (1, 16, 8, 8), 1, 1)
        and not chosen(weight, (1, 16, 4, 4), 1, 1)
        and chosen(weight, (4, 16, 4, 4), 1, 1)
    )
    deep = torch.randn(1, 1, 3, 3).expand(512, 512, 3, 3)
    assert chosen(deep, (1, 512, 16, 16), 1, 1) and not chosen(deep, (1, 512, 8, 8), 1, 1)
    with ops.use_backend("reference"):
        assert not chosen(weight, maps, 1, 1)


def test_layers_next_to_resampling(backend):
    # A packed weight is not folded, whatever its number of channels.
    for outputs in (2, 4, 24):
        x, weight, offset = inputs((2, 8, outputs, 6, 10))
        packed = winograd.transform(weight)
        for op in (ops.upsample_conv, ops.conv_downsample):
            torch.testing.assert_close(op(x, packed, offset), op(x, weight, offset), atol=1e-5, rtol=0)


BAD = [
    (
        {"x": torch.zeros(20, 9, 6)},
        r"x must be float32 \[B, 20, H, W\] on cpu, got torch.float32 \[20, 9, 6\] on cpu",
    ),
    (
        {"x": torch.zeros(2, 21, 9, 6)},
        r"x must be float32 \[B, 20, H, W\] on cpu, got torch.float32 \[2, 21, 9, 6\]",
    ),
    ({"x": torch.zeros(2, 20, 9, 6).bfloat16()}, r"x must be float32 .* got torch.bfloat16"),
    ({"x": torch.zeros(2, 20, 9, 6, device="meta")}, r"x must be float32 .* on meta"),
    ({"bias": torch.zeros(39)}, r"bias must be float32 \[out\] = \[40\] on cpu, got torch.float32 \[39\]"),
    ({"bias": torch.zeros(40).half()}, r"bias must be float32 .* got torch.float16"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(wrong, message):
    x, weight, bias = inputs((2, 20, 40, 9, 6))
    with pytest.raises(ValueError, match=f"winograd: {message}"):
        ops.conv2d(**{"x": x, "weight": winograd.transform(weight), "bias": bias, "padding": 1, **wrong})


@pytest.mark.parametrize("bounds", [(None, None), (0.0, None), (-1.0, 1.5)])
def test_op_passes_opcheck(backend, bounds):
    x, weight, offset = inputs((2, 20, 40, 9, 6))
    packed = (
        ops.pack(weight, x.shape, 1, 1, exportable=True) if backend == "cpp" else winograd.transform(weight)
    )
    arguments = x.contiguous(memory_format=torch.channels_last), packed, offset, *bounds
    torch.library.opcheck(
        torch.ops.talkinghead.winograd.default, arguments, test_utils=("test_schema", "test_faketensor")
    )
    expected = F.conv2d(x, weight, offset, padding=1)
    expected = expected if bounds == (None, None) else expected.clamp(*bounds)
    torch.testing.assert_close(torch.ops.talkinghead.winograd(*arguments), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_compiled_and_exported_code_contains_op():
    class Layer(torch.nn.Module):
        def forward(self, x):
            return ops.conv2d(x * 2, packed, offset, padding=1, clamp=(0, 6)) + 1

    x, weight, offset = inputs((2, 20, 40, 9, 6))
    packed = winograd.transform(weight)
    expected = Layer()(x)
    program = torch.export.export(Layer(), (x,))
    assert "talkinghead.winograd" in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True)(x), expected)


def test_exportable_weights_are_packed_for_winograd_only():
    assert ops.pack(torch.randn(32, 16, 1, 1), (1, 16, 32, 32), exportable=True).layout == torch.strided
    weight = torch.randn(32, 16, 4, 4)
    assert ops.pack(weight, (1, 16, 32, 32), 2, 1, exportable=True) is weight
