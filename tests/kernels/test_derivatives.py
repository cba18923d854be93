"""Every derivative that torch can ask of an op or a public function is right, or refused by the op's name: no silent zeros.

The ops are taken from torch's registry and the functions from the package, so that none that is added later is forgotten.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import native, use_backend, winograd
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from conftest import RUNNABLE

BACKENDS = [name for name in ("reference", "cpp") if name in RUNNABLE]
NOT_OPS = {"backends", "decompositions", "pack", "use_backend"}


@dataclass
class Case:
    """A function of some of its tensors.

    Attributes:
        function: takes `tensors`; gives a tensor or a tuple of them, all of which are differentiable.
        tensors: what derivatives are asked of.
        refuses: ways of differentiation that it refuses, by its name.
        name: of the op, as its errors have it.
        linear: the function is, and knows float32 alone, so that a difference over a long way is exact.
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


FORWARD, TRANSFORMS, REVERSE, BATCHES = ("forward",), ("forward", "transform"), ("reverse",), ("forward", "transform", "batch")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def op_cases() -> dict[str, Case]:
    """A case for every op of `torch.ops.talkinghead`; more, where it has optional arguments."""
    op = torch.ops.talkinghead
    x, residual, scale, bias = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1), random(2, 3), random(2, 3, seed=1)
    mean, rstd = random(2, 3, seed=2), random(2, 3, seed=3).abs() + 0.5
    query, key, value = random(2, 4, 3), random(2, 5, 3), random(2, 5, 2)
    weights, u, v = [random(4, 3, 3, 3), random(2, 6)], [random(4), random(2)], [random(27), random(6)]
    image, motion = random(2, 3, 5, 6), 0.3 * random(2, 2, 3, 3)
    forms = ["upsample_shuffle", "plain"]
    packed = winograd.transform(random(4, 3, 3, 3))
    points = random(2, 6, 2)

    def normalise(a: torch.Tensor, b: torch.Tensor) -> Any:
        return op.normalise([a, b], [t.to(a) for t in u], [t.to(a) for t in v], 1e-4, forms, None, False)[0]

    def normalise_backward(g1: torch.Tensor, g2: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, constants: torch.Tensor) -> Any:
        return op.normalise_backward([g1, g2], [w1, w2], constants, 1e-4, forms)

    def iterate(a: torch.Tensor, b: torch.Tensor) -> Any:
        return op.power_iteration_([a, b], [t.to(a) for t in u], [t.to(a) for t in v], 1e-4)

    constants = random(2 + 4 + 27 + 2 + 6)
    constants[:2] = constants[:2].abs() + 1
    return {
        "adain": Case(lambda *t: op.adain(*t, 1e-4, "relu")[0], [x, scale, bias]),
        "add_adain": Case(lambda *t: op.add_adain(*t, 1e-4, None)[:2], [x, residual, scale, bias]),
        "adain_backward": Case(
            lambda *t: op.adain_backward(*t, "relu"), [residual, 2 * x, x, scale, bias, mean, rstd], REVERSE, "adain_backward"
        ),
        "attention": Case(lambda *t: op.attention(*t)[0], [query, key, value]),
        "attention_backward": Case(
            op.attention_backward, [random(2, 4, 2), query, key, value, random(2, 4, 2), random(2, 4) + 3], REVERSE, "attention_backward"
        ),
        "normalise": Case(normalise, weights),
        "normalise_backward": Case(
            normalise_backward, [random(16, 3, 2, 2), random(2, 6), *weights, constants], REVERSE, "normalise_backward"
        ),
        "power_iteration_": Case(iterate, weights, BATCHES, "power_iteration_"),
        "draw_landmarks": Case(
            lambda p: op.draw_landmarks(p, 8, [0, 1, 2, 3, 4], [3, 2], [255, 0, 0, 0, 255, 9]), [4 + points], TRANSFORMS, "draw_landmarks"
        ),
        "landmark_motion": Case(lambda *t: op.landmark_motion(*t, 4), [points, points + 0.1], TRANSFORMS, "landmark_motion"),
        "warp": Case(op.warp, [image, motion]),
        "warp_backward": Case(
            lambda *t: op.warp_backward(*t, True, True), [random(2, 3, 5, 6, seed=1), image, motion], REVERSE, "warp_backward"
        ),
        "winograd": Case(lambda t: op.winograd(t, packed, None, None, None), [image], REVERSE, "winograd", linear=True),
    }


