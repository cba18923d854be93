"""Spectral norm of all layers of a network against torch's parametrization, torch.compile of the reference,
and a copy of the weights.
"""

import pytest
import torch
from talkinghead_kernels import normalise, power_iteration_
from talkinghead_kernels.spectral_norm import EPS, normalise_reference, power_iteration_reference
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from bench.lib.harness import DEVICE, Case, by_backend, compiled, size
from talkinghead.config import preset
from talkinghead.networks.discriminator import Discriminator
from talkinghead.networks.embedder import Embedder
from talkinghead.networks.generator import Generator

WARM_UP_ITERATIONS = 20
NETWORKS = {"G": Generator, "E": Embedder, "V": Discriminator}


def shapes(name: str, quick: bool) -> list[torch.Size]:
    with torch.device("meta"):
        return [
            layer.weight.shape
            for layer in NETWORKS[name](preset("tiny" if quick else "paper").networks).layers()
        ]


class BaselineLayer(nn.Module):
    """torch's parametrization of one weight."""

    def __init__(self, weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        spectral_norm(self, eps=EPS)
        self.parametrizations.weight[0]._u.copy_(u)
        self.parametrizations.weight[0]._v.copy_(v)


@pytest.mark.parametrize("direction", ["power iteration", "step with gradient"])
@pytest.mark.parametrize("network", NETWORKS if DEVICE == "cuda" else ("G",))
def test_spectral_norm(bench, request, thorough, network, direction):
    step = direction != "power iteration"
    weights = [
        torch.randn(shape, device=DEVICE) for shape in shapes(network, request.config.getoption("quick"))
    ]
    vectors = [
        (torch.randn(w.shape[0], device=DEVICE), torch.randn(w[0].numel(), device=DEVICE)) for w in weights
    ]
    us, vs = ([nn.functional.normalize(pair[at], dim=0) for pair in vectors] for at in (0, 1))
    # Converge first, so that one more iteration changes little and all providers agree in any order.
    for _ in range(WARM_UP_ITERATIONS):
        power_iteration_of_reference(weights, us, vs)
    grads = [torch.randn_like(w) for w in weights]
    leaves = [w.clone().requires_grad_() for w in weights]

    def ours():
        state = [u.clone() for u in us], [v.clone() for v in vs]
        power_iteration_(weights, *state)
        if not step:
            return (*state[0], *state[1])
        return torch.autograd.grad(normalise(leaves, *state), leaves, grads)

    def in_place():
        power_iteration_(weights, *scratch)
        return (*scratch[0], *scratch[1])

    scratch = [u.clone() for u in us], [v.clone() for v in vs]
    expected = by_closed_formula(weights, us, vs, grads) if step else next_vectors(weights, us, vs)
    runs = by_backend(ours if step else in_place)
    if step:
        modules = nn.ModuleList(BaselineLayer(w, u, v) for w, u, v in zip(weights, us, vs, strict=True))
        originals = [module.parametrizations.weight.original for module in modules]
        modules.train()
        runs["baseline"] = lambda: torch.autograd.grad(
            [module.weight for module in modules], originals, grads
        )
        if thorough:
            one = compiled_step()
            runs["compile"] = lambda: [
                one(*arguments)[0] for arguments in zip(leaves, us, vs, grads, strict=True)
            ]
    else:
        runs["baseline"] = lambda: next_vectors(weights, us, vs)
    bytes_moved = (6 if step else 1) * size(*weights)
    copy = {"copy": lambda: [w.clone() for w in weights]}
    with torch.set_grad_enabled(step):
        # power iterations go on from call to call, so that results differ by what is left of their
        # convergence
        bench(
            Case(
                "spectral_norm",
                direction,
                f"{network}, {len(weights)} layers",
                1,
                torch.float32,
                bytes_moved,
                expected,
                runs,
                copy,
                tolerance=0.05,
            )
        )


def power_iteration_of_reference(weights, us, vs):
    for weight, u, v in zip(weights, us, vs, strict=True):
        new_u, new_v = power_iteration_reference(weight, u, v, EPS)
        u.copy_(new_u)
        v.copy_(new_v)


def next_vectors(weights, us, vs):
    pairs = [power_iteration_reference(*arguments, EPS) for arguments in zip(weights, us, vs, strict=True)]
    return (*(u for u, _ in pairs), *(v for _, v in pairs))


def by_closed_formula(weights, us, vs, grads):
    results = []
    for weight, u, v, grad in zip(weights, us, vs, grads, strict=True):
        leaf = weight.clone().requires_grad_()
        normalised, _ = normalise_reference(leaf, *power_iteration_reference(weight, u, v, EPS), EPS, "plain")
        results += torch.autograd.grad(normalised, leaf, grad)
    return results


def compiled_step():
    """Return the compiled step of a layer; one compilation serves all shapes, since each takes minutes."""

    def forward(weight, u, v):
        new_u, new_v = power_iteration_reference(weight.detach(), u, v, EPS)
        return normalise_reference(weight, new_u, new_v, EPS, "plain")[0]

    run = compiled(forward, dynamic=True)
    return lambda weight, u, v, grad: torch.autograd.grad(run(weight, u, v), weight, grad)
