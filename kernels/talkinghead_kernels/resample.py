"""Resampling folded into the weights of the adjacent convolution: exact, with fewer multiplications.

    nearest x2, conv 3x3      = transposed convolution 4x4, stride 2, padding 1, with the box-summed, flipped
                              kernel
                              = convolution 2x2, padding 1, to 4 times the channels, then pixel shuffle and a
                              crop by 1
    conv 3x3, average-pool 2  = convolution 4x4, stride 2, padding 1, with the box-summed kernel / 4
    1x1 convolutions commute with both and run at the lower resolution

The box sum adds the kernel to its copies shifted by one row, one column and both. The fastest form depends on
the machine and the layer: `choose_form` looks it up in resample_forms.json, which is measured by
`python -m bench.kernels.tune_resample`. Weights may also be folded already, as written by `normalise`.
"""

import json
import math
import operator
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_features import cpu_features
from .packed_conv import conv2d, conv_transpose2d, is_packed, kernel_size
from .registration import is_transformed

FORMS: dict[str, Callable[[int, int], tuple[int, int, int, int]]] = {
    "plain": lambda outputs, inputs: (outputs, inputs, 3, 3),
    "upsample": lambda outputs, inputs: (inputs, outputs, 4, 4),
    "upsample_shuffle": lambda outputs, inputs: (4 * outputs, inputs, 2, 2),
    "downsample": lambda outputs, inputs: (outputs, inputs, 4, 4),
}
"""The forms that a weight [out, in, 3, 3] may be folded to, and its shape in each."""

CANDIDATES = {
    "upsample_conv": ("upsample", "upsample_shuffle", "plain"),
    "conv_downsample": ("downsample", "plain"),
}
"""The forms of each op; the first is the default where nothing was measured."""

CPU_CLASSES = ("cpu-amx", "cpu-avx512_bf16", "cpu-avx512", "cpu-avx2", "cpu")
TABLE = Path(__file__).parent / "resample_forms.json"


