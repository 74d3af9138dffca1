"""Schedules: the learning rate as a function of the number of `step()` calls."""

import math
from typing import Any

from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import CheckpointMismatch, UsageError


class LRScheduler:
    """Sets the optimizer's `lr` to `base_lr * factor(step)`, at once and after each `step()`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lr = optimizer.lr
        self.last_step = 0
        self._apply()

    def factor(self, step: int) -> float:
        """Return by what the base learning rate is multiplied after `step` steps."""
        raise TypeError(f"{type(self).__name__} has no factor(): define it")

    def step(self) -> None:
        """Move on by one: to be called after the optimizer's step, per step or per epoch."""
        self.last_step += 1
        self._apply()

    def _apply(self) -> None:
        self.optimizer.lr = self.base_lr * self.factor(self.last_step)

    def get_last_lr(self) -> list[float]:
        """Return the learning rate now, as a list as PyTorch does."""
        return [self.optimizer.lr]

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule stands, as data that JSON can hold."""
        kind = type(self).__name__
        return {"kind": kind, "base_lr": self.base_lr, "last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; raises CheckpointMismatch if of another kind."""
        kind = type(self).__name__
        if state.get("kind") != kind:
            raise CheckpointMismatch(
                f"this is the state of {state.get('kind')!r}, the schedule is {kind!r}"
            )
        self.base_lr, self.last_step = state["base_lr"], state["last_step"]
        self._apply()


class StepLR(LRScheduler):
    """Multiplies by `gamma` every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise UsageError(f"step_size is at least 1; found {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return gamma to the power of the stairs taken."""
        return self.gamma ** (step // self.step_size)


class CosineAnnealingLR(LRScheduler):
    """Follows half a cosine from the base rate to `eta_min` in `T_max` steps."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise UsageError(f"T_max is at least 1; found {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return the cosine's height."""
        low = self.eta_min / self.base_lr if self.base_lr else 0.0
        return low + (1 - low) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class LinearLR(LRScheduler):
    """Goes in a straight line from `start_factor` to `end_factor` in `total_iters` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        if total_iters < 1:
            raise UsageError(f"total_iters is at least 1; found {total_iters}")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return the line's height, level at its end."""
        along = min(step, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * along
