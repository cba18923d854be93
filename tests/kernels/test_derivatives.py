"""Tests of derivatives: each is right, or refused with the name of the op, and none is silently zero.

The ops are listed by torch's registry and the functions by the package, so that new ones cannot be missed.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import extension, use_backend
from torch.autograd import forward_ad

from conftest import RUNNABLE
from support.derivative_cases import Case, op_cases, public_cases, random

BACKENDS = [name for name in ("reference", "cpp") if name in RUNNABLE]
NOT_OPS = {
    "ConvSequence",
    "InvertedResidualWeights",
    "pack_block",
    "pack_conv",
    "pack_inverted_residual",
    "backends",
    "decompositions",
    "pack",
    "use_backend",
}


CASES = {f"op {name}": case for name, case in op_cases().items()} | public_cases()
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=BACKENDS)
def case(request: pytest.FixtureRequest, name: str) -> Any:
    """Choose each backend in turn, and yield the case."""
    with use_backend(request.param):
        yield CASES[name]


def directional(
    function: Callable[..., Any], tensors: list[torch.Tensor], directions: list[torch.Tensor], step: float
) -> Any:
    """Return central differences, which use no derivative of torch."""
    ahead, behind = (
        function(*(t + s * d for t, d in zip(tensors, directions, strict=True))) for s in (step, -step)
    )
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def directional_derivatives(case: Case) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return directions of the inputs, and the derivatives of the outputs along them."""
    tensors = case.to(torch.float64)
    directions = [torch.randn_like(t) for t in tensors]
    return directions, [
        d.double() for d in directional(case.outputs, tensors, directions, 1.0 if case.linear else 1e-6)
    ]


def assert_close(answers: list[torch.Tensor], truths: list[torch.Tensor]) -> None:
    for answer, truth in zip(answers, truths, strict=True):
        assert truth.abs().max() > 1e-3  # a zero would prove nothing
        torch.testing.assert_close(
            answer.double(), truth, atol=2e-4 * max(1.0, truth.abs().max().item()), rtol=0
        )


def expect_refusal(case: Case, way: str) -> Any:
    return (
        pytest.raises(NotImplementedError, match=f"^{re.escape(case.name)}: ")
        if way in case.refuses
        else None
    )


def inner(outputs: list[torch.Tensor], weights: list[torch.Tensor]) -> torch.Tensor:
    return sum(((o * w.to(o)).sum() for o, w in zip(outputs, weights, strict=True)), torch.zeros(()))


def test_every_function_has_derivative_case() -> None:
    registered = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("talkinghead::")
    }
    assert registered == set(op_cases())
    assert {name.split(",")[0] for name in public_cases()} == set(ops.__all__) - NOT_OPS


def test_kernels_only_write_into_tensors() -> None:
    # so that nothing can be differentiated that does not go through an op
    names = [
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith("talkinghead_native::")
    ]
    assert len(names) == len(extension._SCHEMAS)
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
            return list(
                torch.func.jvp(lambda *t: tuple(case.outputs(*t)), tuple(tensors), tuple(directions))[1]
            )
        with forward_ad.dual_level():
            outputs = case.outputs(*map(forward_ad.make_dual, tensors, directions))
            return [forward_ad.unpack_dual(output).tangent for output in outputs]

    if expected := expect_refusal(case, "forward"):
        with expected:
            tangents(tensors)
        return
    directions, truth = directional_derivatives(case)
    assert_close(tangents(directions), truth)


@every_case
def test_torch_func_grad_is_right_or_refused(case: Case) -> None:
    tensors, numbers = case.to(torch.float32), tuple(range(len(case.tensors)))
    if expected := expect_refusal(case, "transform"):
        with expected:
            torch.func.grad(lambda *t: sum(o.sum() for o in case.outputs(*t)), numbers)(*tensors)
        return
    directions, changes = directional_derivatives(case)
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
        if expected := expect_refusal(case, "batch"):
            with expected:
                mapped(*batches)
            return
        looped = zip(*(case.outputs(*(t[:, i] for t in batches)) for i in range(2)), strict=True)
        for answer, rows in zip(mapped(*batches), looped, strict=True):
            torch.testing.assert_close(answer, torch.stack(rows), atol=2e-4, rtol=1e-4)


