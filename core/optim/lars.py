"""LARS: momentum with a rate of its own for each parameter, for large batches."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.norms import total_norm
from holdfast.core.optim.optimizer import Group, Numbers, Optimizer, at_least_zero
from holdfast.core.parameter import Parameter


class LARS(Optimizer):
    """w -= m, where m = momentum * m + lr * r * (g + weight_decay * w).

    The ratio r is trust_coefficient * |w| / (|g| + weight_decay * |w|): Algorithm 1 of You, Gitman
    and Ginsburg, "Large batch training of convolutional networks" (2017), each parameter a layer.
    Where |w| or the divisor is 0 the ratio is 1, and in groups whose `adapt` is off: biases and the
    parameters of normalizations are usually left out.
    """

    state_names = ("momentum",)
    layerwise = True

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "momentum", "weight_decay", "trust_coefficient")

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update one parameter."""
        rate = group["lr"]
        if group["adapt"]:
            weights = total_norm([self.arena.weights[stretch]])
            divisor = total_norm([self.arena.sums[stretch]]) + group["weight_decay"] * weights
            if weights and divisor:
                rate *= group["trust_coefficient"] * weights / divisor
        for w, g, (m,), s in self.blocks(stretch, group):
            m *= group["momentum"]
            m += np.multiply(g, rate, out=s)
            w -= m
