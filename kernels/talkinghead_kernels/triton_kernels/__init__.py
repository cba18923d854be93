"""The kernels of the schemas in extension.py in Triton, with the same names and arguments.

Each is launched on the current stream of its tensors' device, copies nothing to the host and allocates its
workspace with torch, so that a CUDA graph can capture it after the first call, in which Triton compiles it.
Block sizes depend on the sizes of the tensors, never on timings, so two runs give the same bits. Only this
package imports triton.
"""

from .adain import adain_backward, adain_forward
from .power_iteration import power_iteration_
from .rasterize import draw_polylines
from .spectral_norm import normalise_backward, normalise_forward
from .warp_by_landmarks import landmark_motion, warp_forward

__all__ = [
    "adain_backward",
    "adain_forward",
    "draw_polylines",
    "landmark_motion",
    "normalise_backward",
    "normalise_forward",
    "power_iteration_",
    "warp_forward",
]
