"""Inputs and a baseline for the tests of AdaIN."""

import torch

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (2, 16, 32, 32), (1, 512, 4, 4), (1, 3, 96, 100), (3, 50, 30, 31)]

FORMATS = [torch.contiguous_format, torch.channels_last]


def plain(h, scale, bias, activation, eps=1e-4):
    """Compute AdaIN in plain torch, in the dtype of the tensors."""
    var, mean = torch.var_mean(h, (2, 3), correction=0, keepdim=True)
    y = (h - mean) * torch.rsqrt(var + eps) * scale[..., None, None] + bias[..., None, None]
    return torch.relu(y) if activation else y


def inputs(shape, dtype, memory_format=torch.contiguous_format, device="cpu"):
    """Return x, residual, scale, bias and two gradients."""
    torch.manual_seed(0)
    large = [torch.randn(shape).to(dtype).contiguous(memory_format=memory_format) for _ in range(4)]
    small = [torch.randn(shape[:2]).to(dtype) for _ in range(2)]
    x, residual, grad_y, grad_h, scale, bias = (t.to(device) for t in (*large, *small))
    return x, residual, scale, bias, grad_y, grad_h
