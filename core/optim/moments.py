"""What Adam and its kin share: the gradient's first two moments, kept as decaying sums.

Rule: a moment is kept divided by its "moment_scale", which is 1 - beta for the betas that the group
began with: then the new gradient is added as it is, and a block takes two passes less than with the
means themselves. The scale is put back into the numbers that a step multiplies by anyway.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim.optimizer import (
    Group,
    Numbers,
    Optimizer,
    at_least_zero,
    from_zero_to_one,
)

Accumulate = Callable[[Array, Array, Array, Array], None]
"""Takes a block's gradient `g` into its `mean` and `square`, with scratch `s`."""


class Scales(NamedTuple):
    """What makes the moments as kept into means whose start at zero is corrected."""

    mean: float
    """To be multiplied by `mean`."""
    root: float
    """To be multiplied by the root of `square`."""


class MomentOptimizer(Optimizer):
    """Keeps moments of the gradient that decay by the group's `betas`."""

    state_names: ClassVar[tuple[str, ...]] = ("mean", "square")

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; settings that it does not name have the defaults."""
        betas = param_group.get("betas", self.defaults["betas"])
        super().add_param_group({"moment_scale": tuple(1 - b for b in betas), **param_group})

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr", "eps", "weight_decay")
        from_zero_to_one(group, "betas")

    def shares(self, group: Group) -> tuple[float, float]:
        """Return by what a new gradient, and its square, are multiplied as they are taken in.

        Both are 1 unless a schedule, say, has changed the betas.
        """
        (b1, b2), (scale1, scale2) = group["betas"], group["moment_scale"]
        return (1 - b1) / scale1, (1 - b2) / scale2

    def accumulation(self, group: Group) -> Accumulate:
        """Return what takes a block's gradient into its moments."""
        (b1, b2), (share1, share2) = group["betas"], self.shares(group)

        def accumulate(g: Array, mean: Array, square: Array, s: Array) -> None:
            mean *= b1
            mean += g if share1 == 1 else np.multiply(g, share1, out=s)
            np.multiply(g, g, out=s)
            if share2 != 1:
                s *= share2
            square *= b2
            square += s

        return accumulate

    def scales(self, group: Group, numbers: Numbers) -> Scales:
        """Return the scales after `numbers[0]` steps."""
        (b1, b2), (scale1, scale2), step = group["betas"], group["moment_scale"], numbers[0]
        return Scales(scale1 / (1 - b1**step), math.sqrt(scale2 / (1 - b2**step)))
