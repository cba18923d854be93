"""Convolutions that nothing learns: their weights are cast and packed once, and only the gradient of their input is ever asked for."""

from typing import Any, cast

import talkinghead_kernels as ops
import torch
from torch import Tensor, nn


class FrozenConvolution(nn.Module):
    """A convolution and the clamp behind it, in one pass where the device has one; of autocast's dtype where that is on.

    Args:
        weight, bias: [out, in / groups, k, k] and [out] or None.
        stride, padding, groups: as torch has them.
        clamp: bounds of the result, such as (0, 6) for ReLU6; None for none.
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
        self._ready: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor | None, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W']."""
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype)
        return cast(Tensor, _Convolve.apply(x, self))

    def ready(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Weight as the convolution of maps like x takes it, bias, and the weight of the gradient."""
        key = x.device, x.dtype
        if key not in self._ready:
            weight = self.weight.to(x.dtype)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            self._ready[key] = ops.pack(weight, x.shape, self.stride, self.padding, self.groups), bias, weight
        return self._ready[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}  # what is packed cannot be copied


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenConvolution) -> Tensor:
        weight, bias, _ = layer.ready(x)
        y = ops.conv2d(x, weight, bias, layer.stride, layer.padding, layer.groups, layer.clamp)
        ctx.layer = layer
        ctx.save_for_backward(x, *(() if layer.clamp is None else (y,)))  # the clamped result says as well where it was clamped
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer, (x, *clamped) = ctx.layer, ctx.saved_tensors
        if clamped:
            grad = torch.ops.aten.hardtanh_backward(grad, clamped[0], *layer.clamp)
        weight = layer.ready(x)[2]
        dtype = x.dtype
        if layer.groups > 1 and layer.stride > 1 and dtype != torch.float32 and x.device.type == "cpu":
            # there the gradient of a strided depthwise convolution takes ten times as long in two bytes
            x, weight, grad = torch.empty_like(x, dtype=torch.float32), weight.float(), grad.float()  # of x the shape alone is asked
        size = [layer.stride] * 2, [layer.padding] * 2, [1, 1]
        back = torch.ops.aten.convolution_backward(grad, x, weight, None, *size, False, [0, 0], layer.groups, [True, False, False])[0]
        return back.to(dtype), None
