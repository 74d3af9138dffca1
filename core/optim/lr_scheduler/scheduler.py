"""What all schedules share: rates as a function of the number of `step()` calls.

A schedule multiplies what it finds in the optimizer's groups, as PyTorch's do, rather than setting
a product of its own: so several of them may work on one optimizer.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from holdfast.core.optim.optimizer import Optimizer
from holdfast.errors import CheckpointMismatch, UsageError


class LRScheduler:
    """Sets the rate of each of the optimizer's groups, at once and at each `step()`.

    `last_epoch` counts the steps from 0; -1 begins a schedule. A group's rate at the beginning is
    kept in it as "initial_lr", and in `base_lrs`. Subclasses define `get_lr`.
    """

    unsaved: ClassVar[tuple[str, ...]] = ("optimizer",)
    """What `state_dict` leaves out: what is no plain data."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(f"a schedule is made for an optimizer; found {type(optimizer)}")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise UsageError(
                    f'parameter group {number} has no "initial_lr": last_epoch={last_epoch} goes '
                    "on with a schedule, after the optimizer's load_state_dict"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        """Set the rates that hold before the first step."""
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def step(self) -> None:
        """Move on by one: to be called after the optimizer's step, per step or per epoch."""
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def restart(self) -> None:
        """Set the rates that hold at the schedule's beginning, whatever they are now."""
        self.last_epoch = 0
        self._set(self.get_start_lr())

    def _set(self, rates: Sequence[float]) -> None:
        if len(rates) != len(self.optimizer.param_groups):
            raise UsageError(
                f"this schedule was made for {len(rates)} groups, the optimizer has "
                f"{len(self.optimizer.param_groups)} now: make it after the last add_param_group"
            )
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = self._rates()

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """Return the groups' rates at `last_epoch`, from what they are before it."""
        raise TypeError(f"{type(self).__name__} has no get_lr(): define it")

    def get_start_lr(self) -> list[float]:
        """Return the groups' rates at the schedule's beginning."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """Return the groups' rates as this schedule last set them."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule stands, and its settings, as data that JSON can hold."""
        held = {name: value for name, value in vars(self).items() if name not in self.unsaved}
        return {"kind": type(self).__name__, **held}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, and set the rates that held there.

        Raises CheckpointMismatch if it is of another kind of schedule, or of other groups.
        """
        self._check(state_dict)
        vars(self).update({name: value for name, value in state_dict.items() if name != "kind"})
        self._set(self._last_lr)

    def _check(self, state_dict: dict[str, Any]) -> None:
        kind, found = type(self).__name__, state_dict.get("kind")
        if found != kind:
            raise CheckpointMismatch(f"this is the state of {found!r}, the schedule is {kind!r}")
        groups = len(self.optimizer.param_groups)
        if len(state_dict["_last_lr"]) != groups:
            raise CheckpointMismatch(
                f"the state of {kind} has {len(state_dict['_last_lr'])} rates, the optimizer "
                f"{groups} groups"
            )


def per_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """Return one of each group's: the items of a list, or the same for all."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{name} has {len(value)} items, the optimizer {count} groups")
    return list(value)


def at_least_one(name: str, value: int) -> None:
    """Raise UsageError unless a number of steps is 1 or more."""
    if value < 1:
        raise UsageError(f"{name} is at least 1; found {value}")
