"""Mean of the votes of cells for points (integral regression, Sun et al. 2018, with offsets), for inference.

    point = sum over cells of w * (centre of the cell + its offset),   w = softmax over cells of its logarithm

With points to look around, -distance^2 / (2 reach^2) is added to the logarithms. The kernel is C++ for CPUs;
where it is missing, or "reference" is chosen, the formula runs.
"""

import torch
from torch import Tensor

from . import backend, extension
from .registration import is_transformed, register


def soft_argmax_reference(votes: Tensor, around: Tensor | None = None, reach: float = 1.0) -> Tensor:
    """Return the points in plain torch."""
    batch, channels, height, width = votes.shape
    centres_y = (torch.arange(height, device=votes.device, dtype=votes.dtype)[:, None] + 0.5) / height
    centres_x = (torch.arange(width, device=votes.device, dtype=votes.dtype) + 0.5) / width
    logarithms, right, down = votes.reshape(batch, 3, channels // 3, height, width).unbind(1)
    if around is not None:
        x, y = around.reshape(batch, channels // 3, 2, 1, 1).unbind(2)
        logarithms = logarithms - ((centres_x - x).square() + (centres_y - y).square()) / (2 * reach**2)
    weights = logarithms.flatten(2).softmax(dim=-1)
    return torch.stack(
        [
            ((centres_x + right / width).flatten(2) * weights).sum(dim=-1),
            ((centres_y + down / height).flatten(2) * weights).sum(dim=-1),
        ],
        dim=-1,
    )


def soft_argmax(votes: Tensor, around: Tensor | None = None, reach: float = 1.0) -> Tensor:
    """Compute the mean of the votes of H x W cells for P points; not differentiable.

    Args:
        votes: [B, 3 P, H, W], float32 on the CPU: P logarithms of weights, P offsets to the right in widths
            of a cell, and P offsets downwards in heights of a cell.
        around: float32 [B, P, 2], near which cells have more weight, or None.
        reach: standard deviation of that weight.

    Returns:
        float32 [B, P, 2], (x, y) in fractions of the map, as `around` and `reach`.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        return _SOFT_ARGMAX(votes, around, reach)
    run = _SOFT_ARGMAX if compiling else _run  # the dispatcher takes as long as the kernel
    y: Tensor = run(votes.detach(), None if around is None else around.detach(), reach)
    return y


def _check(votes: Tensor, around: Tensor | None, reach: float) -> None:
    if votes.dim() != 4 or votes.shape[1] % 3 or votes.dtype != torch.float32 or votes.device.type != "cpu":
        raise ValueError(
            f"soft_argmax: votes must be float32 [B, 3 P, H, W] on cpu, got {votes.dtype} "
            f"{list(votes.shape)} on {votes.device.type}"
        )
    if votes.shape[2] * votes.shape[3] == 0:
        raise ValueError(f"soft_argmax: votes must be of one cell or more, got {list(votes.shape)}")
    expected = (votes.shape[0], votes.shape[1] // 3, 2)
    if around is not None and (
        around.shape != expected or around.dtype != torch.float32 or around.device.type != "cpu"
    ):
        raise ValueError(
            f"soft_argmax: around must be float32 {list(expected)} on cpu, got {around.dtype} "
            f"{list(around.shape)} on {around.device.type}"
        )
    if not reach > 0:
        raise ValueError(f"soft_argmax: reach must be positive, got {reach}")


def _run(votes: Tensor, around: Tensor | None, reach: float) -> Tensor:
    _check(votes, around, reach)
    # The other backends have no kernel, but networks must run on them: use the formula there.
    if (
        backend.current() not in (None, "cpp")
        or extension.unavailable_reason("cpu", "soft_argmax") is not None
    ):
        return soft_argmax_reference(votes, around, reach)
    points = torch.empty(votes.shape[0], votes.shape[1] // 3, 2, dtype=torch.float32, device="cpu")
    around = None if around is None else around.contiguous()
    votes = votes.contiguous(memory_format=torch.channels_last)
    torch.ops.talkinghead_native.soft_argmax.default(votes, around, reach, points)
    return points


def _fake(votes: Tensor, around: Tensor | None, reach: float) -> Tensor:
    _check(votes, around, reach)
    return votes.new_empty(votes.shape[0], votes.shape[1] // 3, 2)


_SOFT_ARGMAX = register(
    "soft_argmax(Tensor votes, Tensor? around, float reach) -> Tensor",
    _run,
    _fake,
    soft_argmax_reference,
    refusal="is for inference and has no gradient; use soft_argmax_reference instead",
)
