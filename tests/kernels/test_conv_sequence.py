import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels import backends, extension
from talkinghead_kernels.conv_sequence import conv_sequence_reference

from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
NO_KERNEL = extension.unavailable_reason("cpu", "conv_sequence")
RUNNABLE = [name for name in ("reference", "cpp") if backends()[name] is None]
CONVS = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 16, 3, 2, 128, 128),
    (1, 16, 24, 3, 2, 33, 20),
    (3, 7, 5, 5, 1, 4, 3),
    (2, 192, 234, 1, 1, 8, 8),
    (1, 9, 50, 1, 2, 7, 5),
    (4, 24, 33, 3, 3, 10, 11),
]
"""B, channels in and out, k, stride, H, W."""


@pytest.fixture(params=RUNNABLE)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def maps(batch, channels, height, width):
    x = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last)


def convolution(outputs, inputs, side):
    torch.manual_seed(outputs + inputs)
    return torch.randn(outputs, inputs, side, side) / (inputs**0.5 * side), torch.randn(outputs)


def network():
    """Return layers of all kinds, as functions of torch in double and as a sequence."""
    first, last = convolution(16, 3, 3), convolution(10, 20, 1)
    parts = [(convolution(40, 16, 1), convolution(40, 1, 3), convolution(20, 40, 1), 2)]
    parts += [(convolution(60, 20, 1), convolution(60, 1, 5), convolution(20, 60, 1), 1)]

    def run(x):
        y = F.conv2d(x.double(), *(t.double() for t in first), 2, 1).relu()
        for widen, filter, narrow, stride in parts:
            (a, b), (c, d), (e, f) = ((w.double(), v.double()) for w, v in (widen, filter, narrow))
            z = F.conv2d(F.conv2d(y, a, b).relu(), c, d, stride, c.shape[-1] // 2, groups=len(c)).relu()
            z = F.conv2d(z, e, f)
            y = z + y if stride == 1 else z
        return F.conv2d(y, *(t.double() for t in last))

    layers = [ops.pack_conv(*first, stride=2, relu=True)]
    layers += [ops.pack_block(*weights, stride=stride, adds_input=stride == 1) for *weights, stride in parts]
    layers.append(ops.pack_conv(*last))
    weights = [weight for layer in layers for weight in layer.weights]
    return run, ops.ConvSequence(weights, [number for layer in layers for number in layer.numbers])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", CONVS, ids=str)
def test_convolution_is_near_plain_torch(backend, threads, shape, relu):
    threads(2)
    batch, channels, outputs, side, stride, height, width = shape
    x, (weight, bias) = maps(batch, channels, height, width), convolution(outputs, channels, side)
    result = ops.conv_sequence(x, ops.pack_conv(weight, bias, stride=stride, relu=relu))
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, side // 2)
    expected = expected.relu() if relu else expected
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_layers_run_in_sequence(backend, threads, batch, count):
    threads(count)
    run, sequence = network()
    for size in ((37, 22), (64, 64)):
        x = maps(batch, 3, *size)
        result = ops.conv_sequence(x, sequence)
        torch.testing.assert_close(result.double(), run(x), atol=2e-5, rtol=1e-5)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
def test_threads_and_batch_change_no_bit(threads):
    _, sequence = network()
    x = maps(5, 3, 60, 80)
    threads(1)
    expected = ops.conv_sequence(x, sequence)
    for count in (2, 3, 5, 40):
        threads(count)
        assert torch.equal(ops.conv_sequence(x, sequence), expected)
        assert torch.equal(ops.conv_sequence(x[:1], sequence), expected[:1])


def test_nan_spreads_to_what_its_filter_reaches(backend):
    x = maps(2, 8, 9, 9)
    x[1, 3, 4, 4] = float("nan")
    result = ops.conv_sequence(x, ops.pack_conv(*convolution(5, 8, 3), relu=True))
    assert result[1, :, 3:6, 3:6].isnan().all()
    result[1, :, 3:6, 3:6] = 0
    assert result.isfinite().all()


def test_maps_accept_any_strides(backend):
    run, sequence = network()
    x = maps(3, 3, 24, 18)
    wide = maps(3, 6, 24, 18)
    wide[:, ::2] = x
    for other in (x.contiguous(), wide[:, ::2], x[1:2], x[..., :1], x[:, :, 3:4]):
        result = ops.conv_sequence(other, sequence).double()
        torch.testing.assert_close(result, run(other), atol=2e-5, rtol=1e-5)
    assert ops.conv_sequence(x[:0], sequence).shape == (0, 10, 6, 5)


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_result(backend, torch_default, default):
    _, sequence = network()
    x = maps(2, 3, 24, 18)
    expected = ops.conv_sequence(x, sequence)
    torch_default(default)
    result = ops.conv_sequence(x, sequence)
    assert torch.equal(result, expected)


def test_weights_accept_any_strides(backend):
    _, sequence = network()
    x = maps(2, 3, 24, 18)
    transposed = [weight.t().contiguous().t() for weight in sequence.weights]
    assert not all(weight.is_contiguous() for weight in transposed)
    result = ops.conv_sequence(x, sequence._replace(weights=transposed))
    torch.testing.assert_close(result, ops.conv_sequence(x, sequence), atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp")


def test_missing_kernel_falls_back_to_formula(monkeypatch):
    _, sequence = network()
    x = maps(2, 3, 16, 16)
    expected = conv_sequence_reference(x, *sequence)
    monkeypatch.setattr(extension, "unavailable_reason", lambda *_: "the extension is not built")
    assert torch.equal(ops.conv_sequence(x, sequence), expected)


CONV = ops.pack_conv(*convolution(20, 6, 3))
BLOCK = ops.pack_block(convolution(40, 6, 1), convolution(40, 1, 3), convolution(8, 40, 1))
BAD = [
    ({"x": torch.zeros(6, 9, 6)}, r"x must be float32 \[B, C, H, W\] on cpu, got torch.float32 \[6, 9, 6\]"),
    ({"x": torch.zeros(2, 6, 9, 6).half()}, "x must be float32 .* got torch.float16"),
    ({"x": torch.zeros(2, 6, 9, 6, device="meta")}, "x must be float32 .* on meta"),
    ({"x": torch.zeros(2, 7, 9, 6)}, "weights must be float32 of pack_conv or pack_block for 7 channels"),
    ({"sequence": ops.ConvSequence([], [])}, "sequence must have a layer and its weights, got 0 weights"),
    ({"sequence": CONV._replace(numbers=[2, 3, 1])}, "sequence must have a layer and its weights"),
    ({"sequence": CONV._replace(numbers=[2, 5, 1, 0])}, "weights must be float32 .* for 6 channels"),
    ({"sequence": CONV._replace(numbers=[2, 3, 0, 0])}, "the side must be odd and the stride at least 1"),
    ({"sequence": CONV._replace(weights=[w.double() for w in CONV.weights])}, "weights must be float32"),
    (
        {"sequence": CONV._replace(weights=CONV.weights * 2)},
        "sequence must have a layer and its weights, got 4",
    ),
    ({"sequence": BLOCK._replace(numbers=[6, 3, 1, 1])}, "an input of 6 channels cannot be added to 8"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(backend, wrong, message):
    with pytest.raises(ValueError, match=f"^conv_sequence: {message}"):
        ops.conv_sequence(**{"x": torch.zeros(2, 6, 9, 6), "sequence": CONV, **wrong})


def test_op_passes_opcheck(backend):
    _, sequence = network()
    torch.library.opcheck(
        torch.ops.talkinghead.conv_sequence.default,
        (maps(2, 3, 9, 6), *sequence),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiled_and_exported_code_contains_op():
    class Layer(torch.nn.Module):
        def forward(self, x):
            return ops.conv_sequence(x * 2, sequence) + 1

    _, sequence = network()
    x = maps(2, 3, 16, 16)
    expected = Layer()(x)
    program = torch.export.export(Layer(), (x,))
    assert "talkinghead.conv_sequence" in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True)(x), expected)
