"""Gradient descent, with momentum where asked for."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.optimizer import Group, Numbers, Optimizer, at_least_zero
from holdfast.core.parameter import Parameter
from holdfast.errors import UsageError


class SGD(Optimizer):
    """w -= lr * m, where m = momentum * m + (1 - dampening) * (g + weight_decay * w).

    The first step's m is the gradient itself. With `nesterov`, w moves by g + momentum * m
    (Sutskever et al., 2013). `maximize` goes up instead of down.
    """

    state_names = ("momentum",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"]):
            raise UsageError("nesterov needs a momentum above 0 and no dampening")

    def used_state(self, group: Group) -> tuple[str, ...]:
        """Return the momentum's name if there is one."""
        return self.state_names if group["momentum"] else ()

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        lr, momentum = group["lr"], group["momentum"]
        share = 1 - group["dampening"] if numbers[0] > 1 else 1
        for w, g, state, s in self.blocks(stretch, group):
            moved = g
            if momentum:
                (m,) = state
                m *= momentum
                m += g if share == 1 else np.multiply(g, share, out=s)
                moved = m
                if group["nesterov"]:
                    moved = np.multiply(m, momentum, out=s)
                    moved += g
            w -= np.multiply(moved, lr, out=s)
