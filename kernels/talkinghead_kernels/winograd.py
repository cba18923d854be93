"""3x3 convolution of stride 1 and padding 1 by Winograd's F(4x4, 3x3), for inference.

It takes 36 multiplications per tile and channel instead of 144.

    y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

d [6, 6] is a tile of the input, which overlaps its neighbours by 2, g [3, 3] the kernel, and y [4, 4] the
tile of the output. The interpolation points are 0, +-sqrt(1/2), +-sqrt(2) and infinity: with the usual 0,
+-1, +-2 the error is twice as large. G g G^T is computed once, in float64; everything else is float32. The
kernel is C++; where it is missing, or "reference" is chosen, the formula runs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, extension
from .registration import is_transformed, register

_PANEL = 32
"""The number of output channels in a panel of the kernel's weight layout."""

_NEAR, _FAR = math.sqrt(0.5), math.sqrt(2.0)
_INPUTS = torch.tensor(
    [
        [1, 0, -2.5, 0, 1, 0],
        [0, -2 * _NEAR, -2, _NEAR, 1, 0],
        [0, 2 * _NEAR, -2, -_NEAR, 1, 0],
        [0, -_FAR / 2, -0.5, _FAR, 1, 0],
        [0, _FAR / 2, -0.5, -_FAR, 1, 0],
        [0, 1, 0, -2.5, 0, 1],
    ],
    dtype=torch.float64,
)
"""B^T."""
_WEIGHTS = torch.tensor(
    [
        [1, 0, 0],
        [-2 / 3, -2 / 3 * _NEAR, -1 / 3],
        [-2 / 3, 2 / 3 * _NEAR, -1 / 3],
        [1 / 6, 1 / 6 * _FAR, 1 / 3],
        [1 / 6, -1 / 6 * _FAR, 1 / 3],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
"""G."""
_OUTPUTS = torch.tensor(
    [
        [1, 1, 1, 1, 1, 0],
        [0, _NEAR, -_NEAR, _FAR, -_FAR, 0],
        [0, 0.5, 0.5, 2, 2, 0],
        [0, _NEAR / 2, -_NEAR / 2, 2 * _FAR, -2 * _FAR, 1],
    ],
    dtype=torch.float64,
)
"""A^T."""


def transform(weight: Tensor) -> Tensor:
    """Return G g G^T of every kernel, in the layout that `winograd` takes.

    Args:
        weight: [out, in, 3, 3], floating point.

    Returns:
        [36, in, out], float32, contiguous. Each of the 36 matrices consists of panels of 32 output channels,
        each with all input channels; the last panel may have fewer output channels.
    """
    outputs, inputs = weight.shape[:2]
    transformed = torch.einsum("pi,ocij,qj->pqco", _WEIGHTS, weight.detach().double(), _WEIGHTS)
    transformed = transformed.float().reshape(36, inputs, outputs)
    return torch.cat([panel.flatten(1) for panel in transformed.split(_PANEL, 2)], 1).view(
        36, inputs, outputs
    )


def winograd_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution in channels_last, by the formula in plain torch."""
    return _formula(x, weight, bias).contiguous(memory_format=torch.channels_last)


def _formula(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    inputs, outputs = weight.shape[1:]
    widths = [min(_PANEL, outputs - begin) for begin in range(0, outputs, _PANEL)]
    panels = weight.flatten(1).split([inputs * width for width in widths], 1)
    weight = torch.cat(
        [panel.view(36, inputs, width) for panel, width in zip(panels, widths, strict=True)], 2
    )
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1 + -width % 4, 1, 1 + -height % 4))
    tiles = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # [B, C, down, across, 6, 6]
    input_matrix, output_matrix = _INPUTS.to(x.dtype), _OUTPUTS.to(x.dtype)
    inputs_by_point = (input_matrix @ tiles @ input_matrix.mT).permute(4, 5, 0, 2, 3, 1)
    products = torch.bmm(inputs_by_point.reshape(36, -1, inputs), weight)
    products = products.view(*inputs_by_point.shape[:5], outputs)
    products = products.permute(2, 5, 3, 0, 4, 1).transpose(3, 4)
    output_tiles = output_matrix @ products @ output_matrix.mT  # [B, out, down, across, 4, 4]
    y = output_tiles.transpose(3, 4).flatten(4).flatten(2, 3)[:, :, :height, :width]
    return y if bias is None else y + bias[:, None, None]


def winograd(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, clamp: tuple[float, float] | None = None
) -> Tensor:
    """Compute a 3x3 convolution, stride 1, padding 1, of a transformed weight; not differentiable.

    A NaN or infinity spreads to its whole tile.

    Args:
        x: [B, in, H, W], float32 on the CPU.
        weight: [36, in, out] from `transform`.
        bias: [out], float32, or None.
        clamp: bounds of the result.

    Returns:
        [B, out, H, W], channels_last.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    low, high = (None, None) if clamp is None else clamp
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        return _WINOGRAD(x, weight, bias, low, high)
    run = _WINOGRAD if compiling else _run  # the dispatcher takes as long as a small layer
    y: Tensor = run(x.detach(), weight, None if bias is None else bias.detach(), low, high)
    return y


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if (
        x.dim() != 4
        or x.dtype != torch.float32
        or x.device.type != "cpu"
        or x.shape[1:2] != weight.shape[1:2]
    ):
        expected = f"float32 [B, {weight.shape[1]}, H, W] on cpu"
        raise ValueError(f"winograd: x must be {expected}, got {x.dtype} {list(x.shape)} on {x.device.type}")
    outputs = weight.shape[2]
    if bias is not None and (
        tuple(bias.shape) != (outputs,) or bias.dtype != torch.float32 or bias.device.type != "cpu"
    ):
        raise ValueError(
            f"winograd: bias must be float32 [out] = [{outputs}] on cpu, got {bias.dtype} "
            f"{list(bias.shape)} on {bias.device.type}"
        )


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, low: float | None, high: float | None) -> Tensor:
    _check(x, weight, bias)
    if not uses_native_kernel():
        y = winograd_reference(x, weight, bias)
        return y if low is None and high is None else y.clamp(low, high)
    y = _fake(x, weight, bias, low, high)
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.ops.talkinghead_native.winograd_forward(
        x, weight, None if bias is None else bias.contiguous(), low, high, y
    )
    return y


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, low: float | None, high: float | None) -> Tensor:
    _check(x, weight, bias)
    return torch.empty(
        (x.shape[0], weight.shape[2], *x.shape[2:]),
        dtype=torch.float32,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _run_formula(
    x: Tensor, weight: Tensor, bias: Tensor | None, low: float | None, high: float | None
) -> Tensor:
    _check(x, weight, bias)
    y = _formula(x, weight, bias)
    return y if low is None and high is None else y.clamp(low, high)


_WINOGRAD = register(
    "winograd(Tensor x, Tensor weight, Tensor? bias, float? low, float? high) -> Tensor",
    _run,
    _fake,
    _run_formula,
    refusal="is for inference and has no gradient; convolve with the original weight instead",
)


def uses_native_kernel() -> bool:
    """Return whether the kernel is built and no other backend is chosen."""
    # The other backends have no kernel, but networks must run on them: use the formula there.
    return (
        backend.current() in (None, "cpp") and extension.unavailable_reason("cpu", "winograd_forward") is None
    )


def is_faster(inputs: int, outputs: int, batch: int, height: int, width: int) -> bool:
    """Return whether the kernel is faster than oneDNN's direct convolution.

    It is if there are enough channels for vectors, and enough tiles to share the loads of weights.
    """
    tiles = batch * math.ceil(height / 4) * math.ceil(width / 4)
    return min(inputs, outputs) >= 8 and tiles >= (4 if inputs * outputs <= 1 << 16 else 16)
