"""Schedules that rise and fall, and may take the momentum along."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler, at_least_one, per_group
from holdfast.core.optim.optimizer import Group, Optimizer
from holdfast.errors import UsageError

Each = float | Sequence[float]
"""A number for all groups, or one for each."""


class CosineAnnealingWarmRestarts(LRScheduler):
    """Follows half a cosine down to `eta_min` in T_0 steps, and starts again at the base rate.

    Each cycle is `T_mult` times as long as the one before (Loshchilov and Hutter, 2017).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        at_least_one("T_0", T_0)
        at_least_one("T_mult", T_mult)
        self.T_0, self.T_i, self.T_mult, self.eta_min = T_0, T_0, T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `T_cur`, the position in the cycle."""
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Move on by one, or to `epoch`, which may lie between two: epoch + batch / batches."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            if epoch < 0:
                raise UsageError(f"epoch is a number from 0 up; found {epoch}")
            self._enter(epoch)
        self.last_epoch = math.floor(epoch)
        self._set(self.get_lr())

    def _enter(self, epoch: float) -> None:
        """Find the cycle that `epoch` lies in."""
        if epoch < self.T_0:
            self.T_cur, self.T_i = epoch, self.T_0
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            done = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**done - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**done


class MomentumScheduler(LRScheduler):
    """Base of schedules that move the momentum against the rate: SGD's, or beta1 of Adam's kin."""

    def _begin_momentum(self, base: Each, largest: Each, last_epoch: int) -> None:
        """Give each group its bounds, and begin at the larger one."""
        if not {"momentum", "betas"} & set(self.optimizer.defaults):
            raise UsageError(
                f"{type(self.optimizer).__name__} has no momentum: give cycle_momentum=False"
            )
        if last_epoch != -1:
            return
        bounds = (
            per_group("base_momentum", base, self.optimizer),
            per_group("max_momentum", largest, self.optimizer),
        )
        for group, low, high in zip(self.optimizer.param_groups, *bounds, strict=True):
            group["base_momentum"], group["max_momentum"] = low, high
            self._set_momentum(group, high)

    def _set_momentum(self, group: Group, value: float) -> None:
        if "betas" in self.optimizer.defaults:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


class OneCycleLR(MomentumScheduler):
    """Rises to `max_lr` in `pct_start` of all steps and falls far below where it began.

    It begins at max_lr / div_factor and ends at a `final_div_factor`-th of that; the momentum goes
    the other way. `three_phase` first falls to the beginning as fast as it rose (Smith and Topin,
    "Super-convergence", 2018).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Each,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Each = 0.85,
        max_momentum: Each = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise UsageError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        at_least_one("total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise UsageError(f"pct_start lies from 0 to 1; found {pct_start}")
        check_strategy(anneal_strategy)
        self.optimizer, self.total_steps = optimizer, total_steps
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        top = pct_start * total_steps - 1
        rises = [top, "initial_lr", "max_lr", "max_momentum", "base_momentum"]
        falls = ["max_lr", "min_lr", "base_momentum", "max_momentum"]
        # Of each phase the last step, and between which of a group's rates and momenta it goes.
        self.phases: list[list[Any]] = [rises, [total_steps - 1, *falls]]
        if three_phase:
            back = [2 * (top + 1) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum"]
            down = [total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"]
            self.phases = [rises, back, down]
        if last_epoch == -1:
            highest = per_group("max_lr", max_lr, optimizer)
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["max_lr"], group["initial_lr"] = rate, rate / div_factor
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            self._begin_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`; set their momenta."""
        now = self.last_epoch
        if now > self.total_steps:
            raise UsageError(
                f"OneCycleLR was made for total_steps={self.total_steps}; this is step {now}"
            )
        start = 0.0
        for phase in self.phases:
            end, *names = phase
            if now <= end or phase is self.phases[-1]:
                break
            start = end
        along = (now - start) / (end - start) if end > start else 1.0

        def between(group: Group, first: str, last: str) -> float:
            return anneal(self.anneal_strategy, group[first], group[last], along)

        groups = self.optimizer.param_groups
        if self.cycle_momentum:
            for group in groups:
                self._set_momentum(group, between(group, *names[2:]))
        return [between(group, *names[:2]) for group in groups]


class CyclicLR(MomentumScheduler):
    """Goes up and down between `base_lr` and `max_lr` in straight lines (Smith, 2017).

    The height of a cycle stays ("triangular"), halves with each ("triangular2"), is `gamma` to the
    power of the step ("exp_range"), or is `scale_fn` of the cycle or the step (`scale_mode`:
    "cycle" or "iterations").
    """

    unsaved = ("optimizer", "scale_fn")

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Each,
        max_lr: Each,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Each = 0.8,
        max_momentum: Each = 0.9,
        last_epoch: int = -1,
    ) -> None:
        modes = ("triangular", "triangular2", "exp_range")
        if mode not in modes and scale_fn is None:
            raise UsageError(f"mode is one of {', '.join(modes)}; found {mode!r}")
        at_least_one("step_size_up", step_size_up)
        self.optimizer = optimizer
        lows = per_group("base_lr", base_lr, optimizer)
        if last_epoch == -1:
            for group, low in zip(optimizer.param_groups, lows, strict=True):
                group["lr"] = low
        self.max_lrs: list[float] = per_group("max_lr", max_lr, optimizer)
        self.total_size = step_size_up + (
            step_size_up if step_size_down is None else step_size_down
        )
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        self.scale_mode, self.cycle_momentum = scale_mode, cycle_momentum
        if cycle_momentum:
            self._begin_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = lows

    def _scale(self, cycle: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (cycle - 1)
        return self.gamma**self.last_epoch if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`; set their momenta."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1 + self.last_epoch / self.total_size - cycle
        ratio = self.step_ratio
        height = (x / ratio if x <= ratio else (x - 1) / (ratio - 1)) * self._scale(cycle)
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                low, high = group["base_momentum"], group["max_momentum"]
                self._set_momentum(group, high - (high - low) * height)
        return [
            low + (high - low) * height
            for low, high in zip(self.base_lrs, self.max_lrs, strict=True)
        ]


def check_strategy(name: str) -> None:
    """Raise UsageError unless `anneal` knows this strategy."""
    if name not in ("cos", "linear"):
        raise UsageError(f"anneal_strategy is 'cos' or 'linear'; found {name!r}")


def anneal(strategy: str, start: float, end: float, along: float) -> float:
    """Return what lies between `start` and `end`, `along` from 0 to 1."""
    if strategy == "linear":
        return (end - start) * along + start
    return end + (start - end) / 2 * (math.cos(math.pi * along) + 1)
