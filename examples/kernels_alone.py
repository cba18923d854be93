"""Use the fused ops without the rest of the package: `python examples/kernels_alone.py`."""

import talkinghead_kernels as ops
import torch
import torch.nn.functional as F


def main() -> None:
    """Compare adaptive instance normalisation with its textbook form, and differentiate it."""
    x = torch.randn(2, 64, 32, 32, requires_grad=True)
    scale, bias = torch.randn(2, 64), torch.randn(2, 64)
    fused = ops.adain(x, scale, bias, activation="relu")
    textbook = torch.relu(F.instance_norm(x, eps=1e-4) * scale[..., None, None] + bias[..., None, None])
    torch.testing.assert_close(fused, textbook, atol=1e-4, rtol=1e-4)
    fused.sum().backward()
    difference = float((fused - textbook).detach().abs().max())
    print(f"largest difference {difference:.1e}, gradient {list(x.grad.shape)}")


if __name__ == "__main__":
    main()
