"""Decompositions of the functional ops to ATen, for exporters and for runtimes without these ops."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .attention import torch_attention
from .formats import stats_dtype
from .rasterize import draw_polylines_float32
from .spectral_norm import normalise_reference
from .warp_by_landmarks import landmark_motion_reference, warp_reference


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Return each op in plain ATen, for `torch.export.ExportedProgram.run_decompositions`.

    `torch.export.export(module, ...).run_decompositions(decompositions())` contains no op of this package and
    can be used like any ATen graph, for example by `torch.onnx.export`. Ops that mutate are for training and
    have no decomposition, nor has the convolution of weights packed by `pack`: export plain ones.
    """
    ops = torch.ops.talkinghead
    return {
        ops.adain.default: _adain,
        ops.add_adain.default: _add_adain,
        ops.normalise.default: _normalise,
        ops.attention.default: _attention,
        ops.draw_polylines.default: draw_polylines_float32,
        ops.draw_landmarks.default: draw_polylines_float32,  # the old name of draw_polylines
        ops.landmark_motion.default: landmark_motion_reference,
        ops.warp.default: warp_reference,
    }


def _adain(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    # Layer norm over a plane is a single op in ATen and in ONNX, for any batch.
    planes = x.to(stats_dtype(x)).flatten(2)
    normal, mean, rstd = torch.native_layer_norm(planes, planes.shape[2:], None, None, eps)
    y = (normal.view(x.shape) * scale[..., None, None] + bias[..., None, None]).to(x.dtype)
    return torch.relu(y) if activation == "relu" else y, mean.squeeze(2), rstd.squeeze(2)


def _add_adain(
    x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = x + residual
    y, mean, rstd = _adain(h, scale, bias, eps, activation)
    return y, h, mean, rstd


def _normalise(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[str],
    dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor]:
    pairs = [
        normalise_reference(weight, u, v, eps, form)
        for weight, u, v, form in zip(weights, us, vs, forms, strict=True)
    ]
    outputs = []
    for weight, _ in pairs:
        memory_format = (
            torch.channels_last if channels_last and weight.dim() == 4 else torch.contiguous_format
        )
        outputs.append(weight.to(dtype or weight.dtype).contiguous(memory_format=memory_format))
    vectors = [vector for pair in zip(us, vs, strict=True) for vector in pair]
    return outputs, torch.cat([torch.stack([sigma for _, sigma in pairs]), *vectors])


def _attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    dtype = stats_dtype(query)
    return torch_attention(query, key, value), torch.logsumexp(query.to(dtype) @ key.to(dtype).mT, 2)
