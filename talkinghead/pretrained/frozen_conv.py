"""Convolutions with fixed weights, which are cast and packed once; they compute the gradient of their input
only.
"""

from typing import Any, cast

import talkinghead_kernels as ops
import torch
from torch import Tensor, nn


class FrozenConvolution(nn.Module):
    """A convolution and a clamp of its result, fused where the device has such a kernel; in autocast's dtype
    where autocast is on.

    Args:
        weight, bias: [out, in / groups, k, k] and [out] or None.
        stride, padding, groups: as for `torch.nn.Conv2d`.
        clamp: bounds of the result, such as (0, 6) for ReLU6; None does not clamp.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        clamp: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.stride, self.padding, self.groups, self.clamp = stride, padding, groups, clamp
        self._packed_weights: dict[
            tuple[torch.device, torch.dtype], tuple[Tensor, Tensor | None, Tensor]
        ] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, in, H, W] to [B, out, H', W']."""
        device_type = x.device.type
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        return cast(Tensor, _Convolve.apply(x, self))

    def packed_weights(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the packed weight for inputs like x, the bias, and the weight for the gradient, from a cache
        for each device and dtype.
        """
        key = x.device, x.dtype
        if key not in self._packed_weights:
            weight = self.weight.to(x.dtype)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            packed = ops.pack(weight, x.shape, stride=self.stride, padding=self.padding, groups=self.groups)
            self._packed_weights[key] = packed, bias, weight
        return self._packed_weights[key]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out packed weights, which cannot be copied."""
        return {**self.__dict__, "_packed_weights": {}}


class _Convolve(torch.autograd.Function):
    """The convolution of a `FrozenConvolution`, whose backward computes the gradient of the input only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenConvolution) -> Tensor:
        weight, bias, _ = layer.packed_weights(x)
        y = ops.conv2d(
            x,
            weight,
            bias,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            clamp=layer.clamp,
        )
        ctx.layer = layer
        # the clamped result is enough to know where the clamp was active
        ctx.save_for_backward(x, *(() if layer.clamp is None else (y,)))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer, (x, *clamped) = ctx.layer, ctx.saved_tensors
        if clamped:
            grad = torch.ops.aten.hardtanh_backward(grad, clamped[0], *layer.clamp)
        weight = layer.packed_weights(x)[2]
        dtype = x.dtype
        if layer.groups > 1 and layer.stride > 1 and dtype != torch.float32 and x.device.type == "cpu":
            # In 16 bits a CPU takes ten times as long for a strided depthwise convolution. Only the shape of
            # x matters.
            x = torch.empty_like(x, dtype=torch.float32)
            weight, grad = weight.float(), grad.float()
        geometry = [layer.stride] * 2, [layer.padding] * 2, [1, 1]
        input_grad = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *geometry, False, [0, 0], layer.groups, [True, False, False]
        )[0]
        return input_grad.to(dtype), None
