"""Convolutions of packed weights: laid out once as the CPU's convolution reads them, and not again in every call.

torch lays a weight out anew whenever it convolves, which for the deep layers of a generator at batch 1 is a third of the time. Packing is
for oneDNN or, of most 3x3 weights in float32, for `winograd`, which takes a half to a third of the time and four times the memory.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .registration import is_transformed
from .winograd import is_faster, native_runs, transform, winograd

_ABLE: dict[torch.dtype, Callable[[], bool]] = {
    torch.float32: lambda: True,
    torch.bfloat16: lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),  # not every build of torch has the name
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
    """torch's conv2d, of a packed weight too.

    Args:
        x: [B, C, H, W].
        weight: [out, C / groups, k, k], or what `pack` made of it.
        bias: [out] or None.
        stride, padding, groups: the ones the weight was packed for, where it was.
        clamp: bounds of the result; with a packed weight they cost nothing.

    Returns:
        [B, out, H', W'].

    Raises:
        ValueError: an argument does not fit a weight packed for `winograd`; the message names it.
        NotImplementedError: a weight packed for oneDNN under forward-mode differentiation, `torch.func` or vmap.
    """
    if _for_winograd(weight):
        return winograd(x, weight, bias, clamp)
    if not weight.is_mkldnn:
        y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        return y if clamp is None else y.clamp(*clamp)
    _refuse_transforms("conv2d")
    after, bounds = ("none", []) if clamp is None else ("hardtanh", list(clamp))
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, after, bounds, "")


def _refuse_transforms(op: str) -> None:
    if not torch.compiler.is_compiling() and is_transformed():
        raise NotImplementedError(f"{op}: a packed weight knows no forward-mode differentiation, torch.func or vmap; give the plain one")


def is_packed(weight: Tensor) -> bool:
    """Whether `pack` laid the weight out, for oneDNN or for `winograd`."""
    return weight.is_mkldnn or _for_winograd(weight)


def kernel_size(weight: Tensor) -> int:
    """Height and width of the kernels of a weight, packed or not."""
    return 3 if _for_winograd(weight) else weight.shape[2]


def _for_winograd(weight: Tensor) -> bool:
    return weight.dim() == 3 and weight.shape[0] == 36


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """torch's conv_transpose2d, of a packed weight too; weight [C, out, k, k] before it was packed, and the rest as for `conv2d`."""
    if not weight.is_mkldnn:
        return F.conv_transpose2d(x, weight, bias, stride, padding)
    _refuse_transforms("conv_transpose2d")
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, weight, bias, [padding] * 2, [0, 0], [stride] * 2, [1, 1], 1, "none", [], ""
    )


def pack(
    weight: Tensor,
    x: Sequence[int],
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    transposed: bool = False,
    exportable: bool = False,
) -> Tensor:
    """A weight for inference alone, for maps in channels_last; as it is where this device or build of torch has no packed form.

    Args:
        weight: as `conv2d` or, if transposed, `conv_transpose2d` takes it.
        x: shape [B, C, H, W] of the maps it is for; it gives the same for others, if not as fast.
        stride, padding, groups: of the convolution; a transposed one has a single group.
        exportable: only in forms that can be exported, copied and saved; oneDNN's cannot.
    """
    cpu = weight.device.type == "cpu"
    if cpu and weight.dtype == torch.float32 and weight.shape[2:] == (3, 3) and (stride, padding, groups, transposed) == (1, 1, 1, False):
        batch, inputs, height, width = x
        if native_runs() and is_faster(inputs, weight.shape[0], batch, height, width):
            return transform(weight)
    able = cpu and torch.backends.mkldnn.is_available() and weight.dtype in _ABLE and _ABLE[weight.dtype]()
    if exportable or not able:
        return weight
    weight = weight.detach().contiguous()
    if transposed:
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, padding, 0, stride, 1, 1, list(x))
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, 1, groups, list(x))
