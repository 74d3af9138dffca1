"""Adamax: Adam by the largest gradient instead of the mean of the square."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.optimizer import (
    Group,
    Numbers,
    Optimizer,
    at_least_zero,
    from_zero_to_one,
)
from holdfast.core.parameter import Parameter


class Adamax(Optimizer):
    """w -= lr * mean of g / u, where u = max(beta2 * u, |g| + eps) (Kingma and Ba, 2015)."""

    state_names = ("mean", "largest")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "eps", "weight_decay")
        from_zero_to_one(group, "betas")

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        b1, b2 = group["betas"]
        rate = group["lr"] / (1 - b1 ** numbers[0])
        for w, g, (mean, largest), s in self.blocks(stretch, group):
            mean *= b1
            mean += np.multiply(g, 1 - b1, out=s)
            np.abs(g, out=s)
            s += group["eps"]
            largest *= b2
            np.maximum(largest, s, out=largest)
            np.divide(mean, largest, out=s)
            s *= rate
            w -= s
