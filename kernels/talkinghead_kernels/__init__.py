"""The ops under `talkinghead`: functions of tensors that need torch only and know nothing of heads."""

from .adain import adain
from .attention import attention
from .backend import backends, use_backend
from .conv_sequence import ConvSequence, conv_sequence, pack_block, pack_conv
from .decompositions import decompositions
from .inverted_residual import InvertedResidualWeights, inverted_residual, pack_inverted_residual
from .packed_conv import conv2d, conv_transpose2d, pack
from .rasterize import draw_polylines
from .resample import conv_downsample, upsample_conv
from .residual_block import residual_block
from .soft_argmax import soft_argmax
from .spectral_norm import normalise, power_iteration_
from .warp_affine import warp_affine
from .warp_by_landmarks import landmark_motion, warp, warp_by_landmarks

__all__ = [
    "ConvSequence",
    "InvertedResidualWeights",
    "adain",
    "attention",
    "backends",
    "conv2d",
    "conv_downsample",
    "conv_sequence",
    "conv_transpose2d",
    "decompositions",
    "draw_polylines",
    "inverted_residual",
    "landmark_motion",
    "normalise",
    "pack",
    "pack_block",
    "pack_conv",
    "pack_inverted_residual",
    "power_iteration_",
    "residual_block",
    "soft_argmax",
    "upsample_conv",
    "use_backend",
    "warp",
    "warp_affine",
    "warp_by_landmarks",
]