def public_cases() -> dict[str, Case]:
    """A case for every public function, through its ordinary arguments; more, where it has other ways."""
    cases = op_cases()
    x, residual, scale, bias = cases["add_adain"].tensors
    image, motion = cases["warp"].tensors
    source, target = cases["landmark_motion"].tensors
    weight, point = random(4, 3, 3, 3), random(4, 3, 1, 1)
    even = random(2, 3, 4, 4)
    packed, onednn = winograd.transform(weight), ops.pack(weight.float()[:, :, :2, :2], (1, 3, 4, 4))
    vectors = [[t.float() for t in (random(4), random(2))], [t.float() for t in (random(27), random(6))]]

    def normalise(*weights: torch.Tensor) -> Any:
        return ops.normalise(weights, *([t.to(weights[0]) for t in them] for them in vectors), forms=["downsample", "plain"])

    def block(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> Any:
        return ops.residual_block(x, (a, None), (b, None), (c, None), (scale, bias), resample="down")

    return {
        "adain": Case(lambda *t: ops.adain(*t), [x, scale, bias]),
        "adain, residual": Case(lambda x, r, s, b: ops.adain(x, s, b, activation="relu", residual=r), [x, residual, scale, bias]),
        "attention": Case(ops.attention, cases["attention"].tensors),
        "normalise": Case(normalise, cases["normalise"].tensors),
        "power_iteration_": Case(
            lambda *t: ops.power_iteration_(t, *([v.to(t[0]) for v in them] for them in vectors)),
            cases["normalise"].tensors,
            BATCHES,
            "power_iteration_",
        ),
        "draw_landmarks": Case(
            lambda p: ops.draw_landmarks(p, 8, [[0, 1, 2]], [(1, 2, 3)]), [source], (*TRANSFORMS, *REVERSE), "draw_landmarks"
        ),
        "landmark_motion": Case(lambda *t: ops.landmark_motion(*t, 4), [source, target], TRANSFORMS, "landmark_motion"),
        "warp": Case(ops.warp, [image, motion]),
        "warp_by_landmarks": Case(lambda t: ops.warp_by_landmarks(t, source, target), [image]),
        "conv2d": Case(lambda *t: ops.conv2d(*t, padding=1), [image, weight]),
        "conv2d, winograd": Case(lambda t: ops.conv2d(t, packed), [image], REVERSE, "winograd", linear=True),
        "conv2d, oneDNN": Case(lambda t: ops.conv2d(t, onednn), [image], BATCHES, "conv2d", linear=True),
        "conv_transpose2d": Case(lambda *t: ops.conv_transpose2d(*t, padding=1), [image, random(3, 4, 3, 3)]),
        "upsample_conv": Case(ops.upsample_conv, [image, weight]),
        "conv_downsample": Case(ops.conv_downsample, [even, weight]),
        "residual_block": Case(block, [even, weight, random(4, 4, 3, 3), point, scale, bias]),
    }


CASES = {f"op {name}": case for name, case in op_cases().items()} | public_cases()
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=BACKENDS)
def case(request: pytest.FixtureRequest, name: str) -> Any:
    """Of each backend in turn, which is chosen."""
    with use_backend(request.param):
        yield CASES[name]


