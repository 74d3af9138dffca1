"""The collectives of a group of one: every sum is what it was."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import Array, Op, validate, validate_root
from holdfast.collectives.work import Work, WorkQueue


class LocalCommunicator:
    """`Communicator` for world size 1; no thread, no socket."""

    rank = 0
    world_size = 1
    transport = "self"

    def __init__(self) -> None:
        self._queue = WorkQueue("holdfast-self")

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory."""
        return np.zeros(count, dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Copy `x` to `out`."""
        validate(op, x, x if out is None else out)
        if out is not None:
            np.copyto(out, x)
        if async_op:
            work = Work(self._queue, lambda: None)
            work._run()
            return work
        return x if out is None else out

    def reduce_scatter(self, x: Array, op: Op = "sum") -> Array:
        """Return a copy of `x`, flat: the only chunk."""
        validate(op, x, None)
        return x.reshape(-1).copy()

    def all_gather(self, x: Array) -> Array:
        """Return a copy of `x` under a new first axis."""
        return x[None].copy()

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return `x`."""
        validate_root(root, 1, x, 0)
        return x

    def barrier(self) -> None:
        """Return."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
        self._queue.close()
