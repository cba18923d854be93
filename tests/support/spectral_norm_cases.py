"""Layers for the tests of spectral norm."""

import torch
import torch.nn.functional as F

EPS = 1e-4

SHAPES = [
    (8, 3, 3, 3),
    (5, 8, 1, 1),
    (4, 16),
    (1, 1),
    (1, 1, 3, 3),
    (17, 23, 3, 3),
    (37, 19, 3, 3),
    (6, 7, 5, 5),
    (3, 4, 3),
    (2, 3, 3, 1),
]

FOLDED = [(8, 3, 3, 3), (1, 1, 3, 3), (17, 23, 3, 3), (32, 16, 3, 3), (130, 67, 3, 3)]


def layers(shapes=SHAPES, seed=0, dtype=torch.float32):
    """Return weights, us and vs after two power iterations.

    Without them, sigma of random vectors may be negative or almost zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    weights = [draw(*shape) for shape in shapes]
    us = [F.normalize(draw(w.shape[0]), dim=0) for w in weights]
    vs = [F.normalize(draw(w[0].numel()), dim=0) for w in weights]
    for weight, u, v in zip(weights, us, vs, strict=True):
        for _ in range(2):
            u.copy_(F.normalize(weight.flatten(1) @ v, dim=0))
            v.copy_(F.normalize(weight.flatten(1).T @ u, dim=0))
    return weights, us, vs


def copies(tensors):
    return [t.clone() for t in tensors]


def leaves(tensors):
    return [t.clone().requires_grad_() for t in tensors]
