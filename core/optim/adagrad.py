"""Adagrad: rates that shrink with the sum of the squared gradients."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim.optimizer import Group, Numbers, Optimizer, at_least_zero
from holdfast.core.parameter import Parameter


class Adagrad(Optimizer):
    """w -= lr * g / (sqrt(sum of g²) + eps) (Duchi, Hazan and Singer, 2011).

    At step t the rate is lr / (1 + (t - 1) * lr_decay). The sum begins at
    `initial_accumulator_value`.
    """

    state_names = ("sum",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def begin(self, name: str, state: Array, group: Group) -> None:
        """Let the sum begin at the group's value."""
        state[...] = group["initial_accumulator_value"]

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        rate = group["lr"] / (1 + (numbers[0] - 1) * group["lr_decay"])
        for w, g, (total,), s in self.blocks(stretch, group):
            total += np.multiply(g, g, out=s)
            np.sqrt(total, out=s)
            s += group["eps"]
            np.divide(g, s, out=s)
            s *= rate
            w -= s
