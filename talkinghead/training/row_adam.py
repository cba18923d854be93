"""Adam for a matrix of which a step uses a few rows, such as W with one row for each training video."""

from typing import Any

import torch
from torch import Tensor, nn

from ..config import AdamConfig


class RowAdam(torch.optim.Optimizer):
    """Adam that moves a row only in steps that use it, by the moments of that row.

    Both moments decay at every step, whether it uses the row or not, as if the gradient had been zero. Adam
    divides them by 1 - beta^t, the sum of the weights of all t steps; here each row is divided by the sum of
    the weights of the steps that used it. A row that every step uses moves as by Adam. A row that is used
    after a long pause moves by about one learning rate, where Adam's second moment, decayed and divided by 1,
    makes it 1 / sqrt(1 - beta2): 32 learning rates at a beta2 of 0.999.

    Args:
        parameter: [N, D]. Its gradient is sparse, as that of `F.embedding(..., sparse=True)`: all rows in it,
            even zeros, were used.
        config: learning rate, betas and eps.
    """

    def __init__(self, parameter: nn.Parameter, config: AdamConfig) -> None:
        super().__init__(
            [parameter],
            {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "eps": config.eps},
        )
        rows, device = len(parameter), parameter.device
        self.state[parameter] = {  # created here, so that it can be saved and loaded before the first step
            "step": torch.zeros((), dtype=torch.int64, device=device),
            "last_step": torch.zeros(rows, dtype=torch.int64, device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
            "weight_sum": torch.zeros(rows, device=device),
            "weight_sum_sq": torch.zeros(rows, device=device),
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows that the gradient holds.

        Raises:
            ValueError: a closure, which is not supported.
        """
        if closure is not None:
            raise ValueError("RowAdam.step takes no closure; compute the gradient before")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_rows(parameter, group)

    def _update_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Update the moments of the rows in the gradient, and the rows."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        gradient = parameter.grad.coalesce()  # type: ignore[union-attr]
        rows, values = gradient.indices()[0], gradient.values()
        state["step"] += 1
        steps = (state["step"] - state["last_step"][rows]).to(values.dtype)
        state["last_step"][rows] = state["step"]
        mean = self._average(
            rows,
            values,
            decay=beta1**steps,
            beta=beta1,
            moment=state["exp_avg"],
            weight_sum=state["weight_sum"],
        )
        mean_square = self._average(
            rows,
            values.square(),
            decay=beta2**steps,
            beta=beta2,
            moment=state["exp_avg_sq"],
            weight_sum=state["weight_sum_sq"],
        )
        parameter[rows] -= group["lr"] * mean / (mean_square.sqrt() + group["eps"])

    @staticmethod
    def _average(
        rows: Tensor, values: Tensor, decay: Tensor, beta: float, moment: Tensor, weight_sum: Tensor
    ) -> Tensor:
        """Add values [R, D] to the moment of their rows, and return it divided by the sum of its weights."""
        moment[rows] = moment[rows] * decay[:, None] + (1 - beta) * values
        weight_sum[rows] = weight_sum[rows] * decay + (1 - beta)
        return moment[rows] / weight_sum[rows, None]

    def fill_missing_state(self) -> None:
        """Fill in what a state of torch's Adam lacks: in it the weights sum to 1 - beta^t in every row, and
        the last step of every row is the current one.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if state["step"] > 0 and not state["weight_sum"].any():
                    state["last_step"].fill_(state["step"])
                    for name, beta in zip(("weight_sum", "weight_sum_sq"), group["betas"], strict=True):
                        state[name].fill_(1 - beta ** int(state["step"]))
