"""All-reduce between the ranks of one host, which read each other's memory in place.

Each rank adds up one chunk from everybody's arrays and writes it where everybody reads it. An
array from `allocate` is used where it lies; any other is copied through a staging area. Small
arrays are staged always, and each rank adds up the whole: one meeting instead of two or three.

Rules:
- Contributions are added in the ring's order, so the bits are those of every other transport.
- A call begins with a meeting at which each rank shows what it calls, so that ranks that call
  different things are told, and not given a wrong sum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import (
    COMBINE,
    Array,
    GroupConfig,
    Op,
    finish,
    validate,
    validate_root,
)
from holdfast.collectives.meeting import Meetings
from holdfast.collectives.memory import Segment
from holdfast.collectives.rendezvous import Rendezvous
from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.collectives.work import WorkQueue
from holdfast.errors import CollectiveMismatch

SMALL = 16 << 10
"""Up to this many bytes every rank adds up the whole array."""
PIECE = 2 << 20
"""Bytes of the staging area's four parts: in and out, each twice in turn."""
BLOCK = 1 << 15
"""Elements added at a time where there are more than two ranks: their sum stays in the cache."""
PLANS = 256
"""Pairs of allocated arrays whose views are kept ready."""
CALLS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "allocate")
OPS = tuple(COMBINE)
STAGED = "a staged copy"


class _Call(NamedTuple):
    """What a rank shows at the meeting that begins a call."""

    call: int
    detail: int
    """The operation, the root or whether memory is common."""
    dtype: int
    elements: int
    source: int
    """Segment of the input, or -1 if it is private memory; for allocate, the descriptor."""
    source_at: int
    target: int
    target_at: int

    def __str__(self) -> str:
        name = CALLS[self.call]
        detail = {"broadcast": f", root={self.detail}", "allocate": f", common={self.detail}"}
        if name in ("all_reduce", "reduce_scatter"):
            detail[name] = f", op={OPS[self.detail]}"
        return (
            f"{name}({self.elements} elements of dtype number {self.dtype}{detail.get(name, '')})"
        )


class _Plan(NamedTuple):
    """An all-reduce between allocated arrays, ready to be repeated."""

    arrays: tuple[Array, Array]
    """The caller's; held so that their identities stay theirs."""
    calls: list[_Call]
    inputs: list[Array]
    outs: list[Array]
    bounds: list[int]
    shared: bool
    """Whether all ranks write into one memory."""


