"""Averages of the weights over the steps, with PyTorch's names: exponential, and stochastic (SWA).

An average lies in an arena of the same layout as the model's, so that it is brought up to date, and
changed places with the weights, in a few passes over flat memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np

from holdfast.core.arena import Arena
from holdfast.core.backend import Array, device_of, is_floating, to_device
from holdfast.core.changes import next_sequence
from holdfast.core.nn.module import Module
from holdfast.core.norms import block_length, blocks
from holdfast.core.optim.lr_scheduler.cycles import Each, anneal, check_strategy
from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler, per_group
from holdfast.core.optim.optimizer import Optimizer
from holdfast.core.parameter import Parameter
from holdfast.core.recording import no_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, int], Tensor]
"""From an average, the values now and how many it is of, the new average."""
AverageAll = Callable[[Sequence[Tensor], Sequence[Tensor], int], None]
"""Does so for all of them, in place."""


def get_ema_multi_avg_fn(decay: float = 0.999) -> AverageAll:
    """Return what moves averages by 1 - decay of the way to the values now, in place."""
    _check_decay(decay)

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: int) -> None:
        for a, b in zip(averaged, current, strict=True):
            _approach(a.array, b.array, 1 - decay)

    return update


def get_swa_multi_avg_fn() -> AverageAll:
    """Return what takes the values now into averages that weigh all alike, in place."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: int) -> None:
        for a, b in zip(averaged, current, strict=True):
            _approach(a.array, b.array, 1 / (num_averaged + 1))

    return update


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """Return what gives one parameter's exponential average."""
    _check_decay(decay)

    def update(averaged: Tensor, current: Tensor, num_averaged: int) -> Tensor:
        return averaged * decay + current * (1 - decay)

    return update


def get_swa_avg_fn() -> Average:
    """Return what gives one parameter's average in which all values weigh alike."""

    def update(averaged: Tensor, current: Tensor, num_averaged: int) -> Tensor:
        return averaged + (current - averaged) / (num_averaged + 1)

    return update


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise UsageError(f"decay lies from 0 to 1; found {decay}")


def _approach(a: Array, b: Array, share: float) -> None:
    """Move `a` by `share` of the way to `b`, in place."""
    if not is_floating(a.dtype):  # a count, say: rounded towards 0
        a[...] = a + (b - a) * share
        return
    a, b = a.reshape(-1), b.reshape(-1)
    for part in blocks(0, a.size, block_length(a)):
        way = b[part] - a[part]
        way *= share
        a[part] += way


def _exchange(a: Array, b: Array) -> None:
    """Let two arrays change places, in place."""
    a, b = a.reshape(-1), b.reshape(-1)
    for part in blocks(0, a.size, block_length(a)):
        held = a[part].copy()
        a[part] = b[part]
        b[part] = held


