import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels import backends, extension

from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
NO_KERNEL = extension.unavailable_reason("cpu", "conv_sequence")
RUNNABLE = [name for name in ("reference", "cpp") if backends()[name] is None]
BLOCKS = [
    (1, 1, 1, 1, 3, 1, 1, 1),
    (2, 3, 7, 5, 3, 2, 9, 6),
    (1, 24, 72, 48, 3, 2, 32, 32),
    (3, 48, 96, 48, 3, 1, 16, 16),
    (2, 96, 288, 96, 5, 1, 8, 8),
    (1, 17, 33, 50, 5, 2, 1, 7),
    (2, 5, 40, 5, 5, 1, 3, 2),
    (1, 8, 130, 8, 3, 1, 90, 40),
    (1, 16, 16, 3, 3, 3, 10, 11),
]
"""B, channels in, in between and out, k, stride, H, W."""


@pytest.fixture(params=RUNNABLE)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def inputs(block):
    """Return x in channels_last, the three convolutions, the stride and whether x can be added."""
    torch.manual_seed(0)
    batch, channels, wide, outputs, side, stride, height, width = block

    def convolution(outputs, inputs, side):
        return torch.randn(outputs, inputs, side, side) / (inputs**0.5 * side), torch.randn(outputs)

    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    convolutions = [
        convolution(wide, channels, 1),
        convolution(wide, 1, side),
        convolution(outputs, wide, 1),
    ]
    return x, convolutions, stride, stride == 1 and channels == outputs


