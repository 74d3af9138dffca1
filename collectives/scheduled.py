"""Collectives by schedules, over any transport: which schedule, and on what arrays.

Rule: which schedule is carried out is a function of what all ranks agree on: the call, its
arrays' size and type, the world size, the algorithm's name and the cost model.
"""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.call import Arrays, Call, Planned, Sending
from holdfast.collectives.communicator import (
    Array,
    Op,
    Transport,
    sum_type,
    validate,
    validate_all_to_all,
    validate_moved,
    validate_peer,
    validate_rank,
    validate_root,
    validate_scatter,
)
from holdfast.collectives.cost import CostModel
from holdfast.collectives.execution import call_tag, scratch_bytes
from holdfast.collectives.plan import plan
from holdfast.collectives.schedule import Schedule, chunk_bounds
from holdfast.collectives.schedules.all_reduce import all_reduce
from holdfast.collectives.schedules.direct import (
    direct_all_gather,
    direct_all_to_all,
    direct_reduce_scatter,
    dissemination_barrier,
    point_to_point,
)
from holdfast.collectives.schedules.ring import ring_all_gather, ring_reduce_scatter
from holdfast.collectives.schedules.rooted import (
    binomial_broadcast,
    chain_broadcast,
    direct_gather,
    direct_reduce,
    direct_scatter,
    ring_reduce,
)
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import Rest, WorkQueue

T = TypeVar("T")
Places = Sequence[tuple[int, int]]
"""Where each chunk is, in elements."""

ALIGNMENT = 64
"""Bytes of a cache line: arithmetic on what straddles two of them is slower."""
PLANS = 256
"""Calls whose plans are kept."""


