"""The collectives of a group of one: every sum is what it was."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import (
    Array,
    Op,
    validate,
    validate_all_to_all,
    validate_moved,
    validate_peer,
    validate_rank,
    validate_root,
    validate_scatter,
)
from holdfast.collectives.nccl.gpu import Gpu
from holdfast.collectives.work import QueuedWork, Work, WorkQueue

T = TypeVar("T")


class LocalCommunicator:
    """`Communicator` for world size 1; no thread, no socket."""

    rank = 0
    world_size = 1
    transport = "self"
    overlaps = False

    def __init__(self, gpu: Gpu | None = None) -> None:
        """`gpu` is where the arrays are that it is asked for; None: on the host."""
        self.device = "cpu" if gpu is None else "cuda"
        self._gpu = gpu
        self._queue = WorkQueue("holdfast-self")

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory."""
        return np.zeros(count, dtype) if self._gpu is None else self._gpu.zeros(count, dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Copy `x` to `out`."""
        target = x if out is None else out
        validate(op, x, target)
        if target is not x:
            np.copyto(target, x)
        return self._done(lambda: target, async_op)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return a copy of `x`, flat: the only chunk."""
        validate(op, x, None)
        return self._done(x.flatten, async_op)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return a copy of `x` under a new first axis."""
        validate_moved(x)
        return self._done(x[None].copy, async_op)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Return `x`."""
        validate_root(root, 1, x, 0)
        return self._done(lambda: x, async_op)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return a copy of `x`."""
        validate_all_to_all(x, 1)
        return self._done(x.copy, async_op)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Return a copy of `x`."""
        validate(op, x, None)
        validate_rank(root, 1)
        return x.copy()

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return a copy of `x` under a new first axis."""
        validate_moved(x)
        validate_rank(root, 1)
        return x[None].copy()

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Copy `x[0]` to `out`."""
        validate_scatter(x, out, root, 1, 0)
        assert x is not None
        out[...] = x[0]
        return out

    def send(self, x: Array, peer: int) -> None:
        """Raise UsageError: there is nobody else."""
        validate_peer(x, peer, 1, 0, filled=False)

    def recv(self, x: Array, peer: int) -> Array:
        """Raise UsageError: there is nobody else."""
        validate_peer(x, peer, 1, 0, filled=True)
        return x

    def barrier(self) -> None:
        """Return."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
        self._queue.close()

    def _done(self, call: Callable[[], T], async_op: bool) -> T | Work[T]:
        if not async_op:
            return call()
        work = QueuedWork(self._queue, call)
        work._run()
        return work
