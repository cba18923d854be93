import pytest
import torch
from talkinghead_kernels import normalise, power_iteration_
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def layers():
    torch.manual_seed(0)
    weights = [torch.randn(8, 3, 3, 3), torch.randn(5, 8, 1, 1), torch.randn(4, 16), torch.randn(1, 1)]
    us = [nn.functional.normalize(torch.randn(w.shape[0]), dim=0) for w in weights]
    vs = [nn.functional.normalize(torch.randn(w[0].numel()), dim=0) for w in weights]
    return weights, us, vs


def test_finds_the_first_singular_value():
    weights, us, vs = layers()
    for _ in range(200):
        power_iteration_(weights, us, vs)
    for weight, normal in zip(weights, normalise(weights, us, vs), strict=True):
        sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(normal, weight / sigma, atol=1e-4, rtol=1e-4)


def test_equals_torch_over_training_steps():
    torch.manual_seed(1)
    theirs = spectral_norm(nn.Linear(6, 4, bias=False), eps=1e-4)
    original = theirs.parametrizations.weight[0]
    weight = nn.Parameter(theirs.parametrizations.weight.original.detach().clone())
    u, v = original._u.clone(), original._v.clone()
    ours_optimiser = torch.optim.SGD([weight], lr=0.1)
    theirs_optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step in range(100):
        x = torch.randn(7, 6, generator=torch.Generator().manual_seed(step))
        theirs_optimiser.zero_grad()
        theirs(x).square().sum().backward()
        theirs_optimiser.step()
        # torch advances u from the old v, then v from the new u; ours starts with v
        with torch.no_grad():
            u = nn.functional.normalize(weight @ v, dim=0, eps=1e-4)
            v = nn.functional.normalize(weight.T @ u, dim=0, eps=1e-4)
        ours_optimiser.zero_grad()
        (x @ normalise([weight], [u], [v])[0].T).square().sum().backward()
        ours_optimiser.step()
    torch.testing.assert_close(weight.detach(), theirs.parametrizations.weight.original.detach())


def test_gradient_is_the_closed_form():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    u, v = nn.functional.normalize(torch.randn(3).double(), dim=0), nn.functional.normalize(torch.randn(4).double(), dim=0)
    upstream = torch.randn(3, 4, dtype=torch.float64)
    (normal,) = normalise([weight], [u], [v])
    normal.backward(upstream)
    sigma = u @ weight.detach() @ v
    closed = (upstream - (upstream * normal.detach()).sum() * torch.outer(u, v)) / sigma
    torch.testing.assert_close(weight.grad, closed)


def test_iteration_between_forward_and_backward_leaves_the_gradient_alone():
    weights, us, vs = layers()
    leaves = [w.clone().requires_grad_() for w in weights]
    normal = normalise(leaves, us, vs)
    before = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), leaves, retain_graph=True)
    power_iteration_(weights, us, vs)
    after = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), leaves)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


def test_mixed_precision_leaves_it_alone():
    weights, us, vs = layers()
    wanted_us, wanted_vs = [u.clone() for u in us], [v.clone() for v in vs]
    power_iteration_(weights, wanted_us, wanted_vs)
    with torch.autocast("cpu", torch.bfloat16):
        power_iteration_(weights, us, vs)
        normal = normalise(weights, us, vs)
    for got, wanted in zip([*us, *vs, *normal], [*wanted_us, *wanted_vs, *normalise(weights, us, vs)], strict=True):
        assert torch.equal(got, wanted)


def test_zero_weight_stays_finite():
    weight, u, v = torch.zeros(3, 4), torch.ones(3) / 3**0.5, torch.ones(4) / 2
    power_iteration_([weight], [u], [v])
    (normal,) = normalise([weight], [u], [v])
    assert all(t.isfinite().all() for t in (normal, u, v))


def test_bad_lists_are_named():
    weights, us, vs = layers()
    with pytest.raises(ValueError, match="of one length"):
        power_iteration_(weights, us[:-1], vs)
    with pytest.raises(ValueError, match="weight 1 must have"):
        normalise(weights, [us[0], us[0], *us[2:]], vs)
