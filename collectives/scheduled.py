"""Execute schedules over any transport: the one place where a ring meets bytes.

A chunk travels in segments. A segment that a rank will send on in its next round leaves as soon as
it is whole, while later ones are still coming: the ring runs as one stream.

Rule: a rank's contribution is read from `x` and everything else from `out`, so an all-reduce that
is broken off has not touched its input (unless they are the same array).
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives import schedule as schedules
from holdfast.collectives.communicator import (
    COMBINE,
    Array,
    Op,
    Transport,
    finish,
    validate,
    validate_root,
)
from holdfast.collectives.schedule import Schedule, Send, Step
from holdfast.collectives.work import WorkQueue


class ScheduledCommunicator:
    """The collectives of `Communicator`, by the schedules of `schedule.py` over a `Transport`.

    Owns the transport. See `Communicator` for what each method promises.
    """

    def __init__(self, transport: Transport, name: str, *, segment: int) -> None:
        """`segment` is the size in bytes in which chunks travel."""
        self.rank = transport.rank
        self.world_size = transport.world_size
        self.transport = name
        self._wire = transport
        self._segment = segment
        self._scratch = np.empty(segment, np.uint8)
        self._tag = 0  # of the call that is being carried out
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
        tag = _tag("reduce_scatter", op, x)
        self._queue.run(lambda: self._execute(plan, _flat(x), total, bounds, tag, op))
        return total[bounds[self.rank] : bounds[self.rank + 1]].copy()

    def all_gather(self, x: Array) -> Array:
        """Return every rank's `x`, stacked, by the second half of a ring."""
        out = np.empty((self.world_size, *x.shape), x.dtype)
        out[self.rank] = x
        bounds = [x.size * rank for rank in range(self.world_size + 1)]
        plan = schedules.ring_all_gather(self.world_size)
        flat, tag = out.reshape(-1), _tag("all_gather", "", x)
        self._queue.run(lambda: self._execute(plan, flat, flat, bounds, tag))
        return out

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Overwrite `x` with `root`'s, by a binomial tree."""
        validate_root(root, self.world_size, x, self.rank)
        plan = schedules.binomial_broadcast(self.world_size, root)
        flat, tag = _flat(x), _tag("broadcast", str(root), x)
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
        plan, tag = schedules.ring_all_reduce(self.world_size), _tag("all_reduce", op, x)
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
        """Carry out this rank's steps; chunk i is elements bounds[i] to bounds[i + 1]."""
        self._tag = tag
        held = [x] * plan.chunks  # where each chunk stands now: in x until it has been received
        steps = list(plan.steps(self.rank))
        left: Send | None = None  # what the last round has already sent on
        for step, following in zip(steps, [*steps[1:], Step(plan.rounds)], strict=True):
            if step.send and step.send != left:
                for part in self._segments(bounds, step.send.chunk, x.itemsize):
                    self._wire.send(step.send.peer, _bytes(held[step.send.chunk][part]), tag)
            left = None
            if receive := step.receive:
                onward = following.send
                if onward and onward.chunk != receive.chunk:
                    onward = None
                arrive = self._adder(x, out, op, receive.chunk) if receive.reduce else None
                for part in self._segments(bounds, receive.chunk, x.itemsize):
                    if arrive is None:
                        self._wire.receive(receive.peer, _bytes(out[part]), tag)
                    else:
                        arrive(receive.peer, part)
                    if onward:
                        self._wire.send(onward.peer, _bytes(out[part]), tag)
                held[receive.chunk] = out
                left = onward
        self._wire.flush()

    def _adder(self, x: Array, out: Array, op: Op, chunk: int) -> Callable[[int, slice], None]:
        """Return what receives a segment and combines it: `out = received + x`."""
        combine = COMBINE[op]
        scratch = self._scratch[: self._segment // x.itemsize * x.itemsize].view(x.dtype)
        whole = chunk == self.rank  # a ring's reduce-scatter ends rank r's chunk at rank r

        def arrive(peer: int, part: slice) -> None:
            came = scratch[: part.stop - part.start]
            self._wire.receive(peer, _bytes(came), self._tag)
            combine(came, x[part], out=out[part])
            if whole:
                finish(op, out[part], self.world_size)

        return arrive

    def _segments(self, bounds: list[int], chunk: int, itemsize: int) -> Iterator[slice]:
        size = self._segment // itemsize
        end = bounds[chunk + 1]
        for start in range(bounds[chunk], end, size):
            yield slice(start, min(start + size, end))


def _tag(call: str, detail: str, x: Array) -> int:
    """Return 16 bits that ranks which make the same call have in common."""
    return zlib.crc32(f"{call} {detail} {x.dtype.str} {x.size}".encode()) & 0xFFFF


def _flat(x: Array) -> Array:
    """Return `x` as one dimension: itself where it is contiguous, else a copy."""
    return np.ascontiguousarray(x).reshape(-1)


def _bytes(part: Array) -> memoryview:
    return part.view(np.uint8).data
