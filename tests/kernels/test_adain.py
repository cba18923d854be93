import pytest
import torch
from talkinghead_kernels import adain


def by_hand(x, scale, bias, eps):
    rows = []
    for b in range(x.shape[0]):
        planes = []
        for c in range(x.shape[1]):
            plane = x[b, c]
            mean = plane.mean()
            deviation = ((plane - mean) ** 2).mean()
            s, t = (v[b, c] if v.dim() == 2 else v[c] for v in (scale, bias))
            planes.append(s * (plane - mean) / (deviation + eps).sqrt() + t)
        rows.append(torch.stack(planes))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (2, 8, 16, 16), (1, 512, 2, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_equals_the_formula(shape, shared):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    affine = shape[1:2] if shared else shape[:2]
    scale, bias = torch.randn(affine, dtype=torch.float64), torch.randn(affine, dtype=torch.float64)
    torch.testing.assert_close(adain(x, scale, bias), by_hand(x, scale, bias, 1e-4))
    torch.testing.assert_close(adain(x, scale, bias, activation="relu"), by_hand(x, scale, bias, 1e-4).relu())


def test_residual_is_added_normalised_and_returned():
    x, residual = torch.randn(2, 2, 3, 4, 4).unbind()
    scale, bias = torch.randn(2, 2, 3).unbind()
    y, h = adain(x, scale, bias, residual=residual)
    torch.testing.assert_close(h, x + residual)
    torch.testing.assert_close(y, adain(x + residual, scale, bias))


def test_constant_plane_gives_its_bias():
    y = adain(torch.full((1, 2, 4, 4), 7.0), torch.ones(2), torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([0.5, -0.5]), atol=1e-5, rtol=0)


def test_large_mean_keeps_the_spread():
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    wanted = adain(x, torch.ones(3).double(), torch.zeros(3).double())
    got = adain((x + 1000).float(), torch.ones(3), torch.zeros(3))
    assert (got - wanted).abs().max() < 1e-3


def test_low_precision_uses_wide_statistics():
    x = (torch.randn(1, 2, 64, 64) + 30).bfloat16()
    wanted = adain(x.float(), torch.ones(2), torch.zeros(2))
    got = adain(x, torch.ones(2), torch.zeros(2))
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().max() < 0.02


def test_keeps_the_memory_format():
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    y = adain(x, torch.ones(8), torch.zeros(8))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_nan_stays_in_its_plane():
    x = torch.randn(2, 3, 4, 4)
    x[1, 2, 0, 0] = float("nan")
    bad = adain(x, torch.ones(3), torch.zeros(3)).isnan().flatten(2).any(2)
    assert bad.tolist() == [[False, False, False], [False, False, True]]


def test_gradient():
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    scale, bias = (torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *a: adain(*a), (x, scale, bias))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 2, 3), torch.zeros(2), torch.zeros(2)), "x must be"),
        ((torch.zeros(1, 2, 3, 3, dtype=torch.int32), torch.zeros(2), torch.zeros(2)), "x must be"),
        ((torch.zeros(1, 2, 3, 3), torch.zeros(3), torch.zeros(2)), "scale must be"),
        ((torch.zeros(1, 2, 3, 3), torch.zeros(2), torch.zeros(2, 2)), "bias must be"),
        ((torch.zeros(1, 2, 3, 3), torch.zeros(2), torch.zeros(2), 1e-4, "gelu"), "activation must be"),
        ((torch.zeros(1, 2, 3, 3), torch.zeros(2), torch.zeros(2), 1e-4, None, torch.zeros(1)), "residual must be"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=f"adain: {message}"):
        adain(*arguments)
