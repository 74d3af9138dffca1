"""Stochastic gradient descent, with momentum."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim.optimizer import Optimizer
from holdfast.core.parameter import Parameter
from holdfast.errors import UsageError


class SGD(Optimizer):
    """w -= lr * m, where m = momentum * m + (1 - dampening) * (g + weight_decay * w).

    The first step's m is the gradient itself. With `nesterov`, w moves by g + momentum * m.
    """

    settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    state_names = ("momentum",)

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening):
            raise UsageError("nesterov needs a momentum above 0 and no dampening")
        if momentum < 0 or weight_decay < 0:
            raise UsageError(
                f"momentum and weight_decay are numbers from 0 up; found {momentum} and "
                f"{weight_decay}"
            )
        self.momentum, self.dampening = momentum, dampening
        self.weight_decay, self.nesterov = weight_decay, nesterov
        super().__init__(params, lr)

    def used_state(self) -> tuple[str, ...]:
        """Return the momentum's name if there is one."""
        return self.state_names if self.momentum else ()

    def update(self, w: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Update one block."""
        (s,) = scratch
        if self.weight_decay:
            np.multiply(w, self.weight_decay, out=s)
            s += g
            g = s
        if self.momentum:
            (m,) = state
            m *= self.momentum
            if self.dampening and self.steps > 1:
                m += g * (1 - self.dampening)
            else:
                m += g
            if self.nesterov:
                moved = m * self.momentum
                moved += g
                g = moved
            else:
                g = m
        np.multiply(g, self.lr, out=s)
        w -= s
