import json
import math
import re

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from talkinghead_kernels import conv_downsample, resample, upsample_conv
from talkinghead_kernels.resample import CANDIDATES, FORMS, apply_form, choose_form, fold, fold_adjoint

OPS = {"upsample_conv": upsample_conv, "conv_downsample": conv_downsample}
FOLDED = [(op, form) for op, forms in CANDIDATES.items() for form in forms if form != "plain"]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def baseline(op, x, weight, bias=None):
    padding = weight.shape[-1] // 2
    if op == "upsample_conv":
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=padding)
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=padding), 2)


def tensors(
    shape=(2, 3, 6, 4), outputs=4, kernel=3, dtype=torch.float64, memory_format=torch.contiguous_format
):
    torch.manual_seed(0)
    x, weight = (
        torch.randn(shape, dtype=torch.float64),
        torch.randn(outputs, shape[1], kernel, kernel, dtype=torch.float64),
    )
    bias = torch.randn(outputs, dtype=torch.float64)
    return (
        x.to(dtype, memory_format=memory_format),
        weight.to(dtype, memory_format=memory_format),
        bias.to(dtype),
    )


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("size", [(2, 2), (6, 4), (8, 8)])
@pytest.mark.parametrize(("op", "form"), [(op, form) for op, forms in CANDIDATES.items() for form in forms])
def test_every_form_equals_baseline(op, form, size, memory_format):
    arguments = [tensor.requires_grad_() for tensor in tensors((2, 3, *size), memory_format=memory_format)]
    expected = baseline(op, *arguments)
    result = apply_form(op, form, *arguments)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    assert result.is_contiguous(memory_format=memory_format)
    grad = torch.randn_like(expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(result, arguments, grad),
        torch.autograd.grad(expected, arguments, grad),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-11, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_upsampling_accepts_any_size(size):
    x, weight, bias = tensors((1, 3, *size))
    for form in CANDIDATES["upsample_conv"]:
        torch.testing.assert_close(
            apply_form("upsample_conv", form, x, weight, bias), baseline("upsample_conv", x, weight, bias)
        )


@pytest.mark.parametrize(("op", "form"), FOLDED)
def test_folded_weights_give_same_result(op, form):
    x, weight, bias = tensors()
    folded = fold(weight, form)
    assert tuple(folded.shape) == FORMS[form](4, 3)
    torch.testing.assert_close(OPS[op](x, folded, bias), baseline(op, x, weight, bias), atol=1e-12, rtol=0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_public_ops_equal_baseline(op, kernel):
    x, weight, bias = tensors(kernel=kernel)
    torch.testing.assert_close(OPS[op](x, weight, bias), baseline(op, x, weight, bias), atol=1e-12, rtol=0)
    torch.testing.assert_close(OPS[op](x, weight), baseline(op, x, weight), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("op", "form"), FOLDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_like_baseline(op, form, dtype):
    x, weight, bias = tensors((2, 32, 8, 8), 24, dtype=dtype)
    exact = baseline(op, x.double(), weight.double(), bias.double())
    error, baseline_error = (
        (y.double() - exact).norm()
        for y in (apply_form(op, form, x, weight, bias), baseline(op, x, weight, bias))
    )
    assert error <= 2 * baseline_error


@pytest.mark.parametrize(("op", "form"), FOLDED)
def test_gradcheck(op, form):
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors((1, 2, 2, 2), 2))
    assert torch.autograd.gradcheck(lambda *arguments: apply_form(op, form, *arguments), (x, weight, bias))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_fold_adjoint_is_transpose_of_fold(form, memory_format):
    weight = tensors(memory_format=memory_format)[1]
    folded = fold(weight, form, memory_format)
    other = torch.randn(folded.shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    torch.testing.assert_close((folded * other).sum(), (weight * fold_adjoint(other, form)).sum())


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_cpu_product_equals_gpu_sums(form):
    weight = tensors()[1]
    folded = fold(weight, form)
    torch.testing.assert_close(folded, resample._fold_directly(weight, form), atol=1e-14, rtol=0)
    torch.testing.assert_close(
        fold_adjoint(folded, form), resample._fold_adjoint_directly(folded, form), atol=1e-13, rtol=0
    )
    assert fold_adjoint(fold(weight.to("meta"), form), form).shape == weight.shape


def table():
    return json.loads(resample.TABLE.read_text())


def test_form_table_is_valid():
    for name, measured in table().items():
        assert name in resample.CPU_CLASSES or name.startswith("sm_")
        assert {"machine", "torch", "threads", "date", "layers"} == set(measured)
        keys = []
        for entry in measured["layers"]:
            assert entry["form"] in CANDIDATES[entry["op"]]
            assert entry["dtype"] in ("float32", "bfloat16") and isinstance(entry["training"], bool)
            assert set(entry["speed"]) == set(CANDIDATES[entry["op"]])
            # no layer is slower than the baseline
            assert entry["speed"][entry["form"]] == max(entry["speed"].values()) >= 1
            keys.append(
                (entry["op"], entry["dtype"], entry["training"], entry["in"], entry["out"], entry["size"])
            )
        assert len(set(keys)) == len(keys) > 0


def test_known_layer_uses_its_table_entry():
    for name, measured in table().items():
        for entry in measured["layers"]:
            layer = (entry["op"], entry["in"], entry["out"], entry["size"], entry["size"])
            assert (
                resample._look_up_form(*layer, getattr(torch, entry["dtype"]), name, entry["training"])
                == entry["form"]
            )


@pytest.fixture
def made_up_table(monkeypatch):
    def layer(size, form, dtype="float32", training=False):
        return {
            "op": "upsample_conv",
            "dtype": dtype,
            "training": training,
            "in": 64,
            "out": 64,
            "size": size,
            "form": form,
        }

    small = {
        "layers": [layer(8, "plain"), layer(64, "upsample_shuffle"), layer(8, "upsample_shuffle", "bfloat16")]
    }
    made_up = {
        "cpu-avx2": small,
        "sm_80": {"layers": [layer(8, "upsample_shuffle")]},
        "sm_100": {"layers": [layer(8, "plain")]},
    }
    monkeypatch.setattr(resample, "_table", lambda: made_up)
    resample._look_up_form.cache_clear()
    yield
    resample._look_up_form.cache_clear()


def test_unknown_layer_uses_nearest_entry(made_up_table):
    def read(size=8, dtype=torch.float32, device="cpu-avx2", training=False, channels=64, op="upsample_conv"):
        return resample._look_up_form(op, channels, channels, size, size, dtype, device, training)

    assert read() == "plain"
    assert read(22) == "plain" and read(23) == "upsample_shuffle"  # the middle of 8 and 64 is 22.6
    assert read(channels=512) == "plain"
    assert read(dtype=torch.bfloat16) == read(dtype=torch.float16) == "upsample_shuffle"
    assert read(dtype=torch.float64) == read(device="sm_100", dtype=torch.bfloat16) == "plain"
    assert read(device="cpu-avx512_bf16") == read(device="cpu") == "plain"
    assert (
        read(device="sm_90") == "upsample_shuffle"
        and read(device="sm_120") == "plain"
        and read(device="sm_75") == "upsample_shuffle"
    )
    assert read(training=True) == read(device="mps") == "upsample"
    assert read(op="conv_downsample") == "downsample"


def test_choice_is_deterministic_and_depends_on_training():
    asked = ("conv_downsample", 512, 512, 8, 8, torch.float32, torch.device("cpu"))
    first = [choose_form(*asked, training) for training in (False, True)]
    resample._look_up_form.cache_clear()
    assert [choose_form(*asked, training) for training in (False, True)] == first
    assert resample.device_class(torch.device("cpu")) in resample.CPU_CLASSES


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_once_without_breaks(op, dynamic):
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(OPS[op], fullgraph=True, dynamic=dynamic, backend=counter)
    _, weight, bias = tensors()
    weight = torch.nn.Parameter(weight)
    for batch in (2, 3, 4, 5):
        x = torch.randn(batch, 3, 6, 4, dtype=torch.float64)
        torch.testing.assert_close(run(x, weight, bias), baseline(op, x, weight, bias))
    assert counter.frame_count == (1 if dynamic else 2)


class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = (torch.nn.Parameter(torch.randn(3, 3, 3, 3)) for _ in range(2))

    def forward(self, x):
        return conv_downsample(upsample_conv(x, self.up), self.down)


def test_exports_to_plain_aten():
    module, x = Both(), torch.randn(2, 3, 4, 4)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets and all(target.startswith("aten.") for target in targets)
    larger = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(program.module()(larger), module(larger))


def test_autocast_computes_in_its_dtype():
    x, weight, bias = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert upsample_conv(x, weight, bias).dtype == torch.bfloat16
        assert upsample_conv(x.bfloat16(), weight, bias).dtype == torch.bfloat16


X, W = torch.zeros(1, 2, 4, 4), torch.zeros(4, 2, 3, 3)
BAD = {
    "rank": ((X[0], W), "x must be a floating-point [B, C, H, W], got torch.float32 [2, 4, 4]"),
    "integers": ((X.int(), W), "x must be a floating-point [B, C, H, W], got torch.int32 [1, 2, 4, 4]"),
    "empty": ((X[:0], W), "x must not be empty, got [0, 2, 4, 4]"),
    "kernel": ((X, torch.zeros(4, 2, 5, 5)), "weight must be [out, in, 1, 1], [out, in, 3, 3] or folded"),
    "oblong": ((X, torch.zeros(4, 2, 1, 3)), "weight must be [out, in, 1, 1]"),
    "weight rank": ((X, torch.zeros(3)), "weight must be [out, in, 1, 1]"),
    "channels": (
        (X, torch.zeros(4, 3, 3, 3)),
        "weight must have x's 2 input channels, got 3 of weight [4, 3, 3, 3]",
    ),
    "bias": ((X, W, torch.zeros(5)), "bias must be [out] = [4], got [5]"),
    "dtype": ((X, W.bfloat16()), "weight must have x's dtype torch.float32, got torch.bfloat16"),
    "bias dtype": (
        (X, W, torch.zeros(4).double()),
        "bias must have x's dtype torch.float32, got torch.float64",
    ),
    "device": ((X, W.to("meta")), "weight must be on x's device cpu, got meta"),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(op, case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match="^" + re.escape(f"{op}: {message}")) as caught:
        OPS[op](*arguments)
    assert "\n" not in str(caught.value)


def test_bad_input_of_one_op_is_named():
    with pytest.raises(ValueError, match=r"upsample_conv: weight must be \[4 out, in, 2, 2\]"):
        upsample_conv(X, torch.zeros(5, 2, 2, 2))
    with pytest.raises(
        ValueError,
        match=r"upsample_conv: weight must have x's 2 input channels, got 4 of weight \[4, 2, 4, 4\]",
    ):
        upsample_conv(X, torch.zeros(4, 2, 4, 4))
    with pytest.raises(
        ValueError, match=r"conv_downsample: x must have even height and width, got \[1, 2, 3, 4\]"
    ):
        conv_downsample(X[:, :, :3], W)
    with pytest.raises(
        ValueError, match=r"conv_downsample: x must have even height and width, got \[1, 2, 4, 1\]"
    ):
        conv_downsample(X[..., :1], W)


def test_bad_input_is_named_in_compiled_code():
    # a compiler wraps what is raised while it traces; the text is the same
    with pytest.raises(Exception, match="conv_downsample: x must have even height and width"):
        torch.compile(conv_downsample, fullgraph=True, backend="eager")(X[:, :, :3], W)


def test_layer_distance_is_in_octaves():
    entry = {"in": 64, "out": 64, "size": 16}
    assert resample._distance(entry, 128, 64, 8) == pytest.approx(2) and math.isclose(
        resample._distance(entry, 64, 64, 16), 0
    )
