"""A warm-up and a decay in one schedule, as Transformers are usually trained."""

import math

from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler, at_least_one
from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import UsageError

DECAYS = ("constant", "cosine", "linear", "polynomial")


class WarmupLR(LRScheduler):
    """Rises in a straight line to the base rate in `warmup_iters` steps, then falls.

    It begins at `start_factor` times the base rate (0: the first update changes nothing) and ends,
    after `total_iters` steps in all, at `end_factor` times it, by the curve `decay`: half a
    "cosine", "linear", "polynomial" of degree `power`, or "constant" for no fall.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_iters: int,
        total_iters: int,
        decay: str = "cosine",
        *,
        power: float = 2.0,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        at_least_one("total_iters", total_iters)
        if not 0 <= warmup_iters <= total_iters:
            raise UsageError(
                f"warmup_iters lies from 0 to total_iters={total_iters}; found {warmup_iters}"
            )
        if decay not in DECAYS:
            raise UsageError(f"decay is one of {', '.join(DECAYS)}; found {decay!r}")
        self.warmup_iters, self.total_iters, self.decay = warmup_iters, total_iters, decay
        self.power, self.start_factor, self.end_factor = power, start_factor, end_factor
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Return by what the base rates are multiplied after `step` steps."""
        if step < self.warmup_iters:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup_iters
        falling = max(1, self.total_iters - self.warmup_iters)
        along = min(1.0, (step - self.warmup_iters) / falling)
        heights: dict[str, float] = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * along)) / 2,
            "linear": 1 - along,
            "polynomial": (1 - along) ** self.power,
        }
        height = heights[self.decay]
        return self.end_factor + (1 - self.end_factor) * height

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]
