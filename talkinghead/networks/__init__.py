"""The four networks of the paper: embedder E, generator G with its projection P, and the discriminator's convolutional part V.

And ours: a G that is guided by references.
"""

from ..config import NetworkConfig
from .discriminator import Discriminator
from .embedder import Embedder
from .final import final_generator, pack_
from .generator import Generator
from .reference_guided import ReferenceGuidedGenerator, ReferenceViews, resize_area
from .references import References

__all__ = [
    "Discriminator",
    "Embedder",
    "Generator",
    "ReferenceGuidedGenerator",
    "ReferenceViews",
    "References",
    "build_generator",
    "final_generator",
    "pack_",
    "resize_area",
]


def build_generator(config: NetworkConfig, projection: bool = True) -> Generator:
    """Return a G of the kind that a configuration asks for; `projection` False leaves P out."""
    return (ReferenceGuidedGenerator if config.reference_guided else Generator)(config, projection)