class AveragedModel(Module):
    """A copy of `model` whose parameters are averages of the model's over the steps.

    `update_parameters(model)` takes the weights now into the averages: the first time it copies
    them, then `multi_avg_fn(averages, values, count)` is called on all tensors at once, which may
    be flat stretches of memory, or `avg_fn(average, value, count)` on each parameter; by default
    all values weigh alike (Izmailov et al., "Averaging weights leads to wider optima", 2018).
    Buffers are copied, or averaged too if `use_buffers`.

    Calling it computes with the averages. `swapped(model)` puts them into the model itself. Make it
    after the optimizer: then it is updated in passes over the whole arena.
    """

    def __init__(
        self,
        model: Module,
        device: str | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: AverageAll | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise UsageError("AveragedModel takes avg_fn or multi_avg_fn, not both")
        self.module: Module = deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.register_buffer("n_averaged", Tensor(np.zeros((), np.int64)))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers
        _settle_alike(list(model.parameters()), list(self.module.parameters()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with the averages."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the weights of `model` as they are now into the averages."""
        count = int(self.n_averaged.item())
        buffers = _arrays(self.module.buffers(), model.buffers())
        if self.avg_fn is None:
            pairs = self._pairs(model)
        else:
            pairs = _arrays(self.module.parameters(), model.parameters())
        averaged = pairs + buffers if self.use_buffers else pairs
        copied = [] if self.use_buffers else buffers
        if not count:
            copied, averaged = averaged + copied, []
        for a, b in copied:
            a[...] = b
        if averaged:
            means, values = ([Tensor(x) for x in arrays] for arrays in zip(*averaged, strict=True))
            if self.avg_fn is None:
                (self.multi_avg_fn or get_swa_multi_avg_fn())(means, values, count)
            else:
                with no_grad():
                    for mean, value in zip(means, values, strict=True):
                        mean.array[...] = self.avg_fn(mean, value, count).array
        self.n_averaged.array[...] = count + 1
        _mark_changed(self.module)

    @contextmanager
    def swapped(self, model: Module) -> Iterator[None]:
        """Let the averages and the weights of `model`, and their buffers, change places inside.

        So a job's model is evaluated, or saved, with the averages. Do not train inside.
        """
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def _swap(self, model: Module) -> None:
        for a, b in self._pairs(model) + _arrays(self.module.buffers(), model.buffers()):
            _exchange(a, b)
        _mark_changed(self.module)
        _mark_changed(model)

    def _pairs(self, model: Module) -> list[tuple[Array, Array]]:
        """Return the averages beside the values that they are of: flat where both lie alike."""
        mine, theirs = list(self.module.parameters()), list(model.parameters())
        own, other = _common_arena(mine), _common_arena(theirs)
        if own is not None and other is not None and own.slices == other.slices:
            alike = all(own.place(a) == other.place(b) for a, b in zip(mine, theirs, strict=True))
            if alike and device_of(own.weights) == device_of(other.weights):
                return [(own.weights, other.weights)]
        return _arrays(mine, theirs)


def _arrays(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[tuple[Array, Array]]:
    """Return the arrays in pairs, on the device of ours."""
    return [
        (a.array, to_device(b.array, device_of(a.array))) for a, b in zip(ours, theirs, strict=True)
    ]


def _common_arena(parameters: Sequence[Parameter]) -> Arena | None:
    """Return the arena that holds just these parameters, if one does."""
    arena = parameters[0].arena if parameters else None
    if arena is None or any(p.arena is not arena for p in parameters):
        return None
    return arena if len(arena.parameters) == len(parameters) else None


def _settle_alike(theirs: Sequence[Parameter], copies: Sequence[Parameter]) -> None:
    """Give the copies an arena of the layout that the originals have, if they have one."""
    arena = _common_arena(theirs)
    if arena is not None:
        copy_of = {id(p): copy for p, copy in zip(theirs, copies, strict=True)}
        Arena([copy_of[id(p)] for p in reversed(arena.parameters)])


def _mark_changed(module: Module) -> None:
    now = next_sequence()
    for p in module.parameters():
        p.leaf.changed = now


def update_bn(loader: Iterable[Any], model: Module, device: str | None = None) -> None:
    """Compute the running statistics of the model's batch normalizations anew, over `loader`.

    Averaged weights have other activations than those that the statistics are of. A batch that is a
    list or tuple has the inputs first. The statistics weigh all batches alike. In a job each rank
    gives it the same data, so that the statistics stay the same everywhere.
    """
    # InstanceNorm may have them too.
    normalizations = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
    if not normalizations:
        return
    momenta = [m.momentum for m in normalizations]
    training = model.training
    model.train()
    for m in normalizations:
        m.reset_running_stats()
        m.momentum = None
    try:
        with no_grad():
            for batch in loader:
                inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(inputs if device is None else inputs.to(device))
    finally:
        for m, momentum in zip(normalizations, momenta, strict=True):
            m.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    """Brings the rate to `swa_lr` in `anneal_epochs` steps by a cosine or a line, and keeps it."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Each,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        check_strategy(anneal_strategy)
        if anneal_epochs < 0:
            raise UsageError(f"anneal_epochs is a number from 0 up; found {anneal_epochs}")
        rates = per_group("swa_lr", swa_lr, optimizer)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs, self.anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the groups' rates now, from what they are before."""
        step = self._step_count - 1
        if not self.anneal_epochs:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group in self.optimizer.param_groups:
            goal, rate = group["swa_lr"], group["lr"]
            first = goal if before == 1 else (rate - before * goal) / (1 - before)
            rates.append(goal * now + first * (1 - now))
        return rates

    def _share(self, step: int) -> float:
        """Return how much of the way to the goal is gone."""
        along = max(0, min(1, step / max(1, self.anneal_epochs)))
        return anneal(self.anneal_strategy, 0.0, 1.0, along)
