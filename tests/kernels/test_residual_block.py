import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import adain, residual_block


def baseline(x, conv1, conv2, shortcut, norm1, norm2, resample, first, slope):
    def activate(h, norm):
        return F.leaky_relu(h if norm is None else adain(h, *norm), slope)

    def up(h):
        return F.interpolate(h, scale_factor=2, mode="nearest") if resample == "up" else h

    def down(h):
        return F.avg_pool2d(h, 2) if resample == "down" else h

    h = x if first else activate(x, norm1)
    h = F.conv2d(up(h), *conv1, padding=1)
    h = down(F.conv2d(activate(h, norm2), *conv2, padding=1))
    return h + (x if shortcut is None else down(F.conv2d(up(x), *shortcut)))


@pytest.mark.parametrize("resample", [None, "up", "down"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("first", "slope"), [(False, 0.0), (True, 0.0), (False, 0.2)])
def test_block_equals_baseline(resample, normalised, first, slope):
    torch.manual_seed(0)

    def weight(o, i, k):
        return torch.randn(o, i, k, k).double(), torch.randn(o).double()

    x = torch.randn(2, 3, 4, 4).double()
    convolutions = weight(5, 3, 3), weight(5, 5, 3), weight(5, 3, 1)
    norms = [tuple(torch.randn(2, 2, c).double()) if normalised else None for c in (3, 5)]
    arguments = (x, *convolutions, *norms, resample, first, slope)
    torch.testing.assert_close(residual_block(*arguments), baseline(*arguments), atol=1e-11, rtol=0)


@pytest.mark.parametrize("resample", [None, "up", "down"])
@pytest.mark.parametrize(("first", "normalised"), [(False, True), (False, False), (True, False)])
def test_block_accepts_and_returns_two_terms(resample, first, normalised):
    torch.manual_seed(0)
    x, residual = torch.randn(2, 2, 3, 4, 4).double()
    convolutions = [(torch.randn(3, 3, k, k).double(), torch.randn(3).double()) for k in (3, 3, 1)]
    norms = [tuple(torch.randn(2, 2, 3).double()) if normalised else None for _ in range(2)]
    expected = residual_block(x + residual, *convolutions, *norms, resample, first)
    joined = residual_block(x, *convolutions, *norms, resample, first, residual=residual)
    branch, skip = residual_block(
        x, *convolutions, *norms, resample, first, residual=residual, return_sum=False
    )
    torch.testing.assert_close(joined, expected, atol=1e-11, rtol=0)
    assert torch.equal(branch + skip, joined)


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_compiles_without_graph_breaks(resample):
    torch.manual_seed(0)
    x, residual = torch.randn(2, 1, 8, 4, 4)
    convolutions = [(torch.randn(8, 8, k, k) / 8, None) for k in (3, 3, 1)]
    norms = [tuple(torch.randn(2, 1, 8)) for _ in range(2)]

    def block(x, residual):
        return residual_block(x, *convolutions, *norms, resample, residual=residual)

    torch.testing.assert_close(
        torch.compile(block, fullgraph=True)(x, residual), block(x, residual), atol=1e-4, rtol=1e-4
    )


def test_identity_shortcut():
    x = torch.randn(1, 3, 4, 4)
    zeros = torch.zeros(3, 3, 3, 3), None
    assert torch.equal(residual_block(x, zeros, zeros), x)


def test_unknown_resample_is_named():
    with pytest.raises(ValueError, match="residual_block: resample must be"):
        residual_block(
            torch.zeros(1, 1, 2, 2),
            (torch.zeros(1, 1, 3, 3), None),
            (torch.zeros(1, 1, 3, 3), None),
            resample="sideways",
        )
