"""Adam, and its form with decoupled weight decay."""

from collections.abc import Iterable

import numpy as np

from holdfast.core.kernels import loops_for
from holdfast.core.optim.moments import MomentOptimizer
from holdfast.core.optim.optimizer import NEGLIGIBLE, Group, Numbers
from holdfast.core.parameter import Parameter


class Adam(MomentOptimizer):
    """w -= lr * mean of g / (sqrt(mean of g²) + eps) (Kingma and Ba, 2015).

    Both means forget by their beta, and are corrected for their start at zero. `weight_decay` is
    added to the gradient, or shrinks the weights if it is decoupled. `amsgrad` divides by the
    largest mean of g² so far (Reddi, Kale and Kumar, 2018).
    """

    state_names = ("mean", "square", "largest")

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def used_state(self, group: Group) -> tuple[str, ...]:
        """Return the names of what these settings need."""
        return self.state_names if group["amsgrad"] else self.state_names[:2]

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena."""
        scales = self.scales(group, numbers)
        # The rate goes into the divisor, where a multiplication and an addition are made anyway.
        rate = group["lr"] * scales.mean
        moves = abs(rate) > NEGLIGIBLE
        root, eps = (scales.root / rate, group["eps"] / rate) if moves else (0.0, 0.0)
        if moves and not group["amsgrad"] and self.shares(group) == (1, 1):
            loops = loops_for(self.arena.weights[stretch], self.arena.sums)
            if loops is not None:
                b1, b2, by, plus = map(np.float32, (*group["betas"], root, eps))
                for w, g, (mean, square), _ in self.blocks(stretch, group):
                    loops.adam(w, g, mean, square, b1, b2, by, plus)
                return
        accumulate = self.accumulation(group)
        for w, g, (mean, square, *rest), s in self.blocks(stretch, group):
            accumulate(g, mean, square, s)
            if rest:
                (largest,) = rest
                square = np.maximum(largest, square, out=largest)
            if moves:
                np.sqrt(square, out=s)
                s *= root
                s += eps
                w -= np.divide(mean, s, out=s)


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
        )