@every_case
def test_vmap_over_grad_is_right_or_refused(case: Case) -> None:
    batches = [torch.stack([t, 0.7 * t.roll(1, -1)]) for t in case.to(torch.float32)]
    gradient = torch.func.grad(
        lambda *t: sum(o.square().sum() for o in case.outputs(*t)), tuple(range(len(batches)))
    )
    if expected := expect_refusal(case, "transform"):
        with expected:
            torch.vmap(gradient)(*batches)
        return
    for answer, rows in zip(
        torch.vmap(gradient)(*batches), zip(*map(gradient, *batches), strict=True), strict=True
    ):
        torch.testing.assert_close(answer, torch.stack(rows), atol=1e-3, rtol=1e-3)


@every_case
def test_double_backward_is_right_or_refused(case: Case) -> None:
    if set(case.refuses) & {"transform"}:
        pytest.skip(f"{case.name} has no gradient")
    expected = expect_refusal(case, "reverse")

    def gradient(*tensors: torch.Tensor, create_graph: bool = False) -> list[torch.Tensor]:
        tensors = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        return list(
            torch.autograd.grad(
                sum(o.square().sum() for o in case.outputs(*tensors)), tensors, create_graph=create_graph
            )
        )

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
    torch.testing.assert_close(
        [s.double() for s in second], truth, atol=2e-3 * max(t.abs().max().item() for t in truth), rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["adain", "adain, residual", "attention", "normalise", "warp"])
def test_backward_of_batches_and_dual_numbers(backend: str, name: str) -> None:
    case = CASES[name]
    tensors = [t.float().requires_grad_() for t in case.tensors]
    with use_backend(backend):
        outputs = case.outputs(*tensors)
        grads = [torch.randn_like(o) for o in outputs]
        tangents = [torch.randn_like(o) for o in outputs]
        one, other = (
            torch.autograd.grad(outputs, tensors, vectors, retain_graph=True) for vectors in (grads, tangents)
        )
        both = [torch.stack(pair) for pair in zip(grads, tangents, strict=True)]
        if name == "normalise":
            with pytest.raises(
                NotImplementedError, match="normalise_backward: takes no gradients of is_grads_batched"
            ):
                torch.autograd.grad(outputs, tensors, both, is_grads_batched=True, retain_graph=True)
        else:
            batched = torch.autograd.grad(outputs, tensors, both, is_grads_batched=True, retain_graph=True)
            torch.testing.assert_close(
                batched, tuple(map(torch.stack, zip(one, other, strict=True))), atol=1e-4, rtol=1e-4
            )
        with forward_ad.dual_level():
            duals = torch.autograd.grad(outputs, tensors, list(map(forward_ad.make_dual, grads, tangents)))
            torch.testing.assert_close(
                tuple(forward_ad.unpack_dual(d).tangent for d in duals), other, atol=1e-4, rtol=1e-4
            )


def test_undifferentiated_call_runs_kernel() -> None:
    calls = []
    x, scale = random(1, 2, 3, 3).float(), random(1, 2).float()

    def loss(y: torch.Tensor) -> torch.Tensor:
        image = ops.draw_polylines(
            x[0, :, :, :2] * 3, 8, [[0, 1]], [(1, 2, 3)]
        )  # constants, whatever is differentiated
        calls.append(ops.adain(x, scale, scale))
        return (y * image.mean() * calls[-1].mean()).sum()

    expected = torch.autograd.functional.jacobian(loss, scale)
    torch.testing.assert_close(torch.func.grad(loss)(scale), expected)
    torch.testing.assert_close(torch.func.jacfwd(loss)(scale), expected)
    assert torch.equal(calls[0], calls[1])