def directional(function: Callable[..., Any], tensors: list[torch.Tensor], directions: list[torch.Tensor], step: float) -> Any:
    """Central differences, without any derivative of torch."""
    ahead, behind = (function(*(t + s * d for t, d in zip(tensors, directions, strict=True))) for s in (step, -step))
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def along(case: Case) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Directions of the inputs, and how the outputs change along them."""
    tensors = case.to(torch.float64)
    directions = [torch.randn_like(t) for t in tensors]
    return directions, [d.double() for d in directional(case.outputs, tensors, directions, 1.0 if case.linear else 1e-6)]


def assert_close(answers: list[torch.Tensor], truths: list[torch.Tensor]) -> None:
    for answer, truth in zip(answers, truths, strict=True):
        assert truth.abs().max() > 1e-3  # a zero would prove nothing
        torch.testing.assert_close(answer.double(), truth, atol=2e-4 * max(1.0, truth.abs().max().item()), rtol=0)


def refused(case: Case, way: str) -> Any:
    return pytest.raises(NotImplementedError, match=f"^{re.escape(case.name)}: ") if way in case.refuses else None


def inner(outputs: list[torch.Tensor], weights: list[torch.Tensor]) -> torch.Tensor:
    return sum(((o * w.to(o)).sum() for o, w in zip(outputs, weights, strict=True)), torch.zeros(()))


def test_every_op_and_public_function_has_a_case() -> None:
    registered = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("talkinghead::")}
    assert registered == set(op_cases())
    assert {name.split(",")[0] for name in public_cases()} == set(ops.__all__) - NOT_OPS


def test_kernels_only_write_into_tensors() -> None:
    # so that nothing can be differentiated that does not go through an op
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("talkinghead_native::")]
    assert len(names) == len(native._SCHEMAS)
    for name in names:
        schema = getattr(torch.ops.talkinghead_native, name.split("::")[1]).default._schema
        assert schema.is_mutable and not schema.returns


@every_case
@pytest.mark.parametrize("way", ["torch.func.jvp", "dual numbers"])
def test_forward_mode_is_right_or_refused(case: Case, way: str) -> None:
    tensors = case.to(torch.float32)

    def tangents(directions: list[torch.Tensor]) -> list[torch.Tensor]:
        directions = [d.float() for d in directions]
        if way == "torch.func.jvp":
            return list(torch.func.jvp(lambda *t: tuple(case.outputs(*t)), tuple(tensors), tuple(directions))[1])
        with forward_ad.dual_level():
            outputs = case.outputs(*map(forward_ad.make_dual, tensors, directions))
            return [forward_ad.unpack_dual(output).tangent for output in outputs]

    if expected := refused(case, "forward"):
        with expected:
            tangents(tensors)
        return
    directions, truth = along(case)
    assert_close(tangents(directions), truth)


@every_case
def test_torch_func_grad_is_right_or_refused(case: Case) -> None:
    tensors, numbers = case.to(torch.float32), tuple(range(len(case.tensors)))
    if expected := refused(case, "transform"):
        with expected:
            torch.func.grad(lambda *t: sum(o.sum() for o in case.outputs(*t)), numbers)(*tensors)
        return
    directions, changes = along(case)
    weights = [torch.randn_like(change) for change in changes]
    grads = torch.func.grad(lambda *t: inner(case.outputs(*t), weights), numbers)(*tensors)
    truth = sum((c * w).sum() for c, w in zip(changes, weights, strict=True))
    assert_close([sum((g.double() * d).sum() for g, d in zip(grads, directions, strict=True))], [truth])


@every_case
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_vmap_is_right_or_refused(case: Case, mode: Callable[[], Any]) -> None:
    batches = [torch.stack([t, 0.7 * t.roll(1, -1)], 1) for t in case.to(torch.float32)]
    with mode():
        mapped = torch.vmap(lambda *t: tuple(case.outputs(*t)), in_dims=1)
        if expected := refused(case, "batch"):
            with expected:
                mapped(*batches)
            return
        looped = zip(*(case.outputs(*(t[:, i] for t in batches)) for i in range(2)), strict=True)
        for answer, rows in zip(mapped(*batches), looped, strict=True):
            torch.testing.assert_close(answer, torch.stack(rows), atol=2e-4, rtol=1e-4)


@every_case
def test_vmap_over_grad_is_right_or_refused(case: Case) -> None:
    batches = [torch.stack([t, 0.7 * t.roll(1, -1)]) for t in case.to(torch.float32)]
    gradient = torch.func.grad(lambda *t: sum(o.square().sum() for o in case.outputs(*t)), tuple(range(len(batches))))
    if expected := refused(case, "transform"):
        with expected:
            torch.vmap(gradient)(*batches)
        return
    for answer, rows in zip(torch.vmap(gradient)(*batches), zip(*map(gradient, *batches), strict=True), strict=True):
        torch.testing.assert_close(answer, torch.stack(rows), atol=1e-3, rtol=1e-3)


@every_case
def test_double_backward_is_right_or_refused(case: Case) -> None:
    if set(case.refuses) & {"transform"}:
        pytest.skip(f"{case.name} has no gradient")
    expected = refused(case, "reverse")

    def gradient(*tensors: torch.Tensor, create_graph: bool = False) -> list[torch.Tensor]:
        tensors = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        return list(torch.autograd.grad(sum(o.square().sum() for o in case.outputs(*tensors)), tensors, create_graph=create_graph))

    tensors = [t.requires_grad_() for t in case.to(torch.float32)]
    if expected:
        outputs = case.outputs(*tensors)
        if any(o.requires_grad for o in outputs):  # else torch itself refuses
            with expected:
                outputs[0].sum().backward()
        return
    doubles = case.to(torch.float64)
    directions = [torch.randn_like(t) for t in doubles]
    truth = directional(gradient, doubles, directions, 1e-6)
    first = gradient(*tensors, create_graph=True)
    second = torch.autograd.grad(inner(first, directions), tensors)
    torch.testing.assert_close([s.double() for s in second], truth, atol=2e-3 * max(t.abs().max().item() for t in truth), rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["adain", "adain, residual", "attention", "normalise", "warp"])
def test_a_backward_pass_of_batches_and_of_dual_numbers(backend: str, name: str) -> None:
    case = CASES[name]
    tensors = [t.float().requires_grad_() for t in case.tensors]
    with use_backend(backend):
        outputs = case.outputs(*tensors)
        grads = [torch.randn_like(o) for o in outputs]
        tangents = [torch.randn_like(o) for o in outputs]
        one, other = (torch.autograd.grad(outputs, tensors, each, retain_graph=True) for each in (grads, tangents))
        both = [torch.stack(each) for each in zip(grads, tangents, strict=True)]
        if name == "normalise":
            with pytest.raises(NotImplementedError, match="normalise_backward: takes no gradients of is_grads_batched"):
                torch.autograd.grad(outputs, tensors, both, is_grads_batched=True, retain_graph=True)
        else:
            batched = torch.autograd.grad(outputs, tensors, both, is_grads_batched=True, retain_graph=True)
            torch.testing.assert_close(batched, tuple(map(torch.stack, zip(one, other, strict=True))), atol=1e-4, rtol=1e-4)
        with forward_ad.dual_level():
            duals = torch.autograd.grad(outputs, tensors, list(map(forward_ad.make_dual, grads, tangents)))
            torch.testing.assert_close(tuple(forward_ad.unpack_dual(d).tangent for d in duals), other, atol=1e-4, rtol=1e-4)


def test_what_is_not_differentiated_still_runs_its_kernel() -> None:
    calls = []
    x, scale = random(1, 2, 3, 3).float(), random(1, 2).float()

    def loss(y: torch.Tensor) -> torch.Tensor:
        image = ops.draw_landmarks(x[0, :, :, :2] * 3, 8, [[0, 1]], [(1, 2, 3)])  # constants, whatever is differentiated
        calls.append(ops.adain(x, scale, scale))
        return (y * image.mean() * calls[-1].mean()).sum()

    wanted = torch.autograd.functional.jacobian(loss, scale)
    torch.testing.assert_close(torch.func.grad(loss)(scale), wanted)
    torch.testing.assert_close(torch.func.jacfwd(loss)(scale), wanted)
    assert torch.equal(calls[0], calls[1])
