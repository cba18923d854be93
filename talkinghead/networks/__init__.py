"""The four networks of the paper: embedder E, generator G with its projection P, and the discriminator's convolutional part V."""

from .discriminator import Discriminator
from .embedder import Embedder
from .final import final_generator, pack_
from .generator import Generator

__all__ = ["Discriminator", "Embedder", "Generator", "final_generator", "pack_"]
