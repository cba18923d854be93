"""The kernels of `native.py`'s schemas in Triton: the same names, the same arguments in the same order.

Each launches on the current stream of its tensors' device, reads nothing back and takes scratch from torch's allocator, so that a CUDA
graph can capture it once Triton has compiled it, which the first call does. Block sizes follow from the sizes of the tensors, never from
a timing: two runs give the same bits. This is the only place that imports triton.
"""

from .adain import adain_backward, adain_forward
from .rasterize import draw_landmarks
from .spectral_norm import normalise_backward, normalise_forward, power_iteration_
from .warp import landmark_motion, warp_forward

__all__ = [
    "adain_backward",
    "adain_forward",
    "draw_landmarks",
    "landmark_motion",
    "normalise_backward",
    "normalise_forward",
    "power_iteration_",
    "warp_forward",
]
