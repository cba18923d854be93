"""Cases of the tests of derivatives: one for every op and every public function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import talkinghead_kernels as ops
import torch
from talkinghead_kernels import winograd
from torch.utils import _pytree as pytree


@dataclass
class Case:
    """A function of some of its tensors.

    Attributes:
        function: takes `tensors`; returns a tensor or a tuple of tensors, all of which are differentiable.
        tensors: the tensors to differentiate with respect to.
        refuses: modes of differentiation that it refuses with its name.
        name: name of the op in its errors.
        linear: the function is linear and supports float32 only, so that differences over long steps are
            exact.
    """

    function: Callable[..., Any]
    tensors: list[torch.Tensor]
    refuses: tuple[str, ...] = ()
    name: str = ""
    linear: bool = False

    def outputs(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return pytree.tree_leaves(self.function(*tensors))

    def to(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [tensor.to(torch.float32 if self.linear else dtype) for tensor in self.tensors]


TRANSFORMS = ("forward", "transform")
REVERSE = ("reverse",)
BATCHES = ("forward", "transform", "batch")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def op_cases() -> dict[str, Case]:
    """Return a case for every op of `torch.ops.talkinghead`, and more for optional arguments."""
    op = torch.ops.talkinghead
    x, residual, scale, bias = (
        random(2, 3, 4, 5),
        random(2, 3, 4, 5, seed=1),
        random(2, 3),
        random(2, 3, seed=1),
    )
    mean, rstd = random(2, 3, seed=2), random(2, 3, seed=3).abs() + 0.5
    query, key, value = random(2, 4, 3), random(2, 5, 3), random(2, 5, 2)
    weights, u, v = [random(4, 3, 3, 3), random(2, 6)], [random(4), random(2)], [random(27), random(6)]
    image, motion = random(2, 3, 5, 6), 0.3 * random(2, 2, 3, 3)
    forms = ["upsample_shuffle", "plain"]
    packed = winograd.transform(random(4, 3, 3, 3))
    points = random(2, 6, 2)
    block = block_weights()
    logarithms, pixels, layers = random(2, 2, 3, 5).float(), uint8_image(), two_layers()

    def normalise(a: torch.Tensor, b: torch.Tensor) -> Any:
        return op.normalise([a, b], [t.to(a) for t in u], [t.to(a) for t in v], 1e-4, forms, None, False)[0]

    def normalise_backward(
        g1: torch.Tensor, g2: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, constants: torch.Tensor
    ) -> Any:
        return op.normalise_backward([g1, g2], [w1, w2], constants, 1e-4, forms)

    def iterate(a: torch.Tensor, b: torch.Tensor) -> Any:
        return op.power_iteration_([a, b], [t.to(a) for t in u], [t.to(a) for t in v], 1e-4)

    constants = random(2 + 4 + 27 + 2 + 6)
    constants[:2] = constants[:2].abs() + 1
    return {
        "adain": Case(lambda *t: op.adain(*t, 1e-4, "relu")[0], [x, scale, bias]),
        "add_adain": Case(lambda *t: op.add_adain(*t, 1e-4, None)[:2], [x, residual, scale, bias]),
        "adain_backward": Case(
            lambda *t: op.adain_backward(*t, "relu"),
            [residual, 2 * x, x, scale, bias, mean, rstd],
            REVERSE,
            "adain_backward",
        ),
        "attention": Case(lambda *t: op.attention(*t)[0], [query, key, value]),
        "attention_backward": Case(
            op.attention_backward,
            [random(2, 4, 2), query, key, value, random(2, 4, 2), random(2, 4) + 3],
            REVERSE,
            "attention_backward",
        ),
        "normalise": Case(normalise, weights),
        "normalise_backward": Case(
            normalise_backward,
            [random(16, 3, 2, 2), random(2, 6), *weights, constants],
            REVERSE,
            "normalise_backward",
        ),
        "power_iteration_": Case(iterate, weights, BATCHES, "power_iteration_"),
        "draw_polylines": Case(
            lambda p: op.draw_polylines(p, 8, [0, 1, 2, 3, 4], [3, 2], [255, 0, 0, 0, 255, 9]),
            [4 + points],
            TRANSFORMS,
            "draw_polylines",
        ),
        "draw_landmarks": Case(
            lambda p: op.draw_landmarks(p, 8, [0, 1, 2, 3, 4], [3, 2], [255, 0, 0, 0, 255, 9]),
            [4 + points],
            TRANSFORMS,
            "draw_landmarks",
        ),
        "landmark_motion": Case(
            lambda *t: op.landmark_motion(*t, 4), [points, points + 0.1], TRANSFORMS, "landmark_motion"
        ),
        "warp": Case(op.warp, [image, motion]),
        "warp_backward": Case(
            lambda *t: op.warp_backward(*t, True, True),
            [random(2, 3, 5, 6, seed=1), image, motion],
            REVERSE,
            "warp_backward",
        ),
        "winograd": Case(
            lambda t: op.winograd(t, packed, None, None, None), [image], REVERSE, "winograd", linear=True
        ),
        "inverted_residual": Case(
            lambda t: op.inverted_residual(t, *block, 1, True),
            [image],
            REVERSE,
            "inverted_residual",
            linear=True,
        ),
        "conv_sequence": Case(
            lambda t: op.conv_sequence(t, *layers), [image], REVERSE, "conv_sequence", linear=True
        ),
        "soft_argmax": Case(
            lambda t: op.soft_argmax(torch.cat([logarithms, t], 1), None, 1.0),
            [random(2, 4, 3, 5)],
            REVERSE,
            "soft_argmax",
            linear=True,
        ),
        "warp_affine": Case(
            lambda t: op.warp_affine([pixels], t, 4), [random(1, 2, 3)], BATCHES, "warp_affine"
        ),
    }


def block_weights() -> ops.InvertedResidualWeights:
    """Return weights of an inverted residual block of 3 channels whose large biases keep it linear."""
    widen, filter, narrow = random(5, 3, 1, 1), random(5, 1, 3, 3), random(3, 5, 1, 1)
    bias = random(5).abs()
    return ops.pack_inverted_residual((widen, bias + 100), (filter, bias + 4000), (narrow, random(3)))


def two_layers() -> ops.ConvSequence:
    """Return a convolution and an inverted residual block that is linear because of its large biases."""
    conv = ops.pack_conv(random(3, 3, 3, 3) / 5, random(3))
    return ops.ConvSequence([*conv.weights, *block_weights()], [*conv.numbers, 6, 3, 1, 1])


def uint8_image() -> torch.Tensor:
    """Return an image [5, 6, 3]."""
    return (random(5, 6, 3).sigmoid() * 255).to(torch.uint8)


def public_cases() -> dict[str, Case]:
    """Return a case for every public function, and more for optional arguments."""
    cases = op_cases()
    x, residual, scale, bias = cases["add_adain"].tensors
    image, motion = cases["warp"].tensors
    source, target = cases["landmark_motion"].tensors
    weight, point = random(4, 3, 3, 3), random(4, 3, 1, 1)
    even = random(2, 3, 4, 4)
    block_of_3 = block_weights()
    logarithms, pixels, layers = random(2, 2, 3, 5).float(), uint8_image(), two_layers()
    packed, onednn = winograd.transform(weight), ops.pack(weight.float()[:, :, :2, :2], (1, 3, 4, 4))
    vectors = [[t.float() for t in (random(4), random(2))], [t.float() for t in (random(27), random(6))]]

    def normalise(*weights: torch.Tensor) -> Any:
        return ops.normalise(
            weights, *([t.to(weights[0]) for t in them] for them in vectors), forms=["downsample", "plain"]
        )

    def block(
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
    ) -> Any:
        return ops.residual_block(x, (a, None), (b, None), (c, None), (scale, bias), resample="down")

    return {
        "adain": Case(lambda *t: ops.adain(*t), [x, scale, bias]),
        "adain, residual": Case(
            lambda x, r, s, b: ops.adain(x, s, b, activation="relu", residual=r), [x, residual, scale, bias]
        ),
        "attention": Case(ops.attention, cases["attention"].tensors),
        "normalise": Case(normalise, cases["normalise"].tensors),
        "power_iteration_": Case(
            lambda *t: ops.power_iteration_(t, *([v.to(t[0]) for v in them] for them in vectors)),
            cases["normalise"].tensors,
            BATCHES,
            "power_iteration_",
        ),
        "draw_polylines": Case(
            lambda p: ops.draw_polylines(p, 8, [[0, 1, 2]], [(1, 2, 3)]),
            [source],
            (*TRANSFORMS, *REVERSE),
            "draw_polylines",
        ),
        "landmark_motion": Case(
            lambda *t: ops.landmark_motion(*t, 4), [source, target], TRANSFORMS, "landmark_motion"
        ),
        "warp": Case(ops.warp, [image, motion]),
        "warp_by_landmarks": Case(lambda t: ops.warp_by_landmarks(t, source, target), [image]),
        "conv2d": Case(lambda *t: ops.conv2d(*t, padding=1), [image, weight]),
        "conv2d, winograd": Case(lambda t: ops.conv2d(t, packed), [image], REVERSE, "winograd", linear=True),
        "conv2d, oneDNN": Case(lambda t: ops.conv2d(t, onednn), [image], BATCHES, "conv2d", linear=True),
        "conv_transpose2d": Case(lambda *t: ops.conv_transpose2d(*t, padding=1), [image, random(3, 4, 3, 3)]),
        "inverted_residual": Case(
            lambda t: ops.inverted_residual(t, block_of_3),
            [image],
            REVERSE,
            "inverted_residual",
            linear=True,
        ),
        "conv_sequence": Case(
            lambda t: ops.conv_sequence(t, layers), [image], REVERSE, "conv_sequence", linear=True
        ),
        "soft_argmax": Case(
            lambda t: ops.soft_argmax(torch.cat([logarithms, t], 1)),
            [random(2, 4, 3, 5)],
            REVERSE,
            "soft_argmax",
            linear=True,
        ),
        "warp_affine": Case(
            lambda t: ops.warp_affine([pixels], t, 4), [random(1, 2, 3)], (*BATCHES, *REVERSE), "warp_affine"
        ),
        "upsample_conv": Case(ops.upsample_conv, [image, weight]),
        "conv_downsample": Case(ops.conv_downsample, [even, weight]),
        "residual_block": Case(block, [even, weight, random(4, 4, 3, 3), point, scale, bias]),
    }
