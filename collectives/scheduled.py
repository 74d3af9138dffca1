"""Execute schedules over any transport: here the instructions of `execution.py` meet a wire."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives import schedule as schedules
from holdfast.collectives.communicator import Array, Op, Transport, validate, validate_root
from holdfast.collectives.execution import Incoming, Outgoing, call_tag, execute
from holdfast.collectives.schedule import Schedule
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import WorkQueue


class ScheduledCommunicator:
    """The collectives of `Communicator`, by the schedules of `schedule.py` over a `Transport`.

    Owns the transport. See `Communicator` for what each method promises.
    """

    def __init__(
        self, transport: Transport, name: str, *, segment: int, witness: Witness | None = None
    ) -> None:
        """`segment` is the size in bytes in which chunks travel; `witness` is told of phases."""
        self.rank = transport.rank
        self.world_size = transport.world_size
        self.transport = name
        self._wire = transport
        self._segment = segment
        self._scratch = np.empty(segment, np.uint8)
        self._witness = witness or Blind()
        self._queue = WorkQueue(
            f"holdfast-{name}-{self.rank}", idle=transport.service, abort=transport.abort
        )

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory; hosts share none, so `common` makes no difference."""
        return np.zeros(count, dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out` by a ring."""
        out = x if out is None else out
        validate(op, x, out)
        if async_op:
            return self._queue.submit(lambda: self._all_reduce(x, op, out))
        self._queue.run(lambda: self._all_reduce(x, op, out))
        return out

    def reduce_scatter(self, x: Array, op: Op = "sum") -> Array:
        """Return this rank's chunk of the combined `x`, by the first half of a ring."""
        validate(op, x, None)
        bounds = schedules.chunk_bounds(x.size, self.world_size)
        total = np.empty(x.size, x.dtype)
        plan = schedules.ring_reduce_scatter(self.world_size)
        tag = call_tag("reduce_scatter", op, x)
        self._queue.run(lambda: self._execute(plan, _flat(x), total, bounds, tag, op))
        return total[bounds[self.rank] : bounds[self.rank + 1]].copy()

    def all_gather(self, x: Array) -> Array:
        """Return every rank's `x`, stacked, by the second half of a ring."""
        out = np.empty((self.world_size, *x.shape), x.dtype)
        out[self.rank] = x
        bounds = [x.size * rank for rank in range(self.world_size + 1)]
        plan = schedules.ring_all_gather(self.world_size)
        flat, tag = out.reshape(-1), call_tag("all_gather", "", x)
        self._queue.run(lambda: self._execute(plan, flat, flat, bounds, tag))
        return out

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Overwrite `x` with `root`'s, by a binomial tree."""
        validate_root(root, self.world_size, x, self.rank)
        plan = schedules.binomial_broadcast(self.world_size, root)
        flat, tag = _flat(x), call_tag("broadcast", str(root), x)
        self._queue.run(lambda: self._execute(plan, flat, flat, [0, x.size], tag))
        if not np.shares_memory(flat, x):
            x[...] = flat.reshape(x.shape)
        return x

    def barrier(self) -> None:
        """Return when every rank has called it: no rank's sum is whole before."""
        self.all_reduce(np.zeros(1, np.int32))

    def close(self) -> None:
        """Close the transport; may be called again."""
        self._queue.close()
        self._wire.close(graceful=not self._queue.broken)

    def _all_reduce(self, x: Array, op: Op, out: Array) -> None:
        target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        source = target if x is out and out.flags.c_contiguous else _flat(x)
        bounds = schedules.chunk_bounds(x.size, self.world_size)
        plan, tag = schedules.ring_all_reduce(self.world_size), call_tag("all_reduce", op, x)
        self._execute(plan, source, target, bounds, tag, op)
        if not out.flags.c_contiguous:
            out[...] = target.reshape(out.shape)

    def _execute(
        self,
        plan: Schedule,
        x: Array,
        out: Array,
        bounds: list[int],
        tag: int,
        op: Op = "sum",
    ) -> None:
        """Carry out this rank's part of `plan`; chunk i is elements bounds[i] to bounds[i + 1]."""
        instructions = execute(
            plan, self.rank, x, out, bounds, op=op, segment=self._segment, scratch=self._scratch
        )
        for instruction in instructions:
            if isinstance(instruction, Incoming):
                self._wire.receive(instruction.peer, instruction.into, tag)
            elif isinstance(instruction, Outgoing):
                self._wire.send(instruction.peer, instruction.data, tag)
            else:
                self._witness.phase(instruction.name)
        self._wire.flush()


def _flat(x: Array) -> Array:
    """Return `x` as one dimension: itself where it is contiguous, else a copy."""
    return np.ascontiguousarray(x).reshape(-1)
