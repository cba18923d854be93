"""The ops under `talkinghead`: tensors in, tensors out. Nothing here knows of heads, and torch is all it needs."""

from .adain import adain
from .attention import attention
from .backend import backends, use_backend
from .convolution import conv2d, conv_transpose2d, pack
from .export import decompositions
from .rasterize import draw_landmarks
from .resample import conv_downsample, upsample_conv
from .residual_block import residual_block
from .spectral_norm import normalise, power_iteration_
from .warp_by_landmarks import landmark_motion, warp, warp_by_landmarks

__all__ = [
    "adain",
    "attention",
    "backends",
    "conv2d",
    "conv_downsample",
    "conv_transpose2d",
    "decompositions",
    "draw_landmarks",
    "landmark_motion",
    "normalise",
    "pack",
    "power_iteration_",
    "residual_block",
    "upsample_conv",
    "use_backend",
    "warp",
    "warp_by_landmarks",
]
