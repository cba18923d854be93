"""The extension built from `csrc/`: the schemas of its kernels, and loading it.

The schemas are defined here, so that C++ only registers implementations, one for CPU and one for CUDA.
Kernels write into tensors allocated by Python, after Python has checked shapes, devices and dtypes and made
planes and matrices contiguous.
"""

from functools import cache
from pathlib import Path

import torch

_SCHEMAS = (
    # x, residual, y, h: one of float32, bfloat16, float16, all NCHW-contiguous or all channels_last.
    # scale, bias: float32 or x's dtype, [B, C] of any first stride, 0 included, and second stride 1.
    # mean, rstd, grad_scale, grad_bias: float32 [B, C], contiguous.
    "adain_forward(Tensor x, Tensor? residual, Tensor scale, Tensor bias, float eps, bool relu,"
    " Tensor(a!) y, Tensor(b!)? h, Tensor(c!) mean, Tensor(d!) rstd) -> ()",
    "adain_backward(Tensor grad_y, Tensor? grad_h, Tensor h, Tensor scale, Tensor bias, Tensor mean, Tensor "
    "rstd, bool relu,"
    " Tensor(a!) grad_x, Tensor(b!) grad_scale, Tensor(c!) grad_bias) -> ()",
    # weights, us, vs, grad_weights: float32, contiguous. outputs and grads: any of the three dtypes,
    # NCHW-contiguous or channels_last. constants: float32 [L + sum(out + in)]: sigma of every layer before
    # clamping, then u, v of each.
    "power_iteration_(Tensor[] weights, Tensor(a!)[] us, Tensor(b!)[] vs, float eps) -> ()",
    "normalise_forward(Tensor[] weights, Tensor[] us, Tensor[] vs, float eps, int[] forms,"
    " Tensor(a!)[] outputs, Tensor(b!) constants) -> ()",
    "normalise_backward(Tensor[] grads, Tensor[] weights, Tensor constants, float eps, int[] forms, "
    "Tensor(a!)[] grad_weights) -> ()",
    # query, grad_query [B, N, d]; key, grad_key [B, M, d]; value, grad_value [B, M, e]; out, grad_out [B, N,
    # e]: one of the three dtypes, contiguous. lse: float32 [B, N], contiguous.
    "attention_forward(Tensor query, Tensor key, Tensor value, Tensor(a!) out, Tensor(b!) lse) -> ()",
    "attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse,"
    " Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value) -> ()",
    # x [B, in, H, W] and y [B, out, H, W]: float32, channels_last. weight [36, in, out]: float32, contiguous,
    # in the order of winograd.py. bias: float32 [out], contiguous. low, high: bounds of the result.
    "winograd_forward(Tensor x, Tensor weight, Tensor? bias, float low, float high, Tensor(a!) y) -> ()",
    # x [B, C, H, W] and y [B, O, H', W']: float32, channels_last. weights: float32, contiguous, in the order
    # of conv_sequence.py and inverted_residual.py. layers: four numbers each, as conv_sequence.py has them.
    "conv_sequence(Tensor x, Tensor[] weights, int[] layers, Tensor(a!) y) -> ()",
    # votes: float32 [B, 3 P, H, W], channels_last. around, points: float32 [B, P, 2], contiguous.
    "soft_argmax(Tensor votes, Tensor? around, float reach, Tensor(a!) points) -> ()",
    # images: uint8 [H, W, 3] each, rows contiguous. transforms: float64 [N, 2, 3], contiguous. result:
    # float32 [N, 3, size, size], channels_last.
    "warp_affine(Tensor[] images, Tensor transforms, Tensor(a!) result) -> ()",
    # points, image: float32, contiguous
    "draw_polylines(Tensor points, int[] indices, int[] lengths, int[] colours, Tensor(a!) image) -> ()",
    # source, target [B, N, 2], motion [B, 2, h, w] (square as the output of landmark_motion): float32,
    # contiguous. image, result, grad, grad_image: all NCHW-contiguous or all channels_last, one of the three
    # dtypes; grad_image is float32. grad_motion: like motion.
    "landmark_motion(Tensor source, Tensor target, Tensor(a!) motion) -> ()",
    "warp_forward(Tensor image, Tensor motion, Tensor(a!) result) -> ()",
    "warp_backward(Tensor grad, Tensor image, Tensor motion, Tensor(a!)? grad_image, Tensor(b!)? "
    "grad_motion) -> ()",
)
_LIBRARY = torch.library.Library("talkinghead_native", "DEF")
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)


@cache
def load() -> str | None:
    """Load the extension once, and return None, or the reason why it cannot be loaded."""
    paths = sorted(Path(__file__).parent.glob("_native*.so"))
    if not paths:
        return "the extension is not built; install with a C++ compiler at hand: pip install ."
    try:
        torch.ops.load_library(str(paths[0]))
    except OSError as error:
        return f"{paths[0].name} does not load: {str(error).splitlines()[0]}"
    return None


@cache
def unavailable_reason(device: str, kernel: str | None = None) -> str | None:
    """Return why the extension has no kernel of a name, or no kernel at all, for "cpu" or "cuda".

    None means that it has.
    """
    reason = load()
    if reason is not None:
        return reason
    key = device.upper()
    names = [kernel] if kernel else [schema[: schema.index("(")] for schema in _SCHEMAS]
    if any(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"talkinghead_native::{name}", key) for name in names
    ):
        return None
    return f"the extension was built without {f'{kernel} for {key}' if kernel else f'{key} kernels'}"
