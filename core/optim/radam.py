"""RAdam: Adam that trusts its second moment only once that has seen enough."""

import math
from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.moments import MomentOptimizer
from holdfast.core.optim.optimizer import NEGLIGIBLE, Group, Numbers
from holdfast.core.parameter import Parameter

TRUSTED_FROM = 5
"""The length of the moving average from which its variance is finite enough to be rectified."""


class RAdam(MomentOptimizer):
    """Adam whose rate is rectified for the variance of the second moment (Liu et al., 2020).

    In the first steps, where that has no finite variance, it is momentum alone.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        accumulate = self.accumulation(group)
        b2, scale2, step = group["betas"][1], group["moment_scale"][1], numbers[0]
        correction = 1 - b2**step
        rate = group["lr"] * self.scales(group, numbers).mean
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * step * b2**step / correction
        rectified = length > TRUSTED_FROM
        if rectified:
            rate *= math.sqrt(
                correction
                * ((length - 4) * (length - 2) * longest)
                / ((longest - 4) * (longest - 2) * length)
            )
        moves = abs(rate) > NEGLIGIBLE
        for w, g, (mean, square), s in self.blocks(stretch, group):
            accumulate(g, mean, square, s)
            if moves and rectified:
                np.sqrt(square, out=s)
                s *= math.sqrt(scale2) / rate
                s += group["eps"] / rate
                w -= np.divide(mean, s, out=s)
            elif moves:
                w -= np.multiply(mean, rate, out=s)