def fold(weight: Tensor, form: str, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Return a weight [out, in, 3, 3] in one of `FORMS`; "plain" returns any weight unchanged.

    `memory_format` is a preference, which the CPU applies in the same pass and other devices ignore.
    """
    if form == "plain":
        return weight
    if weight.device.type != "cpu":
        return _fold_directly(weight, form)
    # On a CPU, passes over 3x3 and 4x4 planes take longer than a deep layer's convolution; one matrix product
    # from nine taps to 16 does not.
    matrix = _fold_matrix(weight, form)
    taps = (weight.contiguous().transpose(0, 1) if form == "upsample" else weight).flatten(2)
    outer, inner = taps.shape[:2]
    if memory_format == torch.channels_last:
        folded = torch.bmm(matrix.T.expand(outer, 16, 9), taps.transpose(1, 2))
        if form == "upsample_shuffle":
            return folded.view(outer, 4, 2, 2, inner).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return folded.view(outer, 4, 4, inner).permute(0, 3, 1, 2)
    folded = torch.bmm(taps, matrix.expand(outer, 9, 16)).view(outer, inner, 4, 4)
    return folded.transpose(1, 2).reshape(4 * outer, inner, 2, 2) if form == "upsample_shuffle" else folded


def fold_adjoint(grad: Tensor, form: str) -> Tensor:
    """Return the gradient of a weight [out, in, 3, 3] from that of the folded weight."""
    if form == "plain":
        return grad
    if grad.device.type == "cpu":
        grad = grad.unflatten(0, (-1, 4)).transpose(1, 2) if form == "upsample_shuffle" else grad
        taps = grad.contiguous().flatten(2)
        unfolded = torch.bmm(taps, _fold_matrix(grad, form).T.expand(taps.shape[0], 16, 9)).unflatten(
            2, (3, 3)
        )
        return unfolded.transpose(0, 1) if form == "upsample" else unfolded
    return _fold_adjoint_directly(grad, form)


def _fold_adjoint_directly(grad: Tensor, form: str) -> Tensor:
    if form == "upsample":
        return _box_adjoint(grad.transpose(0, 1).flip(2, 3))
    if form == "downsample":
        return _box_adjoint(grad) / 4
    grad = grad.unflatten(0, (-1, 2, 2))
    columns = _pair_adjoint(grad[:, :, 0], grad[:, :, 1], 4)
    return _pair_adjoint(columns[:, 0], columns[:, 1], 2)


def _fold_matrix(like: Tensor, form: str) -> Tensor:
    """Return the matrix [9, 16] of `fold`: the folded form of each of the nine unit kernels."""
    units = torch.eye(9, dtype=like.dtype, device=like.device).view(9, 1, 3, 3)
    return _fold_directly(units, form).reshape(9, 16)


def _fold_directly(weight: Tensor, form: str) -> Tensor:
    if form == "upsample":
        return (4 * F.avg_pool2d(weight, 2, stride=1, padding=1)).flip(2, 3).transpose(0, 1)
    if form == "downsample":
        return F.avg_pool2d(weight, 2, stride=1, padding=1)
    # Channel 4 * out + 2 * row + column is the kernel of the pixel at (row, column) of each 2x2 group that
    # pixel shuffle writes.
    rows = torch.stack([_sum_first_two(weight, 2), _sum_last_two(weight, 2)], 1)
    kernels = torch.stack([_sum_first_two(rows, 4), _sum_last_two(rows, 4)], 2)
    return kernels.flatten(0, 2)


def _sum_first_two(weight: Tensor, dim: int) -> Tensor:
    first, second, third = weight.unbind(dim)
    return torch.stack([first + second, third], dim)


def _sum_last_two(weight: Tensor, dim: int) -> Tensor:
    first, second, third = weight.unbind(dim)
    return torch.stack([first, second + third], dim)


def _box_adjoint(grad: Tensor) -> Tensor:
    rows = grad[..., :-1, :] + grad[..., 1:, :]
    return rows[..., :-1] + rows[..., 1:]


def _pair_adjoint(early: Tensor, late: Tensor, dim: int) -> Tensor:
    (a, c), (d, e) = early.unbind(dim), late.unbind(dim)
    return torch.stack([a + d, a + e, c + e], dim)


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return conv(nearest_x2(x)) with same padding.

    Args:
        x: [B, C, H, W], floating point.
        weight: [out, C, k, k], k = 1 or 3, or folded: [C, out, 4, 4] ("upsample") or [4 out, C, 2, 2]
            ("upsample_shuffle"). x's dtype, except under autocast. May be packed, see `pack`.
        bias: [out] or None.

    Returns:
        [B, out, 2H, 2W].

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    _check("upsample_conv", x, weight, bias, {1: "plain", 2: "upsample_shuffle", 3: "plain", 4: "upsample"})
    kernel = kernel_size(weight)
    if kernel == 1:
        return F.interpolate(conv2d(x, weight, bias), scale_factor=2.0, mode="nearest")
    if kernel == 3:
        return apply_form("upsample_conv", _choose_form("upsample_conv", x, weight), x, weight, bias)
    return (
        _upsample_by_transposed_conv(x, weight, bias)
        if kernel == 4
        else _upsample_by_pixel_shuffle(x, weight, bias)
    )


def conv_downsample(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return average_pool_2x2(conv(x)) with same padding.

    Args:
        x: [B, C, H, W], floating point, H and W even.
        weight: [out, C, k, k], k = 1 or 3, or folded: [out, C, 4, 4] ("downsample"). x's dtype, except under
            autocast.
        bias: [out] or None.

    Returns:
        [B, out, H/2, W/2].

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    _check("conv_downsample", x, weight, bias, {1: "plain", 3: "plain", 4: "downsample"})
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"conv_downsample: x must have even height and width, got {list(x.shape)}")
    kernel = kernel_size(weight)
    if kernel == 1:
        return conv2d(F.avg_pool2d(x, 2), weight, bias)
    if kernel == 3:
        return apply_form("conv_downsample", _choose_form("conv_downsample", x, weight), x, weight, bias)
    return conv2d(x, weight, bias, stride=2, padding=1)


def apply_form(op: str, form: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return "upsample_conv" or "conv_downsample" of a weight [out, in, 3, 3], computed in one form.

    `form` is one of the op's `CANDIDATES`.
    """
    if form == "plain" and op == "upsample_conv":
        return conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    if form == "plain":
        return F.avg_pool2d(conv2d(x, weight, bias, padding=1), 2)
    folded = fold(
        weight,
        form,
        torch.channels_last if _channels_last(x) or _channels_last(weight) else torch.contiguous_format,
    )
    if form == "downsample":
        return conv2d(x, folded, bias, stride=2, padding=1)
    return (
        _upsample_by_transposed_conv(x, folded, bias)
        if form == "upsample"
        else _upsample_by_pixel_shuffle(x, folded, bias)
    )


def _upsample_by_transposed_conv(x: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    return conv_transpose2d(x, folded, bias, stride=2, padding=1)


def _upsample_by_pixel_shuffle(x: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    y = conv2d(x, folded, None if bias is None else bias.repeat_interleave(4), padding=1)
    memory_format = torch.channels_last if _channels_last(y) else torch.contiguous_format
    return F.pixel_shuffle(y, 2)[:, :, 1:-1, 1:-1].contiguous(memory_format=memory_format)


def _channels_last(x: Tensor) -> bool:
    if not torch.compiler.is_compiling() and is_transformed():  # vmap has no memory formats
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, forms: dict[int, str]) -> None:
    """Check the arguments of an op; `forms` is the form of a weight of each kernel size."""
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"{op}: x must be a floating-point [B, C, H, W], got {x.dtype} {list(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{op}: x must not be empty, got {list(x.shape)}")
    if is_packed(weight):  # `pack` checked it
        return
    kernel = weight.shape[-1]
    if weight.dim() != 4 or weight.shape[2] != kernel or kernel not in forms:
        raise ValueError(
            f"{op}: weight must be [out, in, 1, 1], [out, in, 3, 3] or folded ({_folded_shapes(forms)}), got "
            f"{list(weight.shape)}"
        )
    form = forms[kernel]
    inputs, outputs = (
        (weight.shape[0], weight.shape[1]) if form == "upsample" else (weight.shape[1], weight.shape[0])
    )
    if form == "upsample_shuffle":
        if outputs % 4:
            raise ValueError(
                f"{op}: weight must be [4 out, in, 2, 2] where it is folded to 2x2, got {list(weight.shape)}"
            )
        outputs //= 4
    if inputs != x.shape[1]:
        raise ValueError(
            f"{op}: weight must have x's {x.shape[1]} input channels, got {inputs} of weight "
            f"{list(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"{op}: bias must be [out] = [{outputs}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {tensor.device}")
        if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{op}: {name} must have x's dtype {x.dtype}, got {tensor.dtype}")


def _folded_shapes(forms: dict[int, str]) -> str:
    shapes = {
        "upsample": "[in, out, 4, 4]",
        "upsample_shuffle": "[4 out, in, 2, 2]",
        "downsample": "[out, in, 4, 4]",
    }
    return " or ".join(shapes[form] for form in forms.values() if form != "plain")


def _choose_form(op: str, x: Tensor, weight: Tensor) -> str:
    if is_packed(weight):  # packed weights cannot be folded
        return "plain"
    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    # operator.index makes them constants to a compiler, even if it treats sizes as dynamic.
    outputs, inputs, height, width = map(operator.index, (*weight.shape[:2], *x.shape[2:]))
    return choose_form(
        op, inputs, outputs, height, width=width, dtype=dtype, device=x.device, training=training
    )


def choose_form(
    op: str,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    training: bool = False,
) -> str:
    """Return the fastest form of a 3x3 layer on a device, from resample_forms.json.

    The result depends on the arguments only. A layer that is not in the table takes the form of the nearest
    layer that is, the first of equally near ones; the distance is the sum of |log2| of the ratios of in, out
    and sqrt(height * width). A dtype that is not in the table uses the entries of bfloat16 if it has 16 bits,
    else those of float32. If a device class is not in the table, a CPU uses the next lower of `CPU_CLASSES`
    that is, else the next higher; a GPU uses the nearest lower sm_XY, else the nearest higher. If there is no
    entry, the form is the first of `CANDIDATES`, which has the fewest multiplications.

    Args:
        op: "upsample_conv" or "conv_downsample".
        inputs, outputs: channels.
        height, width: size of the op's input.
        dtype: dtype in which the convolution computes.
        device: device on which it runs.
        training: whether the time of the backward pass is included.
    """
    return _look_up_form(
        op,
        inputs,
        outputs,
        height,
        width=width,
        dtype=dtype,
        device=device_class(device),
        training=training,
    )


# A constant to torch.compile. torch.compiler.assume_constant_result would import the whole compiler here.
choose_form._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _look_up_form(
    op: str,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    device: str,
    training: bool,
) -> str:
    table = _table()
    known = _nearest_class(device, table)
    layers = [] if known is None else table[known]["layers"]
    layers = [layer for layer in layers if layer["op"] == op and layer["training"] == training]
    similar_dtypes = [torch.bfloat16] if dtype.itemsize == 2 else []
    for candidate in (dtype, *similar_dtypes, torch.float32):
        matching = [layer for layer in layers if layer["dtype"] == str(candidate).removeprefix("torch.")]
        if matching:
            size = math.sqrt(height * width)
            return min(matching, key=lambda layer: _distance(layer, inputs, outputs, size))["form"]
    return CANDIDATES[op][0]


@cache
def device_class(device: torch.device) -> str:
    """Return the key of a device in the table: "sm_90" and the like, one of `CPU_CLASSES`, or its type."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    if device.type != "cpu":
        return device.type
    level = torch.backends.cpu.get_cpu_capability()
    if level == "AVX512":
        features = cpu_features()
        if "amx_bf16" in features:
            return "cpu-amx"
        return "cpu-avx512_bf16" if "avx512_bf16" in features else "cpu-avx512"
    return "cpu-avx2" if level == "AVX2" else "cpu"


@cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text())


def _nearest_class(name: str, table: Iterable[str]) -> str | None:
    if name in table:
        return name
    if name in CPU_CLASSES:
        index = CPU_CLASSES.index(name)
        order: Iterable[str] = (*CPU_CLASSES[index + 1 :], *reversed(CPU_CLASSES[:index]))
    elif name.startswith("sm_"):
        number = int(name[3:])
        sms = [known for known in table if known.startswith("sm_")]
        order = sorted(sms, key=lambda known: (int(known[3:]) > number, abs(int(known[3:]) - number)))
    else:
        return None
    return next((known for known in order if known in table), None)


def _distance(entry: dict[str, Any], inputs: int, outputs: int, size: float) -> float:
    return sum(
        abs(math.log2(value / entry[name]))
        for name, value in (("in", inputs), ("out", outputs), ("size", size))
    )
