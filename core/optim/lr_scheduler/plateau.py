"""A schedule by what it achieves instead of by the number of steps."""

import math
from typing import Any, SupportsFloat

from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler, per_group
from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import UsageError


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the rate by `factor` when a metric has not improved for `patience` steps.

    `mode` says whether "min" or "max" is better; an improvement is one by more than `threshold` of
    the best value ("rel") or of the metric's unit ("abs"). After a reduction, `cooldown` steps are
    not counted. No rate falls below `min_lr`, nor by less than `eps`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        if not factor < 1:
            raise UsageError(f"factor is below 1; found {factor}")
        if mode not in ("min", "max"):
            raise UsageError(f"mode is 'min' or 'max'; found {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise UsageError(f"threshold_mode is 'rel' or 'abs'; found {threshold_mode!r}")
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.min_lrs: list[float] = per_group("min_lr", min_lr, optimizer)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = self._rates()

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override]
        """Take in the metric's value. In a job, give every rank the same: `job.sum` makes one."""
        self.last_epoch += 1
        value = float(metrics)
        if self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        rates = self._rates()
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for number, (rate, low) in enumerate(zip(rates, self.min_lrs, strict=True)):
                less = max(rate * self.factor, low)
                if rate - less > self.eps:
                    rates[number] = less
        self._set(rates)

    def _improves(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        margin = self.threshold
        if self.threshold_mode == "rel":
            return sign * value < sign * self.best * (1 - sign * margin)
        return sign * value < sign * self.best - margin

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule stands, as data that JSON can hold."""
        held = super().state_dict()
        if math.isinf(self.best):
            held["best"] = None  # JSON has no infinity
        return held

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; raises CheckpointMismatch for another kind."""
        super().load_state_dict(state_dict)
        if state_dict["best"] is None:
            self.best = math.inf if self.mode == "min" else -math.inf
