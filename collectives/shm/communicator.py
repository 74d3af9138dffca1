"""The collectives between the ranks of one host, which read and write each other's memory in place.

An array from `allocate` is used where it lies, any other is shown on a stage piece by piece
(`reducing.py`, `moving.py`); messages between two ranks go through a ring of slots (`mailbox.py`).

Rules:
- Contributions are added in the ring's order, so the bits are those of the ring over any transport.
- A call begins with a meeting at which each rank shows what it calls, so that ranks that call
  different things are told, and not given a wrong sum.
- When a call returns, nobody reads or writes this rank's arrays any more; but a peer that is behind
  may still write a common result, with what stands there already, if its input is no array from
  `allocate`, or small. Whoever changes that by itself calls `barrier` before.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.shm.arrays import SharedArrays
from holdfast.collectives.shm.call import PRIVATE, describe, dtype_sign
from holdfast.collectives.shm.mailbox import Mailbox
from holdfast.collectives.shm.meeting import Exchange, Meetings
from holdfast.collectives.shm.moving import Take, gather_chunks, move
from holdfast.collectives.shm.reducing import Reducer, flat
from holdfast.collectives.work import Work, WorkQueue

T = TypeVar("T")


class SharedMemoryCommunicator:
    """The collectives of `Communicator` for ranks of one host."""

    transport = "shm"
    device = "cpu"
    overlaps = False

    def __init__(self, rank: int, world_size: int, exchange: Exchange, *, timeout: float) -> None:
        """Meet the others; `exchange` gives this rank's table and returns those of this group.

        `timeout` is how many seconds a rank is waited for. Raises MissingDependency where there is
        no such memory, CommunicationError where a peer's cannot be opened.
        """
        self.rank = rank
        self.world_size = world_size
        self._everybody = range(world_size)
        self._meetings = Meetings(rank, world_size, exchange, timeout=timeout)
        self._queue = WorkQueue(f"holdfast-shm-{rank}", abort=self._meetings.abort)
        self._arrays = SharedArrays(self._meetings, world_size)
        self._reducer = Reducer(self._meetings, self._arrays)
        try:
            self._arrays.open_stage()
            outboxes = self._arrays.add(Mailbox.size(world_size), huge=False)
            self._mailbox = Mailbox(self._meetings, self._arrays.segments(outboxes))
        except BaseException:
            self.close()
            raise

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory that the peers read in place; with `common`, one for all ranks."""
        kind = np.dtype(dtype)
        return self._queue.run(lambda: self._arrays.allocate(count, kind, common=common))

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out` (None: `x`); fastest between allocated arrays."""
        target = x if out is None else out
        validate(op, x, target)

        def call() -> Array:
            self._reducer.all_reduce(x, op, target)
            return target

        return self._begin(call) if async_op else self._queue.run(call)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return this rank's chunk of the combined `x`."""
        validate(op, x, None)
        bounds = chunk_bounds(x.size, self.world_size)

        def call() -> Array:
            chunk = np.empty(bounds[self.rank + 1] - bounds[self.rank], x.dtype)
            self._reducer.reduce_chunk(x, op, chunk)
            return chunk

        return self._begin(call) if async_op else self._queue.run(call)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x`, stacked."""
        validate_moved(x)

        def call() -> Array:
            out = np.empty((self.world_size, *x.shape), x.dtype)
            self._move(
                "all_gather", self._everybody, x, 1, [(rank, 0) for rank in self._everybody], out
            )
            return out

        return self._begin(call) if async_op else self._queue.run(call)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Overwrite `x` with `root`'s on every rank."""
        validate_root(root, self.world_size, x, self.rank)

        def call() -> Array:
            if self.rank == root:
                self._move("broadcast", [root], x, 1, [], None, root)
            else:
                self._move("broadcast", [root], None, 1, [(root, 0)], x, root)
            return x

        return self._begin(call) if async_op else self._queue.run(call)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x[rank]`, stacked."""
        validate_all_to_all(x, self.world_size)

        def call() -> Array:
            out = np.empty(x.shape, x.dtype)
            takes = [(peer, self.rank) for peer in self._everybody]
            self._move("all_to_all", self._everybody, x, self.world_size, takes, out)
            return out

        return self._begin(call) if async_op else self._queue.run(call)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Return the combined `x` at `root`, None elsewhere."""
        validate(op, x, None)
        validate_rank(root, self.world_size)

        def call() -> Array | None:
            total = np.empty(x.shape, x.dtype) if self.rank == root else None
            self._reducer.reduce(x, op, root, None if total is None else total.reshape(-1))
            return total

        return self._queue.run(call)

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, stacked, at `root`, None elsewhere."""
        validate_moved(x)
        validate_rank(root, self.world_size)

        def call() -> Array | None:
            if self.rank != root:
                self._move("gather", self._everybody, x, 1, [], None, root)
                return None
            out = np.empty((self.world_size, *x.shape), x.dtype)
            takes = [(rank, 0) for rank in self._everybody]
            self._move("gather", self._everybody, x, 1, takes, out, root)
            return out

        return self._queue.run(call)

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]`."""
        validate_scatter(x, out, root, self.world_size, self.rank)

        def call() -> Array:
            offer = x if self.rank == root else None
            self._move("scatter", [root], offer, self.world_size, [(root, self.rank)], out, root)
            return out

        return self._queue.run(call)

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`; return when it has it, or all that is left is under way to it."""
        validate_peer(x, peer, self.world_size, self.rank, filled=False)
        data, kind = flat(x).view(np.uint8), dtype_sign(x.dtype)
        self._queue.run(lambda: self._mailbox.send(data, kind, peer))

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends."""
        validate_peer(x, peer, self.world_size, self.rank, filled=True)
        target = x.reshape(-1) if x.flags.c_contiguous else np.empty(x.size, x.dtype)

        def call() -> Array:
            self._mailbox.receive(target.view(np.uint8), dtype_sign(x.dtype), peer)
            if not x.flags.c_contiguous:
                x[...] = target.reshape(x.shape)
            return x

        return self._queue.run(call)

    def barrier(self) -> None:
        """Return when every rank has called it."""
        own = describe("barrier", np.dtype(np.uint8), 0)
        self._queue.run(lambda: self._arrays.meet(own))

    def close(self) -> None:
        """Give back descriptors; memory goes when the last array over it does. May be repeated."""
        self._queue.close()
        self._meetings.close()
        self._arrays.close()
        self._reducer.close()

    @contextlib.contextmanager
    def without_spinning(self) -> Iterator[None]:
        """Sleep at once where calls wait: for those in the background of what computes."""
        self._meetings.spinning = False
        try:
            yield
        finally:
            self._meetings.spinning = True

    def abort(self) -> None:
        """Make what another thread waits for here fail soon; only `close` is of use after it."""
        self._meetings.abort()

    # The two halves of an all-reduce, between which another one can stand: `two_level.py`

    def reduce_chunk(self, x: Array, op: Op, into: Array) -> None:
        """Write this rank's chunk of the combined `x` into `into`: flat, of its size.

        `into` is of `x`'s dtype, or its `sum_type`.
        """
        self._queue.run(lambda: self._reducer.reduce_chunk(x, op, into))

    def gather_chunks(self, x: Array) -> None:
        """Fill `x`, flat and contiguous, with each rank's chunk of its own `x`."""
        bounds = chunk_bounds(x.size, self.world_size)
        self._queue.run(lambda: gather_chunks(self._meetings, self._arrays, x, bounds))

    def _begin(self, call: Callable[[], T]) -> Work[T]:
        def quietly() -> T:
            with self.without_spinning():
                return call()

        return self._queue.submit(quietly)

    def _move(
        self,
        name: str,
        givers: Sequence[int],
        offer: Array | None,
        rows: int,
        takes: Sequence[tuple[int, int]],
        out: Array | None,
        root: int | None = None,
    ) -> None:
        """Carry out the call `name`: give the `rows` of `offer`, fill `out` with those it takes.

        `takes` are (giver, row), in the order in which they stand in `out`.
        """
        if offer is not None:
            elements, dtype, source = offer.size // rows, offer.dtype, self._arrays.locate(offer)
        else:
            assert out is not None
            elements, dtype, source = out.size // len(takes), out.dtype, PRIVATE
        own = describe(name, dtype, elements, root=root, source=source)
        length = elements * dtype.itemsize
        target = None
        if out is not None:
            target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        wanted = []
        for place, (giver, row) in enumerate(takes):
            assert target is not None
            into = target.view(np.uint8)[place * length : (place + 1) * length]
            wanted.append(Take(giver, row, into))
        given = None if offer is None else flat(offer).view(np.uint8)
        move(self._meetings, self._arrays, own, givers, (rows, length), given, wanted)
        if out is not None and target is not None and not out.flags.c_contiguous:
            out[...] = target.reshape(out.shape)
