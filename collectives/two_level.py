"""Collectives of hosts with several ranks each: within a host over its memory, across over a wire.

An all-reduce has three parts. The ranks of a host add up their arrays, each one chunk of them. Each
rank all-reduces its chunk with the ranks of the same local number on the other hosts. Then the
ranks of a host have each other's chunks: for nothing, where the result is one memory. So a host
sends what one rank alone would have to, over as many connections as it has ranks.

Rule: ranks are numbered host by host, rank = host * ranks of a host + local rank.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import (
    Array,
    Communicator,
    GroupConfig,
    Op,
    finish,
    sum_type,
    validate,
    validate_all_to_all,
    validate_moved,
    validate_peer,
    validate_rank,
    validate_root,
    validate_scatter,
)
from holdfast.collectives.rendezvous import Rendezvous
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.shm.communicator import SharedMemoryCommunicator
from holdfast.collectives.subgroup import GroupWitness, Members, Renumbered, Traffic
from holdfast.collectives.work import WorkQueue
from holdfast.errors import UsageError

T = TypeVar("T")


def two_level_shape(hosts: Sequence[str]) -> tuple[int, int] | None:
    """Return how many hosts there are and how many ranks each has, by the host of each rank.

    None unless there are several hosts, and each has the same number of ranks, more than one, with
    consecutive numbers.
    """
    local = sum(1 for host in hosts if host == hosts[0])
    count, rest = divmod(len(hosts), max(local, 1))
    if local < 2 or count < 2 or rest or len(set(hosts)) != count:
        return None
    runs = [set(hosts[first : first + local]) for first in range(0, len(hosts), local)]
    return (count, local) if all(len(run) == 1 for run in runs) else None


def open_two_level(
    config: GroupConfig,
    table: Rendezvous,
    shape: tuple[int, int],
    open_wire: Callable[[GroupConfig, Members], Communicator],
) -> "TwoLevelCommunicator":
    """Return the communicator of `shape` (hosts, ranks of each) over wires from `open_wire`.

    Where `config` names a port, or one that is forwarded, the ranks of the same local number meet
    at the one behind those that all ranks use.
    """
    hosts, local = shape
    host, number = divmod(config.rank, local)
    everyone = range(config.world_size)
    here, column = everyone[host * local :][:local], everyone[number::local]
    traffic = Traffic(config.witness)
    behind = max(1, len(config.interfaces))
    public = config.public
    across_config = replace(
        config,
        rank=host,
        world_size=hosts,
        witness=GroupWitness(config.witness, column, traffic),
        port=config.port + behind if config.port else 0,
        public=None if public is None else (public[0], public[1] + behind),
    )
    config = replace(config, witness=GroupWitness(config.witness, everyone, traffic))
    opened: list[Communicator] = []
    try:
        within = SharedMemoryCommunicator(
            number, local, Members(table, here).exchange, timeout=config.timeout
        )
        opened.append(within)
        across = open_wire(across_config, Members(table, column))
        opened.append(across)
        opened.append(open_wire(config, Members(table, everyone)))
        return TwoLevelCommunicator(within, across, opened[-1])
    except BaseException:
        for communicator in opened:
            communicator.close()
        raise


class TwoLevelCommunicator:
    """The collectives of `Communicator` by those of three groups, which it owns.

    `local` are the ranks of this host, `across` those with this local number on every host, by
    host, `everyone` all ranks. Every rank's bits are the same. They are those of the schedule
    `two_level_all_reduce`, not of one ring; 16-bit floats travel as float32 and are rounded once.
    """

    transport = "two-level"
    device = "cpu"
    overlaps = True

    def __init__(
        self, local: SharedMemoryCommunicator, across: Communicator, everyone: Communicator
    ) -> None:
        """Raises UsageError if the groups' ranks are not numbered host by host."""
        self.rank = everyone.rank
        self.world_size = everyone.world_size
        if (
            self.world_size != local.world_size * across.world_size
            or self.rank != across.rank * local.world_size + local.rank
        ):
            raise UsageError(
                "ranks numbered host by host were expected (rank = host * ranks of a host + local "
                f"rank); found rank {self.rank} of {self.world_size} as local rank {local.rank} of "
                f"{local.world_size} on host {across.rank} of {across.world_size}: number them so, "
                "or take --transport tcp"
            )
        self._local = local
        self._across = across
        self._everyone = everyone
        ranks, first = range(self.world_size), across.rank * local.world_size
        self._here = Renumbered(ranks[first : first + local.world_size])
        self._column = Renumbered(ranks[local.rank :: local.world_size])
        self._wide = np.empty(0, np.float32)
        self._queue = WorkQueue(f"holdfast-two-level-{self.rank}", abort=self._abort)

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory that this host's ranks read in place; `common`: one for them."""

        def call() -> Array:
            with self._here:
                return self._local.allocate(count, dtype, common=common)

        return self._queue.run(call)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out`; fastest between allocated arrays."""
        target = x if out is None else out
        validate(op, x, target)

        def call() -> Array:
            self._all_reduce(x, op, target)
            return target

        return self._begin(call, async_op)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return this rank's chunk of the combined `x`: an all-reduce, of which it is a part."""
        validate(op, x, None)
        bounds = chunk_bounds(x.size, self.world_size)

        def call() -> Array:
            total = np.empty(x.size, x.dtype)
            self._all_reduce(x.reshape(-1), op, total)
            return total[bounds[self.rank] : bounds[self.rank + 1]].copy()

        return self._begin(call, async_op)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x`, stacked: across hosts first, each rank's own alone."""
        validate_moved(x)

        def call() -> Array:
            with self._column:
                mine = self._across.all_gather(x)
            with self._here:
                return _by_rank(self._local.all_gather(mine))

        return self._begin(call, async_op)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Overwrite `x` with `root`'s: to one rank of each host, then within."""
        validate_root(root, self.world_size, x, self.rank)
        host, number = divmod(root, self._local.world_size)

        def call() -> Array:
            if self._local.rank == number:
                with self._column:
                    self._across.broadcast(x, host)
            with self._here:
                self._local.broadcast(x, number)
            return x

        return self._begin(call, async_op)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x[rank]`, stacked, over the wire."""
        validate_all_to_all(x, self.world_size)
        return self._begin(lambda: self._everyone.all_to_all(x), async_op)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Return the combined `x` at `root`, None elsewhere: an all-reduce that one rank keeps."""
        validate(op, x, None)
        validate_rank(root, self.world_size)
        total = np.empty(x.shape, x.dtype)
        self._queue.run(lambda: self._all_reduce(x, op, total))
        return total if self.rank == root else None

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, stacked, at `root`: to its host first, then to it."""
        validate_moved(x)
        validate_rank(root, self.world_size)
        host, number = divmod(root, self._local.world_size)

        def call() -> Array | None:
            with self._column:
                mine = self._across.gather(x, host)
            with self._here:
                rows = None if mine is None else self._local.gather(mine, number)
            return None if rows is None else _by_rank(rows)

        return self._queue.run(call)

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]`: within its host first, then across."""
        validate_scatter(x, out, root, self.world_size, self.rank)
        host, number = divmod(root, self._local.world_size)
        shape = (self._across.world_size, self._local.world_size, *out.shape)

        def call() -> Array:
            mine = None
            if self._across.rank == host:
                rows = None if self.rank != root or x is None else x.reshape(shape).swapaxes(0, 1)
                mine = np.empty((self._across.world_size, *out.shape), out.dtype)
                with self._here:
                    self._local.scatter(rows, mine, number)
            with self._column:
                return self._across.scatter(mine, out, host)

        return self._queue.run(call)

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`, over this host's memory if it is there."""
        validate_peer(x, peer, self.world_size, self.rank, filled=False)
        group, number, counted = self._group_of(peer)

        def call() -> None:
            with counted:
                group.send(x, number)

        self._queue.run(call)

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends."""
        validate_peer(x, peer, self.world_size, self.rank, filled=True)
        group, number, counted = self._group_of(peer)

        def call() -> Array:
            with counted:
                return group.recv(x, number)

        return self._queue.run(call)

    def barrier(self) -> None:
        """Return when every rank has called it."""

        def call() -> None:
            with self._here:
                self._local.barrier()
            if self._local.rank == 0:
                with self._column:
                    self._across.barrier()
            with self._here:
                self._local.barrier()

        self._queue.run(call)

    def close(self) -> None:
        """Close the three groups; may be called again."""
        self._queue.close()
        for group in (self._local, self._across, self._everyone):
            group.close()

    def _all_reduce(self, x: Array, op: Op, out: Array) -> None:
        base: Op = "sum" if op == "mean" else op
        target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        begin, end = chunk_bounds(x.size, self._local.world_size)[self._local.rank :][:2]
        mine = part = target[begin:end]
        if sum_type(x.dtype) != x.dtype:
            if self._wide.size < part.size:
                self._wide = np.empty(part.size, np.float32)
            part = self._wide[: mine.size]
        with self._here:
            self._local.reduce_chunk(x, base, part)
        if part.size:  # this rank's column has chunks of one size
            with self._column:
                self._across.all_reduce(part, base)
        finish(op, part, self.world_size)
        if part is not mine:
            mine[...] = part
        with self._here:
            self._local.gather_chunks(target)
        if not out.flags.c_contiguous:
            out[...] = target.reshape(out.shape)

    def _group_of(self, peer: int) -> tuple[Communicator, int, AbstractContextManager[None]]:
        """Return a group that `peer` is in, its number there, and the context to use it in."""
        host, number = divmod(peer, self._local.world_size)
        if host == self._across.rank:
            return self._local, number, self._here
        return self._everyone, peer, nullcontext()

    def _begin(self, call: Callable[[], T], async_op: bool) -> Any:
        if not async_op:
            return self._queue.run(call)

        def quietly() -> T:
            with self._local.without_spinning():
                return call()

        return self._queue.submit(quietly)

    def _abort(self) -> None:
        self._local.abort()
        self._across.close()
        self._everyone.close()


def _by_rank(rows: Array) -> Array:
    """Return what is by local rank and host, of shape (local ranks, hosts, …), by rank."""
    ranks = rows.shape[0] * rows.shape[1]
    return np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(ranks, *rows.shape[2:])
