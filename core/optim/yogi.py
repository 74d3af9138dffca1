"""Yogi: Adam whose second moment moves by steps of its own size."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim.optimizer import (
    Group,
    Numbers,
    Optimizer,
    at_least_zero,
    from_zero_to_one,
)
from holdfast.core.parameter import Parameter


class Yogi(Optimizer):
    """w -= lr * m / (sqrt(v) + eps), v -= (1 - beta2) * sign(v - g²) * g².

    Algorithm 2 of Zaheer et al., "Adaptive methods for nonconvex optimization" (2018): m is the
    decaying mean of g, and neither is corrected for its start. v begins at
    `initial_accumulator_value`; `weight_decay` is added to the gradient.
    """

    state_names = ("mean", "square")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        initial_accumulator_value: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "initial_accumulator_value": initial_accumulator_value,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "eps", "initial_accumulator_value", "weight_decay")
        from_zero_to_one(group, "betas")

    def begin(self, name: str, state: Array, group: Group) -> None:
        """Let the second moment begin at the group's value."""
        if name == "square":
            state[...] = group["initial_accumulator_value"]

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        b1, b2 = group["betas"]
        for w, g, (mean, square), s in self.blocks(stretch, group):
            mean *= b1
            mean += np.multiply(g, 1 - b1, out=s)
            np.multiply(g, g, out=s)
            t = np.subtract(square, s, out=self.buffer("second", s.size))
            np.sign(t, out=t)
            t *= s
            t *= 1 - b2
            square -= t
            np.sqrt(square, out=s)
            s += group["eps"]
            np.divide(mean, s, out=s)
            s *= group["lr"]
            w -= s
