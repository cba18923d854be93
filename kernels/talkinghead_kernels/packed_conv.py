"""Convolutions of packed weights: reordered once to the layout that the CPU's convolution reads.

torch reorders a weight in every call, which takes a third of the time for the deep layers of a generator at
batch 1. Weights are packed for oneDNN; most 3x3 weights in float32 are packed for `winograd`, which takes a
half to a third of the time and four times the memory.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .registration import is_transformed
from .winograd import is_faster, transform, uses_native_kernel, winograd

# Functions, because not every build of torch has these names.
_ONEDNN_SUPPORT: dict[torch.dtype, Callable[[], bool]] = {
    torch.float32: lambda: True,
    torch.bfloat16: lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    clamp: tuple[float, float] | None = None,
) -> Tensor:
    """Compute torch's conv2d, of a packed weight too.

    Args:
        x: [B, C, H, W].
        weight: [out, C / groups, k, k], or the result of `pack`.
        bias: [out] or None.
        stride, padding, groups: those that a packed weight was packed for.
        clamp: bounds of the result; with a packed weight they cost nothing.

    Returns:
        [B, out, H', W'].

    Raises:
        ValueError: an argument does not fit a weight packed for `winograd`; the message names it.
        NotImplementedError: a weight packed for oneDNN under forward-mode differentiation, `torch.func` or
            vmap.
    """
    if _for_winograd(weight):
        return winograd(x, weight, bias, clamp)
    if not weight.is_mkldnn:
        y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        return y if clamp is None else y.clamp(*clamp)
    _refuse_transforms("conv2d")
    post_op, bounds = ("none", []) if clamp is None else ("hardtanh", list(clamp))
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, post_op, bounds, ""
    )


def _refuse_transforms(op: str) -> None:
    if not torch.compiler.is_compiling() and is_transformed():
        raise NotImplementedError(
            f"{op}: a packed weight has no forward-mode differentiation, torch.func or vmap; pass the plain "
            "weight"
        )


def is_packed(weight: Tensor) -> bool:
    """Return whether a weight is packed, for oneDNN or for `winograd`."""
    return weight.is_mkldnn or _for_winograd(weight)


def kernel_size(weight: Tensor) -> int:
    """Return the height and width of the kernels of a weight, packed or not."""
    return 3 if _for_winograd(weight) else weight.shape[2]


def _for_winograd(weight: Tensor) -> bool:
    return weight.dim() == 3 and weight.shape[0] == 36


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Compute torch's conv_transpose2d, of a packed weight too.

    The weight is [C, out, k, k] before packing; the other arguments are as for `conv2d`.
    """
    if not weight.is_mkldnn:
        if _accumulates_narrowly(x):
            wide_bias = None if bias is None else bias.float()
            return F.conv_transpose2d(x.float(), weight.float(), wide_bias, stride, padding).to(x.dtype)
        return F.conv_transpose2d(x, weight, bias, stride, padding)
    _refuse_transforms("conv_transpose2d")
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, weight, bias, [padding] * 2, [0, 0], [stride] * 2, [1, 1], 1, "none", [], ""
    )


def _accumulates_narrowly(x: Tensor) -> bool:
    """Return whether torch's transposed convolution would accumulate in the low precision of its input.

    It does so on CPUs for which oneDNN lacks the precision. An exported graph is for other machines, so it is
    the same wherever it is made.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    return x.dtype in _ONEDNN_SUPPORT and not _onednn_supports(x.dtype)


def _onednn_supports(dtype: torch.dtype) -> bool:
    return torch.backends.mkldnn.is_available() and dtype in _ONEDNN_SUPPORT and _ONEDNN_SUPPORT[dtype]()


# A constant to torch.compile. torch.compiler.assume_constant_result would import the whole compiler here.
_onednn_supports._dynamo_marked_constant = True  # type: ignore[attr-defined]


def pack(
    weight: Tensor,
    x: Sequence[int],
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    transposed: bool = False,
    exportable: bool = False,
) -> Tensor:
    """Return a weight packed for inference with channels_last maps.

    A weight is returned unchanged where its device or this build of torch has no packed form.

    Args:
        weight: as for `conv2d` or, if transposed, `conv_transpose2d`.
        x: shape [B, C, H, W] of the maps; other shapes give the same result, though not as fast.
        stride, padding, groups: of the convolution; a transposed one has a single group.
        exportable: pack only to forms that can be exported, copied and saved; oneDNN's cannot.
    """
    cpu = weight.device.type == "cpu"
    if (
        cpu
        and weight.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and (stride, padding, groups, transposed) == (1, 1, 1, False)
    ):
        batch, inputs, height, width = x
        if uses_native_kernel() and is_faster(inputs, weight.shape[0], batch, height, width):
            return transform(weight)
    if exportable or not (cpu and _onednn_supports(weight.dtype)):
        return weight
    weight = weight.detach().contiguous()
    if transposed:
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, padding, 0, stride, 1, 1, list(x)
        )
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, 1, groups, list(x))
