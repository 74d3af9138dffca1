"""Adadelta: steps in the weights' own unit, without a rate to choose."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.optimizer import Group, Numbers, Optimizer, at_least_zero
from holdfast.core.parameter import Parameter
from holdfast.errors import UsageError


class Adadelta(Optimizer):
    """w -= lr * d, where d = g * sqrt(mean of d² + eps) / sqrt(mean of g² + eps) (Zeiler, 2012).

    Both means forget by `rho`.
    """

    state_names = ("square", "moved")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "eps", "weight_decay")
        if not 0 <= group["rho"] <= 1:
            raise UsageError(f"rho lies from 0 to 1; found {group['rho']}")

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        lr, rho, eps = group["lr"], group["rho"], group["eps"]
        for w, g, (square, moved), s in self.blocks(stretch, group):
            t = self.buffer("second", s.size)
            np.multiply(g, g, out=s)
            s *= 1 - rho
            square *= rho
            square += s
            np.add(moved, eps, out=s)
            s /= np.add(square, eps, out=t)
            np.sqrt(s, out=s)
            s *= g
            w -= np.multiply(s, lr, out=t)
            s *= s
            s *= 1 - rho
            moved *= rho
            moved += s