class ScheduledCommunicator:
    """The collectives of `Communicator`, by schedules over a `Transport`.

    Owns the transport. See `Communicator` for what each method promises.
    """

    device = "cpu"
    overlaps = True

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        segment: int,
        witness: Witness | None = None,
        algorithm: str = "auto",
        model: CostModel | None = None,
    ) -> None:
        """`segment` is the size in bytes in which chunks travel; `witness` is told of phases.

        `algorithm` is that of all-reduces: a name of `cost.ALGORITHMS`, `two-level:RANKS`, or
        `auto`: the fastest by `model` (None: the default one). Sums of float16 and bfloat16 are
        always direct ones, which round once. Raises UsageError for a name that there isn't.
        """
        self.rank = transport.rank
        self.world_size = transport.world_size
        self.transport = name
        if algorithm != "auto":
            all_reduce(algorithm, self.world_size, 0)
        self._algorithm = algorithm
        self._model = model or CostModel()
        self.wire = transport
        self._segment = segment
        self._plans: dict[tuple[Any, ...], Planned] = {}
        self._planning = threading.Lock()
        self._sending = Sending(transport, witness or Blind())
        self._queue = WorkQueue(
            f"holdfast-{name}-{self.rank}", idle=transport.service, abort=transport.abort
        )
        transport.asleep = self._queue.asleep

    # The Communicator protocol

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory; hosts share none, so `common` makes no difference."""
        nbytes = count * np.dtype(dtype).itemsize
        memory = np.zeros(nbytes + ALIGNMENT, np.uint8)  # NumPy's own is aligned to 16 bytes
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + nbytes].view(dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out`."""
        target = x if out is None else out
        validate(op, x, target)
        return self._carry_out(self._all_reduce(x, op, target), async_op)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return this rank's chunk of the combined `x`."""
        validate(op, x, None)
        return self._carry_out(self._reduce_scatter(x, op), async_op)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x`, stacked."""
        validate_moved(x)
        return self._carry_out(self._all_gather(x), async_op)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Overwrite `x` with `root`'s."""
        validate_root(root, self.world_size, x, self.rank)
        return self._carry_out(self._broadcast(x, root), async_op)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return what the ranks have for this one."""
        validate_all_to_all(x, self.world_size)
        return self._carry_out(self._all_to_all(x), async_op)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Combine every rank's `x` at `root`, with the bits of a ring."""
        validate(op, x, None)
        validate_rank(root, self.world_size)
        return self._queue.run(self._reduce(x, op, root))

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, stacked, at `root`."""
        validate_moved(x)
        validate_rank(root, self.world_size)
        return self._queue.run(self._gather(x, root))

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]`."""
        validate_scatter(x, out, root, self.world_size, self.rank)
        return self._queue.run(self._scatter(x, out, root))

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`; return when it has it."""
        validate_peer(x, peer, self.world_size, self.rank, filled=False)
        self._queue.run(self._point_to_point(x, self.rank, peer))

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends."""
        validate_peer(x, peer, self.world_size, self.rank, filled=True)
        return self._queue.run(self._point_to_point(x, peer, self.rank))

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._queue.run(self._barrier())

    def close(self) -> None:
        """Close the transport; may be called again."""
        self._queue.close()
        self.wire.asleep = Rest()  # no call is begun any more
        self.wire.close(graceful=not self._queue.broken)

    # Each collective: its arrays, its schedule, where its chunks are

    def _all_reduce(self, x: Array, op: Op, out: Array) -> Call[Array]:
        contiguous = out.flags.c_contiguous
        if x is out:
            in_place = contiguous
        else:
            in_place = contiguous and x.flags.c_contiguous and np.may_share_memory(x, out)
        key = ("all_reduce", op, x.size, x.dtype, in_place)
        ready = self._plans.get(key)
        if ready is None:
            schedule = self._all_reduce_schedule(x)
            places = _even(x.size, schedule.chunks)
            ready = self._prepare(key, schedule, places, x, op, in_place=in_place)

        def arrays() -> Arrays:
            target = _target(out)
            return (target if in_place else _flat(x)), target

        return Call(self._sending, ready, arrays, lambda total: _put(total, out), op, x, out)

    def _all_reduce_schedule(self, x: Array) -> Schedule:
        algorithm, size = self._algorithm, self.world_size
        if sum_type(x.dtype) != x.dtype:
            algorithm = self._model.choose(size, x.nbytes, ("direct", "exchange"))
        elif algorithm == "auto":
            algorithm = self._model.choose(size, x.nbytes)
        return all_reduce(algorithm, size, x.nbytes)

    def _reduce_scatter(self, x: Array, op: Op) -> Call[Array]:
        bounds = chunk_bounds(x.size, self.world_size)
        key = ("reduce_scatter", op, x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            direct = sum_type(x.dtype) != x.dtype or self._is_direct(x.nbytes)
            make = direct_reduce_scatter if direct else ring_reduce_scatter
            places = _even(x.size, self.world_size)
            ready = self._prepare(key, make(self.world_size), places, x, op)
        mine = slice(bounds[self.rank], bounds[self.rank + 1])

        def arrays() -> Arrays:
            return _flat(x), np.empty(x.size, x.dtype)

        return Call(self._sending, ready, arrays, lambda total: total[mine].copy(), op, x)

    def _all_gather(self, x: Array) -> Call[Array]:
        shape = self.world_size, *x.shape
        key = ("all_gather", "", x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            direct = self._is_direct(self.world_size * x.nbytes)
            schedule = (direct_all_gather if direct else ring_all_gather)(self.world_size)
            ready = self._prepare(key, schedule, _equal(x.size, self.world_size), x)

        def arrays() -> Arrays:
            flat = self._gathered(x)
            return flat, flat

        return Call(self._sending, ready, arrays, lambda out: out.reshape(shape), reads=x)

    def _gathered(self, x: Array) -> Array:
        """Return flat memory for every rank's `x`, with this rank's in it."""
        out = np.empty((self.world_size, *x.shape), x.dtype)
        out[self.rank] = x
        return out.reshape(-1)

    def _broadcast(self, x: Array, root: int) -> Call[Array]:
        gives = self.rank == root
        key = ("broadcast", root, x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            name = self._model.choose_broadcast(self.world_size, x.nbytes)
            make = chain_broadcast if name == "chain" else binomial_broadcast
            ready = self._prepare(key, make(self.world_size, root), [(0, x.size)], x)

        def arrays() -> Arrays:
            flat = _flat(x) if gives else _target(x)
            return flat, flat

        def result(flat: Array) -> Array:
            return x if gives else _put(flat, x)

        return Call(self._sending, ready, arrays, result, reads=x, writes=None if gives else x)

    def _all_to_all(self, x: Array) -> Call[Array]:
        key = ("all_to_all", "", x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            places = _equal(x.size // self.world_size, self.world_size)
            schedule = direct_all_to_all(self.world_size)
            ready = self._prepare(key, schedule, places + places, x)

        def arrays() -> Arrays:
            out = np.empty(x.shape, x.dtype)
            out[self.rank] = x[self.rank]
            return _flat(x), out.reshape(-1)

        return Call(self._sending, ready, arrays, lambda out: out.reshape(x.shape), reads=x)

    def _reduce(self, x: Array, op: Op, root: int) -> Call[Array | None]:
        gets = self.rank == root
        key = ("reduce", (op, root), x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            direct = sum_type(x.dtype) != x.dtype or self._is_direct(x.nbytes)
            schedule = (direct_reduce if direct else ring_reduce)(self.world_size, root)
            places = _even(x.size, self.world_size)
            ready = self._prepare(key, schedule, places, x, op)

        def arrays() -> Arrays:
            return _flat(x), np.empty(x.size, x.dtype)

        def result(total: Array) -> Array | None:
            return total.reshape(x.shape) if gets else None

        return Call(self._sending, ready, arrays, result, op, x)

    def _gather(self, x: Array, root: int) -> Call[Array | None]:
        gets, shape = self.rank == root, (self.world_size, *x.shape)
        key = ("gather", root, x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            schedule = direct_gather(self.world_size, root)
            ready = self._prepare(key, schedule, self._mine(x.size, root), x)

        def arrays() -> Arrays:
            flat = self._gathered(x) if gets else _flat(x)
            return flat, flat

        def result(flat: Array) -> Array | None:
            return flat.reshape(shape) if gets else None

        return Call(self._sending, ready, arrays, result, reads=x)

    def _scatter(self, x: Array | None, out: Array, root: int) -> Call[Array]:
        given = x if self.rank == root else None
        key = ("scatter", root, out.size, out.dtype)
        ready = self._plans.get(key)
        if ready is None:
            schedule = direct_scatter(self.world_size, root)
            ready = self._prepare(key, schedule, self._mine(out.size, root), out)

        def arrays() -> Arrays:
            flat = _target(out) if given is None else _flat(given)
            return flat, flat

        def result(flat: Array) -> Array:
            if given is None:
                return _put(flat, out)
            out[...] = given[root]
            return out

        return Call(self._sending, ready, arrays, result, reads=given, writes=out)

    def _mine(self, count: int, root: int) -> Places:
        """Return where chunks are of which only the root has more than one."""
        if self.rank == root:
            return _equal(count, self.world_size)
        return [(0, count if rank == self.rank else 0) for rank in range(self.world_size)]

    def _point_to_point(self, x: Array, source: int, target: int) -> Call[Array]:
        gives = self.rank == source
        key = ("send", (source, target), x.size, x.dtype)
        ready = self._plans.get(key)
        if ready is None:
            schedule = point_to_point(self.world_size, source, target)
            ready = self._prepare(key, schedule, [(0, x.size)], x)

        def arrays() -> Arrays:
            flat = _flat(x) if gives else _target(x)
            return flat, flat

        def result(flat: Array) -> Array:
            return x if gives else _put(flat, x)

        return Call(self._sending, ready, arrays, result, reads=x, writes=None if gives else x)

    def _barrier(self) -> Call[Array]:
        nothing = np.zeros(1, np.uint8)
        key = ("barrier", "")
        ready = self._plans.get(key)
        if ready is None:
            schedule = dissemination_barrier(self.world_size)
            ready = self._prepare(key, schedule, [(0, 1)], nothing)
        return Call(self._sending, ready, lambda: (nothing, nothing), lambda flat: flat)

    # Their common part

    def _carry_out(self, call: Call[T], async_op: bool) -> Any:
        return self._queue.submit(call) if async_op else self._queue.run(call)

    def _is_direct(self, nbytes: int) -> bool:
        """Return whether a reduce-scatter, all-gather or reduce is a direct one, or a ring."""
        if self._algorithm in ("direct", "ring"):
            return self._algorithm == "direct"
        return self._model.choose(self.world_size, nbytes, ("ring", "direct")) == "direct"

    def _prepare(
        self,
        key: tuple[Any, ...],
        schedule: Schedule,
        places: Places,
        x: Array,
        op: str = "",
        *,
        in_place: bool = False,
    ) -> Planned:
        """Plan a call on arrays like `x`, and keep the plan.

        `key` begins with the call's name and what of its arguments all ranks must agree on.
        """
        made = plan(
            schedule,
            self.rank,
            places,
            itemsize=x.itemsize,
            segment=self._segment,
            wide=bool(op) and sum_type(x.dtype) != x.dtype,
            finish=op == "mean",
            in_place=in_place,
        )
        tag = call_tag(f"{key[0]} {schedule.name}", f"{key[1]}", x)
        with self._planning:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            ready = self._plans[key] = Planned(made, x.dtype, tag, scratch_bytes(made, x.dtype))
        return ready


def _even(count: int, chunks: int) -> Places:
    """Return where the chunks of an array are that is cut into even ones."""
    bounds = chunk_bounds(count, chunks)
    return list(pairwise(bounds))


def _equal(count: int, chunks: int) -> list[tuple[int, int]]:
    """Return where chunks of `count` elements are, one behind the other."""
    return [(count * chunk, count * (chunk + 1)) for chunk in range(chunks)]


def _flat(x: Array) -> Array:
    """Return `x` as one dimension: itself where it is contiguous, else a copy."""
    return np.ascontiguousarray(x).reshape(-1)


def _target(out: Array) -> Array:
    """Return what is written to for `out`: its own memory where it is contiguous."""
    return out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)


def _put(target: Array, out: Array) -> Array:
    """Return `out`, filled from `target` if that is not its own memory."""
    if not np.may_share_memory(target, out):
        out[...] = target.reshape(out.shape)
    return out
