"""The ops under `talkinghead`: functions of tensors that need torch only and know nothing of heads."""

from .adain import adain
from .attention import attention
from .backend import backends, use_backend
from .decompositions import decompositions
from .inverted_residual import InvertedResidualWeights, inverted_residual, pack_inverted_residual
from .packed_conv import conv2d, conv_transpose2d, pack
from .rasterize import draw_polylines
from .resample import conv_downsample, upsample_conv
from .residual_block import residual_block
from .spectral_norm import normalise, power_iteration_
from .warp_by_landmarks import landmark_motion, warp, warp_by_landmarks

__all__ = [
    "InvertedResidualWeights",
    "adain",
    "attention",
    "backends",
    "conv2d",
    "conv_downsample",
    "conv_transpose2d",
    "decompositions",
    "draw_polylines",
    "inverted_residual",
    "landmark_motion",
    "normalise",
    "pack",
    "pack_inverted_residual",
    "power_iteration_",
    "residual_block",
    "upsample_conv",
    "use_backend",
    "warp",
    "warp_by_landmarks",
]
