"""Schedules made of schedules: one after the other, or all at once."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from holdfast.core.optim.lr_scheduler.plateau import ReduceLROnPlateau
from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler
from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import UsageError


class CompoundScheduler(LRScheduler):
    """Base of both: holds the parts, and saves them with itself."""

    unsaved = ("optimizer", "_schedulers")

    def _hold(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if not schedulers:
            raise UsageError(f"{name} needs at least one schedule")
        self.optimizer = optimizer or schedulers[0].optimizer
        for number, part in enumerate(schedulers):
            if isinstance(part, ReduceLROnPlateau):
                raise UsageError(
                    f"{name}: schedule {number} is a ReduceLROnPlateau, whose step needs a metric"
                )
            if part.optimizer is not self.optimizer:
                raise UsageError(f"{name}: schedule {number} is of another optimizer")
        self._schedulers = list(schedulers)

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule and its parts stand, as data that JSON can hold."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; raises CheckpointMismatch for another kind."""
        self._check(state_dict)
        for part, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            part.load_state_dict(state)
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})


class SequentialLR(CompoundScheduler):
    """One schedule after the other: the next one begins at each of the `milestones`."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self._hold(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise UsageError(
                f"{len(schedulers)} schedules have {len(schedulers) - 1} milestones between them; "
                f"found {len(milestones)}"
            )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        # Each part has set the rates when it was made: undo that, and let the first one begin.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _step_back(self)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:
        """Move on by one."""
        self.last_epoch += 1
        at = bisect_right(self._milestones, self.last_epoch)
        part = self._schedulers[at]
        if at > 0 and self._milestones[at - 1] == self.last_epoch:
            part.restart()
        else:
            part.step()
        self._last_lr = part.get_last_lr()


class ChainedScheduler(CompoundScheduler):
    """All schedules at each step, each from what the one before it has set."""

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        self._hold(schedulers, optimizer)
        self._last_lr = self._rates()

    def step(self) -> None:
        """Move on by one."""
        for part in self._schedulers:
            part.step()
        self._last_lr = self._rates()


def _step_back(schedule: LRScheduler) -> None:
    if isinstance(schedule, CompoundScheduler):
        for part in schedule._schedulers:
            _step_back(part)
    else:
        schedule.last_epoch -= 1