class SharedMemoryCommunicator:
    """The collectives of `Communicator` for ranks of one host."""

    transport = "shm"

    def __init__(self, config: GroupConfig, table: Rendezvous) -> None:
        self.rank = config.rank
        self.world_size = config.world_size
        self._others = [r for r in range(self.world_size) if r != self.rank]
        self._segments: list[list[Segment]] = []  # by number, then by rank
        self._plans: dict[tuple[int, int, str], _Plan] = {}
        self._half = 0
        self._meetings = Meetings(self.rank, self.world_size, table, timeout=config.timeout)
        self._queue = WorkQueue(f"holdfast-shm-{self.rank}", abort=self._meetings.abort)
        try:
            self.allocate(4 * PIECE, np.uint8)
        except BaseException:
            self.close()
            raise
        self._stage = 0  # the first segment

    # The Communicator protocol

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory that the peers read in place; with `common`, one for all ranks."""
        dtype = np.dtype(dtype)
        return self._queue.run(lambda: self._allocate(count, dtype, common))

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out` (None: `x`); fastest between allocated arrays."""
        out = x if out is None else out
        validate(op, x, out)
        if async_op:
            return self._queue.submit(lambda: self._all_reduce(x, op, out))
        self._queue.run(lambda: self._at_once(lambda: self._all_reduce(x, op, out)))
        return out

    def reduce_scatter(self, x: Array, op: Op = "sum") -> Array:
        """Return this rank's chunk of the combined `x`."""
        validate(op, x, None)
        total = np.empty(x.size, x.dtype)
        bounds = chunk_bounds(x.size, self.world_size)

        def call() -> None:
            self._meet(_describe("reduce_scatter", OPS.index(op), x))
            self._staged(x, op, total)

        self._queue.run(call)
        return total[bounds[self.rank] : bounds[self.rank + 1]].copy()

    def all_gather(self, x: Array) -> Array:
        """Return every rank's `x`, stacked."""
        out = np.empty((self.world_size, *x.shape), x.dtype)
        self._queue.run(lambda: self._all_gather(x, out))
        return out

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Overwrite `x` with `root`'s on every rank."""
        validate_root(root, self.world_size, x, self.rank)
        self._queue.run(lambda: self._broadcast(x, root))
        return x

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self.all_reduce(np.zeros(1, np.int32))

    def close(self) -> None:
        """Give back descriptors; memory goes when the last array over it does. May be repeated."""
        self._queue.close()
        self._meetings.close()
        for segments in self._segments:
            for segment in segments:
                segment.close()

    # All-reduce

    def _at_once(self, call: Callable[[], None]) -> None:
        """Call it with spinning allowed: the caller has nothing better to do than to wait."""
        self._meetings.spinning = True
        try:
            call()
        finally:
            self._meetings.spinning = False

    def _all_reduce(self, x: Array, op: Op, out: Array) -> None:
        key = (id(x), id(out), op)
        plan = self._plans.get(key)
        if plan is not None:
            calls = self._meet(plan.calls[self.rank])
            if calls == plan.calls:
                return self._direct(plan, op)
        else:
            own = _describe("all_reduce", OPS.index(op), x)
            if x.nbytes <= SMALL:
                return self._small(own, x, op, out)
            source, target = self._locate(x), self._locate(out)
            own = own._replace(source=source[0], source_at=source[1])
            calls = self._meet(own._replace(target=target[0], target_at=target[1]))
        if any(call.source < 0 or call.target < 0 for call in calls):
            return self._staged(x, op, out)
        if len(self._plans) >= PLANS:
            self._plans.clear()
        plan = self._plans[key] = self._plan(calls, x, out)
        return self._direct(plan, op)

    def _small(self, own: _Call, x: Array, op: Op, out: Array) -> None:
        """Everybody adds up everything: one meeting."""
        at = self._next_stage()
        self._view(self._stage, self.rank, at, x.dtype, x.size)[:] = x.reshape(-1)
        self._meet(own)
        inputs = [self._view(self._stage, r, at, x.dtype, x.size) for r in range(self.world_size)]
        # `out` may be one memory for all ranks: each writes it once, with the same final values.
        total = np.empty(x.size, x.dtype)
        self._add_up(inputs, total, chunk_bounds(x.size, self.world_size), 0, x.size, op)
        out[...] = total.reshape(out.shape)

    def _plan(self, calls: list[_Call], x: Array, out: Array) -> _Plan:
        mine = calls[self.rank]
        one = self._segments[mine.target]
        return _Plan(
            (x, out),
            calls,
            [self._view(c.source, r, c.source_at, x.dtype, x.size) for r, c in enumerate(calls)],
            [self._view(c.target, r, c.target_at, x.dtype, x.size) for r, c in enumerate(calls)],
            chunk_bounds(x.size, self.world_size),
            one[0] is one[1] and all(c[6:] == mine[6:] for c in calls),
        )

    def _direct(self, plan: _Plan, op: Op) -> None:
        """Read the inputs and write the results where they lie."""
        bounds, outs, out = plan.bounds, plan.outs, plan.outs[self.rank]
        low, high = bounds[self.rank], bounds[self.rank + 1]
        self._add_up(plan.inputs, out, bounds, low, high, op)
        self._meetings.meet("all_reduce")  # every chunk is whole
        if plan.shared:
            return
        for peer in self._others:
            out[bounds[peer] : bounds[peer + 1]] = outs[peer][bounds[peer] : bounds[peer + 1]]
        self._meetings.meet("all_reduce")  # nobody reads our out any more

    def _staged(self, x: Array, op: Op, out: Array) -> None:
        """Copy in, add up, copy out, piece by piece; for memory the peers cannot read."""
        source = np.ascontiguousarray(x).reshape(-1)
        target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        bounds = chunk_bounds(x.size, self.world_size)
        size = PIECE // x.itemsize
        for start in range(0, x.size, size):
            count = min(size, x.size - start)
            at = self._next_stage()
            views = [
                (
                    self._view(self._stage, r, at, x.dtype, count),
                    self._view(self._stage, r, at + PIECE, x.dtype, count),
                )
                for r in range(self.world_size)
            ]
            views[self.rank][0][:] = source[start : start + count]
            self._meetings.meet(STAGED)
            shares = chunk_bounds(count, self.world_size)
            here = [bound - start for bound in bounds]
            total = views[self.rank][1]
            low, high = shares[self.rank], shares[self.rank + 1]
            self._add_up([view[0] for view in views], total, here, low, high, op)
            self._meetings.meet(STAGED)
            for rank, (_, part) in enumerate(views):
                share = slice(shares[rank], shares[rank + 1])
                target[start : start + count][share] = part[share]
        if not out.flags.c_contiguous:
            out[...] = target.reshape(out.shape)

    def _add_up(
        self, inputs: list[Array], out: Array, bounds: list[int], low: int, high: int, op: Op
    ) -> None:
        """Combine elements low to high of `inputs` into `out`, each chunk in its ring's order."""
        combine = COMBINE[op]
        block = high - low if self.world_size == 2 else BLOCK
        for chunk in range(self.world_size):
            begin, end = max(low, bounds[chunk]), min(high, bounds[chunk + 1])
            if begin >= end:
                continue
            first, *middle, last = (
                inputs[rank] for rank in ring_reduction_order(self.world_size, chunk)
            )
            for start in range(begin, end, block):
                part = slice(start, min(start + block, end))
                total = first[part]
                # `out` may be `last`'s memory: it is written once, by the last addition.
                for position, term in enumerate(middle):
                    scratch = None if position == 0 else total
                    total = combine(total, term[part], out=scratch)
                combine(total, last[part], out=out[part])
                finish(op, out[part], self.world_size)

    # The others

    def _all_gather(self, x: Array, out: Array) -> None:
        self._meet(_describe("all_gather", 0, x))
        source = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        targets = out.reshape(self.world_size, -1).view(np.uint8)
        for start in range(0, source.size, PIECE):
            part = slice(start, min(start + PIECE, source.size))
            at = self._next_stage()
            count = part.stop - part.start
            self._view(self._stage, self.rank, at, np.dtype(np.uint8), count)[:] = source[part]
            self._meetings.meet(STAGED)
            for rank in range(self.world_size):
                staged = self._view(self._stage, rank, at, np.dtype(np.uint8), count)
                targets[rank, part] = staged

    def _broadcast(self, x: Array, root: int) -> None:
        self._meet(_describe("broadcast", root, x))
        flat = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, PIECE):
            part = slice(start, min(start + PIECE, flat.size))
            at = self._next_stage()
            staged = self._view(self._stage, root, at, np.dtype(np.uint8), part.stop - part.start)
            if self.rank == root:
                staged[:] = flat[part]
            self._meetings.meet(STAGED)
            if self.rank != root:
                flat[part] = staged
        if self.rank != root and not np.shares_memory(flat, x):
            x[...] = flat.view(x.dtype).reshape(x.shape)

    def _allocate(self, count: int, dtype: np.dtype[Any], common: bool) -> Array:
        nbytes = count * dtype.itemsize
        mine = Segment.create(nbytes) if not common or self.rank == 0 else None
        calls = self._meet(
            _Call(
                CALLS.index("allocate"), common, dtype.num, count, mine.fd if mine else -1, 0, 0, 0
            )
        )
        opened = [
            mine
            if rank == self.rank
            else Segment.open(self._meetings.pids[rank], call.source, nbytes)
            for rank, call in enumerate(calls)
            if not common or rank == 0
        ]
        segments = [segment for segment in opened if segment is not None]
        self._segments.append(segments * self.world_size if common else segments)
        self._meetings.meet("allocate")  # all have opened it: a rank may close at once
        return self._segments[-1][self.rank].bytes.view(dtype)

    # Memory

    def _locate(self, array: Array) -> tuple[int, int]:
        """Return the segment that `array` lies in and where, or (-1, 0)."""
        if not array.flags.c_contiguous:
            return -1, 0
        address = array.__array_interface__["data"][0]
        for number, segments in enumerate(self._segments):
            offset = address - segments[self.rank].address
            if offset >= 0 and offset + array.nbytes <= segments[self.rank].bytes.size:
                return number, offset
        return -1, 0

    def _view(self, segment: int, rank: int, at: int, dtype: np.dtype[Any], count: int) -> Array:
        whole = self._segments[segment][rank].bytes
        return whole[at : at + count * dtype.itemsize].view(dtype)

    def _next_stage(self) -> int:
        """Return where the next piece is staged: it may be written while the last one is read."""
        self._half ^= 1
        return self._half * 2 * PIECE

    # Meetings

    def _meet(self, own: _Call) -> list[_Call]:
        """Show what this rank calls, meet, and return what each rank calls."""
        calls = [_Call._make(words) for words in self._meetings.show(own, CALLS[own.call])]
        for rank, call in enumerate(calls):
            if call[:4] != own[:4]:
                raise CollectiveMismatch(
                    f"rank {self.rank} called {own}, rank {rank} called {call}: every rank makes "
                    "the same calls in the same order"
                )
        return calls


def _describe(call: str, detail: int, x: Array) -> _Call:
    return _Call(CALLS.index(call), detail, x.dtype.num, x.size, -1, 0, -1, 0)
