"""Schedules that follow one curve from the base rate on."""

import math
from collections.abc import Callable, Iterable, Sequence

from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler, at_least_one, per_group
from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import UsageError

Factor = Callable[[int], float]
"""A factor by the number of steps."""


class LambdaLR(LRScheduler):
    """The base rate times `lr_lambda(last_epoch)`: one function, or one for each group."""

    unsaved = ("optimizer", "lr_lambdas")

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Factor] = per_group("lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        return [
            base * function(self.last_epoch)
            for base, function in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]


class MultiplicativeLR(LRScheduler):
    """Multiplies the rate by `lr_lambda(last_epoch)` at each step after the beginning."""

    unsaved = ("optimizer", "lr_lambdas")

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Factor] = per_group("lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        if self._is_initial:
            return self._rates()
        return [
            rate * function(self.last_epoch)
            for rate, function in zip(self._rates(), self.lr_lambdas, strict=True)
        ]


class StepLR(LRScheduler):
    """Multiplies by `gamma` every `step_size` steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        at_least_one("step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        falls = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [rate * self.gamma if falls else rate for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates."""
        return list(self.base_lrs)


class MultiStepLR(LRScheduler):
    """Multiplies by `gamma` at each of the `milestones`, as often as it is named."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        times = self.milestones.count(self.last_epoch)
        return [rate * self.gamma**times for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates, after a milestone at 0."""
        return [base * self.gamma ** self.milestones.count(0) for base in self.base_lrs]


class ConstantLR(LRScheduler):
    """The base rate times `factor` for the first `total_iters` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < factor <= 1:
            raise UsageError(f"factor is above 0 and at most 1; found {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        if self.last_epoch == 0:
            return [rate * self.factor for rate in self._rates()]
        ends = self.last_epoch == self.total_iters
        return [rate * (1 / self.factor) if ends else rate for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates times the factor."""
        factor = self.factor if self.total_iters > 0 else 1.0
        return [base * factor for base in self.base_lrs]


class LinearLR(LRScheduler):
    """Goes in a straight line from `start_factor` to `end_factor` in `total_iters` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        at_least_one("total_iters", total_iters)
        if not (0 < start_factor <= 1 and 0 <= end_factor <= 1):
            raise UsageError(
                "start_factor is above 0 and at most 1, end_factor lies from 0 to 1; found "
                f"{start_factor} and {end_factor}"
            )
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        if self.last_epoch == 0:
            return [rate * self.start_factor for rate in self._rates()]
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._rates()
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return [rate * (1 + rise / before) for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates times the first factor."""
        return [base * self.start_factor for base in self.base_lrs]


class ExponentialLR(LRScheduler):
    """Multiplies by `gamma` at each step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        return [rate if self._is_initial else rate * self.gamma for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates."""
        return list(self.base_lrs)


class PolynomialLR(LRScheduler):
    """The base rate times (1 - last_epoch / total_iters) ** power; 0 from there on."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        at_least_one("total_iters", total_iters)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._rates()
        left = 1 - self.last_epoch / self.total_iters
        before = 1 - (self.last_epoch - 1) / self.total_iters
        return [rate * (left / before) ** self.power for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates."""
        return list(self.base_lrs)


class CosineAnnealingLR(LRScheduler):
    """Follows half a cosine from the base rate to `eta_min` in `T_max` steps, and back.

    Loshchilov and Hutter, "SGDR" (2017), without the restarts.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        at_least_one("T_max", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        now, low = self.last_epoch, self.eta_min
        if self._is_initial:
            return self._rates()
        if (now - 1 - self.T_max) % (2 * self.T_max) == 0:  # where it turns, the ratio is 0 / 0
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [
                rate + (base - low) * rise
                for rate, base in zip(self._rates(), self.base_lrs, strict=True)
            ]
        ratio = self._height(now) / self._height(now - 1)
        return [ratio * (rate - low) + low for rate in self._rates()]

    def get_start_lr(self) -> list[float]:
        """Return the base rates."""
        return list(self.base_lrs)

    def _height(self, step: int) -> float:
        return (1 + math.cos(math.pi * step / self.T_max)) / 2
