"""RowAdam compared with sums over all steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from talkinghead.config import AdamConfig
from talkinghead.training.row_adam import RowAdam

RATE = 0.1


def optimiser_of(rows, beta1=0.0, beta2=0.999, eps=1e-8):
    parameter = nn.Parameter(torch.zeros(rows, 3))
    return parameter, RowAdam(parameter, AdamConfig(RATE, beta1, beta2, eps))


def advance(parameter, optimiser, gradients):
    """Take one step whose gradient holds these rows: {row: [D]}."""
    rows = torch.tensor(list(gradients))
    optimiser.zero_grad()
    (F.embedding(rows, parameter, sparse=True) * torch.stack(list(gradients.values()))).sum().backward()
    optimiser.step()


def expected_moves(history, beta1, beta2, eps):
    """Return how far each step moves a row, from its gradients at all steps, None where it was not used."""
    for now, gradient in enumerate(history):
        if gradient is None:
            yield torch.zeros(3, dtype=torch.float64)
            continue
        used = [(now - then, value) for then, value in enumerate(history[: now + 1]) if value is not None]
        mean, square = (
            sum((1 - beta) * beta**age * value**power for age, value in used)
            / sum((1 - beta) * beta**age for age, _ in used)
            for beta, power in ((beta1, 1), (beta2, 2))
        )
        yield -RATE * mean / (square.sqrt() + eps)


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.0, 0.999, 1e-8), (0.5, 0.99, 1e-8), (0.9, 0.9, 1e-2)])
def test_row_adam_of_rare_rows_matches_formula(beta1, beta2, eps):
    random = torch.Generator().manual_seed(0)
    parameter, optimiser = optimiser_of(4, beta1, beta2, eps)
    steps = 60
    used = [torch.rand(steps, generator=random) < chance for chance in (1.1, 0.5, 0.05, 0.0)]
    used[2][-1] = True
    gradients = torch.randn(steps, 4, 3, generator=random, dtype=torch.float64)
    moves = []
    for step in range(steps):
        before = parameter.detach().clone()
        advance(
            parameter, optimiser, {row: gradients[step, row].float() for row in range(4) if used[row][step]}
        )
        moves.append(parameter.detach() - before)
    for row in range(4):
        history = [gradients[step, row] if used[row][step] else None for step in range(steps)]
        expected = torch.stack(list(expected_moves(history, beta1, beta2, eps)))
        torch.testing.assert_close(torch.stack(moves)[:, row].double(), expected, atol=2e-6, rtol=1e-4)
    assert (parameter[3] == 0).all() and (torch.stack(moves)[:, :3].abs().amax((0, 2)) > RATE / 10).all()


@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_row_adam_of_frequent_rows_equals_adam(beta1):
    parameter, optimiser = optimiser_of(2, beta1)
    other = nn.Parameter(torch.zeros(2, 3))
    adam = torch.optim.Adam([other], lr=RATE, betas=(beta1, 0.999))
    random = torch.Generator().manual_seed(1)
    for _ in range(20):
        gradient = torch.randn(2, 3, generator=random)
        advance(parameter, optimiser, dict(enumerate(gradient)))
        other.grad = gradient
        adam.step()
    torch.testing.assert_close(parameter, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pause", [1, 100, 20_000])
def test_row_adam_after_pause_moves_one_learning_rate(pause):
    """Compare with Adam, whose second moment has decayed and which moves the row by 32 rates."""
    parameter, optimiser = optimiser_of(2)
    gradient = torch.tensor([1e-3, -1.0, 50.0])
    advance(parameter, optimiser, {1: gradient})
    optimiser.state[parameter]["step"] += pause  # steps that drew other rows leave nothing else behind
    before = parameter.detach().clone()
    advance(parameter, optimiser, {1: gradient})
    moved = parameter.detach() - before
    torch.testing.assert_close(moved[1].abs(), torch.full((3,), RATE), rtol=1e-3, atol=0)
    assert (moved[0] == 0).all()


def test_row_adam_keeps_unused_rows():
    parameter, optimiser = optimiser_of(3)
    advance(parameter, optimiser, {0: torch.ones(3)})
    before = {name: tensor.clone() for name, tensor in optimiser.state[parameter].items()}
    advance(parameter, optimiser, {1: torch.ones(3)})
    state = optimiser.state[parameter]
    assert state["step"] == before["step"] + 1
    assert all(torch.equal(state[name][0], before[name][0]) for name in before if name != "step")
    assert state["last_step"].tolist() == [1, 2, 0]


def test_row_adam_zero_gradient_decays_moments():
    parameter, optimiser = optimiser_of(1)
    advance(parameter, optimiser, {0: torch.zeros(3)})
    assert (parameter == 0).all() and optimiser.state[parameter]["last_step"].tolist() == [1]


def test_row_adam_sums_duplicate_rows():
    parameter, optimiser = optimiser_of(2, beta2=0.5)
    rows = torch.tensor([1, 1])
    (F.embedding(rows, parameter, sparse=True) * torch.tensor([[1.0], [2.0]])).sum().backward()
    optimiser.step()
    torch.testing.assert_close(optimiser.state[parameter]["exp_avg"][1], torch.full((3,), 3.0))


def test_row_adam_rejects_closure():
    _, optimiser = optimiser_of(1)
    with pytest.raises(ValueError, match="takes no closure"):
        optimiser.step(lambda: 0.0)
