"""Adam, and its form with decoupled weight decay."""

import math
from collections.abc import Iterable

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.optim.optimizer import Optimizer
from holdfast.core.parameter import Parameter
from holdfast.errors import UsageError


class Adam(Optimizer):
    """Moments of the gradient, corrected for their start at zero (Kingma and Ba, 2015).

    `weight_decay` is added to the gradient.
    """

    settings = ("lr", "betas", "eps", "weight_decay")
    state_names = ("mean", "square")
    scratch_count = 2

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"betas lie from 0 up to, not including, 1; found {betas}")
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        super().__init__(params, lr)

    def prepare(self) -> None:
        """Compute this step's corrections."""
        b1, b2 = self.betas
        self._size = self.lr / (1 - b1**self.steps)
        self._root = 1 / math.sqrt(1 - b2**self.steps)

    def decay(self, w: Array, g: Array, scratch: Array) -> Array:
        """Return the gradient to go by, after weight decay."""
        if not self.weight_decay:
            return g
        np.multiply(w, self.weight_decay, out=scratch)
        scratch += g
        return scratch

    def update(self, w: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Update one block."""
        (b1, b2), (mean, square), (s, t) = self.betas, state, scratch
        g = self.decay(w, g, t)
        mean *= b1
        np.multiply(g, 1 - b1, out=s)
        mean += s
        np.multiply(g, g, out=s)
        s *= 1 - b2
        square *= b2
        square += s
        np.sqrt(square, out=s)
        s *= self._root
        s += self.eps
        np.divide(mean, s, out=s)
        s *= self._size
        w -= s


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def decay(self, w: Array, g: Array, scratch: Array) -> Array:
        """Shrink the weights; the gradient stays as it is."""
        if self.weight_decay:
            w *= 1 - self.lr * self.weight_decay
        return g
