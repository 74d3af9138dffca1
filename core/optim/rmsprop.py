"""RMSprop: the gradient over the root of the mean of its square."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.optimizer import Group, Numbers, Optimizer, at_least_zero
from holdfast.core.parameter import Parameter


class RMSprop(Optimizer):
    """w -= lr * g / (sqrt(mean of g²) + eps), a mean that forgets by `alpha` (Hinton, 2012).

    `centered` takes the variance instead of the mean of the square (Graves, 2013). `momentum` is
    that of what is subtracted.
    """

    state_names = ("square", "mean", "momentum")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "alpha", "eps", "weight_decay", "momentum")

    def used_state(self, group: Group) -> tuple[str, ...]:
        """Return the names of what these settings need."""
        wanted = {"square": True, "mean": group["centered"], "momentum": group["momentum"] > 0}
        return tuple(name for name in self.state_names if wanted[name])

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        for w, g, (square, *more), s in self.blocks(stretch, group):
            np.multiply(g, g, out=s)
            s *= 1 - alpha
            square *= alpha
            square += s
            if group["centered"]:
                mean = more[0]
                mean *= alpha
                mean += np.multiply(g, 1 - alpha, out=s)
                np.multiply(mean, mean, out=s)
                np.subtract(square, s, out=s)
                np.maximum(s, 0, out=s)  # rounding may leave a variance below 0
                np.sqrt(s, out=s)
            else:
                np.sqrt(square, out=s)
            s += group["eps"]
            np.divide(g, s, out=s)
            if momentum:
                m = more[-1]
                m *= momentum
                m += s
                np.multiply(m, lr, out=s)
            else:
                s *= lr
            w -= s
