"""The four networks of the paper: embedder E, generator G with its projection P, and the discriminator's
convolutional part V.

And one of this project: a generator that is guided by references.
"""

from ..config import NetworkConfig
from .discriminator import Discriminator, DiscriminatorOutput
from .embedder import Embedder
from .generator import Generator
from .inference import pack_weights_, prepare_for_inference
from .reference_guided import ReferenceGuidedGenerator, ReferenceViews, resize_area
from .references import References

__all__ = [
    "Discriminator",
    "DiscriminatorOutput",
    "Embedder",
    "Generator",
    "ReferenceGuidedGenerator",
    "ReferenceViews",
    "References",
    "build_generator",
    "pack_weights_",
    "prepare_for_inference",
    "resize_area",
]


def build_generator(config: NetworkConfig, projection: bool = True) -> Generator:
    """Return a generator of the kind that a configuration names; `projection` False leaves P out."""
    kind = ReferenceGuidedGenerator if config.reference_guided else Generator
    return kind(config, projection)
