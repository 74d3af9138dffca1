"""LAMB: Adam's step, of a length that fits each parameter, for large batches."""

import math
from collections.abc import Iterable

import numpy as np

from holdfast.core.norms import square_sum
from holdfast.core.optim.moments import MomentOptimizer
from holdfast.core.optim.optimizer import Group, Numbers
from holdfast.core.parameter import Parameter


class LAMB(MomentOptimizer):
    """w -= lr * |w| / |d| * d, where d is AdamW's direction with `weight_decay` * w added.

    Algorithm 2 of You et al., "Large batch optimization for deep learning" (2020), each parameter a
    layer. Where either norm is 0 the ratio is 1, and in groups whose `adapt` is off: the authors
    leave biases and the parameters of normalizations out.
    """

    layerwise = True
    decays = False

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        adapt: bool = True,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapt": adapt,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update one parameter: its direction first, then a step whose length is known by then."""
        accumulate, scales = self.accumulation(group), self.scales(group, numbers)
        root, eps = scales.root / scales.mean, group["eps"] / scales.mean
        direction = self.buffer("direction", stretch.stop - stretch.start)
        weights = length = 0.0  # squared
        start = 0
        for w, g, (mean, square), s in self.blocks(stretch, group):
            d = direction[start : start + w.size]
            start += w.size
            accumulate(g, mean, square, s)
            np.sqrt(square, out=d)
            d *= root
            d += eps
            np.divide(mean, d, out=d)
            if group["weight_decay"]:
                d += np.multiply(w, group["weight_decay"], out=s)
            if group["adapt"]:
                weights += square_sum(w)
                length += square_sum(d)
        direction *= group["lr"] * (math.sqrt(weights / length) if weights and length else 1)
        start = 0
        for w, *_ in self.blocks(stretch, group):
            w -= direction[start : start + w.size]
            start += w.size