def plain_block(x, convolutions, stride, adds_input):
    """Return the block as three convolutions of torch."""
    (widen, widen_bias), (filter, filter_bias), (narrow, narrow_bias) = convolutions
    y = F.conv2d(x, widen, widen_bias).relu()
    y = F.conv2d(y, filter, filter_bias, stride, filter.shape[-1] // 2, groups=len(filter)).relu()
    y = F.conv2d(y, narrow, narrow_bias)
    return y + x if adds_input else y


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_error_is_near_plain_torch(backend, threads, block):
    threads(2)
    x, convolutions, stride, adds_input = inputs(block)
    doubles = [(weight.double(), bias.double()) for weight, bias in convolutions]
    expected = plain_block(x.double(), doubles, stride, adds_input)
    weights = ops.pack_inverted_residual(*convolutions)
    result = ops.inverted_residual(x, weights, stride, adds_input)
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    error, baseline = (
        (y - expected).square().mean().sqrt()
        for y in (result, plain_block(x, convolutions, stride, adds_input))
    )
    assert error <= 2 * baseline + 2e-7
    assert (result - expected).abs().max() <= 2e-5


def test_input_is_added_only_if_asked(backend):
    x, convolutions, stride, _ = inputs((2, 24, 48, 24, 3, 1, 6, 7))
    weights = ops.pack_inverted_residual(*convolutions)
    difference = ops.inverted_residual(x, weights, stride, True) - ops.inverted_residual(x, weights, stride)
    torch.testing.assert_close(difference, x, atol=1e-5, rtol=0)


def test_nan_spreads_to_what_its_filter_reaches(backend):
    x, convolutions, stride, _ = inputs((2, 8, 16, 4, 3, 1, 9, 9))
    x[1, 3, 4, 4] = float("nan")
    result = ops.inverted_residual(x, ops.pack_inverted_residual(*convolutions), stride)
    assert result[1, :, 3:6, 3:6].isnan().all()
    result[1, :, 3:6, 3:6] = 0
    assert result.isfinite().all()


def test_maps_accept_any_strides(backend):
    x, convolutions, stride, _ = inputs((3, 24, 48, 8, 3, 2, 9, 6))
    weights = ops.pack_inverted_residual(*convolutions)
    expected = plain_block(x, convolutions, stride, False)
    wide = torch.randn(3, 48, 9, 6).to(memory_format=torch.channels_last)
    wide[:, ::2] = x
    for maps in (x.contiguous(), wide[:, ::2]):
        torch.testing.assert_close(ops.inverted_residual(maps, weights, stride), expected, atol=1e-5, rtol=0)
    for maps in (x[1:2], x[..., :1], x[:, :, 3:4]):
        torch.testing.assert_close(
            ops.inverted_residual(maps, weights, stride),
            plain_block(maps, convolutions, stride, False),
            atol=1e-5,
            rtol=0,
        )
    assert ops.inverted_residual(x[:0], weights, stride).shape == (0, 8, 5, 3)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.parametrize("block", [(3, 96, 288, 96, 5, 1, 8, 8), (3, 17, 40, 30, 3, 2, 33, 20)], ids=str)
def test_threads_and_batch_change_no_bit(threads, block):
    x, convolutions, stride, adds_input = inputs(block)
    weights = ops.pack_inverted_residual(*convolutions)
    runs = []
    for count in (1, 2, 3, 5, 40):
        threads(count)
        runs.append(ops.inverted_residual(x, weights, stride, adds_input))
        assert torch.equal(ops.inverted_residual(x[:1], weights, stride, adds_input), runs[0][:1])
    assert all(torch.equal(run, runs[0]) for run in runs[1:])


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_result(backend, torch_default, default):
    x, convolutions, stride, _ = inputs((3, 24, 48, 8, 3, 2, 9, 6))
    weights = ops.pack_inverted_residual(*convolutions)
    expected = ops.inverted_residual(x, weights, stride)
    torch_default(default)
    result = ops.inverted_residual(x, weights, stride)
    assert torch.equal(result, expected)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp")


def test_missing_kernel_falls_back_to_formula(monkeypatch):
    x, convolutions, stride, adds_input = inputs((2, 20, 40, 20, 3, 1, 9, 6))
    monkeypatch.setattr(extension, "unavailable_reason", lambda *_: "the extension is not built")
    result = ops.inverted_residual(x, ops.pack_inverted_residual(*convolutions), stride, adds_input)
    expected = plain_block(x, convolutions, stride, adds_input)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def changed(index, tensor):
    """Return a function that replaces one of the weights."""
    return lambda weights: weights._replace(**{weights._fields[index]: tensor})


BAD = [
    (
        {"x": torch.zeros(20, 9, 6)},
        r"x must be float32 \[B, C, H, W\] on cpu, got torch.float32 \[20, 9",
    ),
    ({"x": torch.zeros(2, 20, 9, 6).half()}, "x must be float32 .* got torch.float16"),
    ({"x": torch.zeros(2, 20, 9, 6, device="meta")}, "x must be float32 .* on meta"),
    ({"x": torch.zeros(2, 21, 9, 6)}, "weights must be float32 of pack_inverted_residual for 21 channels"),
    ({"weights": changed(1, torch.zeros(39))}, "weights must be float32 .* for 20 channels"),
    ({"weights": changed(2, torch.zeros(49, 40))}, "weights must be float32 .* for 20 channels"),
    ({"weights": changed(4, torch.zeros(40, 20).double())}, "weights must be float32 .* for 20 channels"),
    ({"stride": 0}, "stride must be at least 1, got 0"),
    ({"stride": 2, "adds_input": True}, "x of 20 channels cannot be added to 20 channels of stride 2"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(wrong, message):
    x, convolutions, _, _ = inputs((2, 20, 40, 20, 3, 1, 9, 6))
    weights = ops.pack_inverted_residual(*convolutions)
    arguments = {"x": x, "weights": weights, **wrong}
    if "weights" in wrong:
        arguments["weights"] = wrong["weights"](weights)
    with pytest.raises(ValueError, match=f"^inverted_residual: {message}"):
        ops.inverted_residual(**arguments)


def test_op_passes_opcheck(backend):
    x, convolutions, stride, adds_input = inputs((2, 20, 40, 20, 5, 1, 9, 6))
    weights = ops.pack_inverted_residual(*convolutions)
    torch.library.opcheck(
        torch.ops.talkinghead.inverted_residual.default,
        (x, *weights, stride, adds_input),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiled_and_exported_code_contains_op():
    class Layer(torch.nn.Module):
        def forward(self, x):
            return ops.inverted_residual(x * 2, weights, stride, adds_input) + 1

    x, convolutions, stride, adds_input = inputs((2, 20, 40, 20, 3, 1, 9, 6))
    weights = ops.pack_inverted_residual(*convolutions)
    expected = Layer()(x)
    program = torch.export.export(Layer(), (x,))
    assert "talkinghead.inverted_residual" in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True)(x), expected)
