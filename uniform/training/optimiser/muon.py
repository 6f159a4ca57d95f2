"""Muon: momentum that is made orthogonal before a matrix steps along it, all in float32.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). torch.optim.Muon is the same
update with its products in bfloat16; that rounding turns the last bits of a gradient, which differ from one number of
processes to another, into differences that grow, and a run that goes on elsewhere would no longer be the same run.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of X, X X' X and (X X')^2 X: singular values between 0 and 1 go quickly to between 0.7 and 1.2."""
ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices (rows, columns) inside the blocks. State per parameter: "momentum_buffer".

    Args:
        lr: a step's spectral norm, about; times sqrt(rows / columns) where a matrix has more rows than columns.
        momentum: share of the running mean that stays at each step; the step looks one ahead (Nesterov).
        weight_decay: decoupled.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalised(parameter.grad.lerp(mean, group["momentum"]))
                tall = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"] * tall)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(rows, columns) with all singular values brought near 1 by Newton and Schulz's iteration; float32."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: Tensor = wide / wide.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide is matrix else x.T
