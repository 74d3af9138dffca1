"""NAdam: Adam with Nesterov's momentum."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.optim.moments import MomentOptimizer
from holdfast.core.optim.optimizer import NEGLIGIBLE, Group, Numbers, at_least_zero
from holdfast.core.parameter import Parameter


class NAdam(MomentOptimizer):
    """Adam whose step looks ahead along the momentum (Dozat, 2016).

    The momentum at step t is mu(t) = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2); the product of
    those so far is counted for each parameter.
    """

    start_numbers = (0, 1.0)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        super().check(group)
        at_least_zero(group, "momentum_decay")

    def advance(self, group: Group, numbers: Numbers) -> Numbers:
        """Return the steps, and the product of their momenta, after one more."""
        step, product = numbers
        return step + 1, product * _momentum(group, step + 1)

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        accumulate = self.accumulation(group)
        step, product = numbers
        following = _momentum(group, step + 1)
        by_gradient = group["lr"] * (1 - _momentum(group, step)) / (1 - product)
        by_mean = group["lr"] * following / (1 - product * following) * group["moment_scale"][0]
        moves = abs(by_gradient) > NEGLIGIBLE
        if moves:
            root = self.scales(group, numbers).root / by_gradient
            eps, ahead = group["eps"] / by_gradient, by_mean / by_gradient
        for w, g, (mean, square), s in self.blocks(stretch, group):
            accumulate(g, mean, square, s)
            if moves:
                np.sqrt(square, out=s)
                s *= root
                s += eps
                t = np.multiply(mean, ahead, out=self.buffer("second", s.size))
                t += g
                t /= s
                w -= t


def _momentum(group: Group, step: float) -> float:
    """Return mu(step)."""
    momentum: float = group["betas"][0] * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
    return momentum
