"""The two protocols of the room, and how a rank joins its group.

A `Transport` moves bytes between ranks. A `Communicator` has the collectives. Schedules are
executed once, above `Transport` (`scheduled.py`); what has collectives of its own (shared memory;
MPI and NCCL) implements `Communicator` directly. Collectives take arrays, never models.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from holdfast.collectives.link import LinkConfig
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import Work
from holdfast.errors import UsageError

Array = NDArray[Any]
Op = Literal["sum", "mean", "min", "max", "prod"]

COMBINE: dict[str, np.ufunc] = {
    "sum": np.add,
    "mean": np.add,  # divided by the world size once the sum is whole
    "min": np.minimum,
    "max": np.maximum,
    "prod": np.multiply,
}
"""How two contributions become one, by the name of the operation."""


class Transport(Protocol):
    """Moves bytes between ranks, in order, over whatever breaks and comes back below it.

    All calls are made by one thread at a time. A buffer given to `send` is borrowed: it must not
    change until `flush` has returned or the receiver is known to have it.
    """

    rank: int
    world_size: int

    def send(self, peer: int, data: memoryview, tag: int) -> None:
        """Queue `data` for `peer` and return at once; `tag` (16 bits) says of which call it is."""

    def receive(self, peer: int, into: memoryview, tag: int) -> None:
        """Fill `into` with the next message of `peer`; wait for it.

        Raises CollectiveMismatch if that message has another size or tag.
        """

    def flush(self) -> None:
        """Wait until every receiver has all that was sent to it."""

    def service(self) -> None:
        """Do what is due while no collective runs (heartbeats, reconnections) and return."""

    def abort(self) -> None:
        """Make what another thread waits for here fail soon; only `close` is of use after it."""

    def close(self, *, graceful: bool) -> None:
        """Close everything, may be called again; if graceful, let peers have what was sent."""


class Communicator(Protocol):
    """The collectives of one group of ranks; each rank calls the same ones in the same order.

    Arrays are one-dimensional or are treated so, in C order; other layouts are copied. Results are
    the same bits on every rank, over every transport, in every run. Calls may come from any
    thread; they are carried out in the order in which they were made. Every call raises a
    `CommunicationError` where the ranks cannot go on; after that the communicator is of no use but
    to be closed.
    """

    rank: int
    world_size: int
    transport: str

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return a zeroed one-dimensional array of `count` elements that peers can read in place.

        With `common`, over shared memory it is one array for all ranks: an all-reduce into it needs
        no copies. Every rank must make the same allocations in the same order. The memory lives as
        long as the communicator and is owned by it.
        """

    @overload
    def all_reduce(
        self, x: Array, op: Op = ..., out: Array | None = ..., *, async_op: Literal[False] = ...
    ) -> Array: ...
    @overload
    def all_reduce(
        self, x: Array, op: Op = ..., out: Array | None = ..., *, async_op: Literal[True]
    ) -> Work: ...
    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Array | Work:
        """Combine every rank's `x` into `out` (into `x` itself if None) on every rank.

        `out` is `x` or apart from it in memory. An operation, dtype or array that cannot be raises
        UsageError before anything moves.

        With `async_op` return a `Work` at once; neither array may be touched until its `wait`.
        """

    def reduce_scatter(self, x: Array, op: Op = "sum") -> Array:
        """Return this rank's chunk (`chunk_bounds`) of the combined `x`, in fresh memory."""

    def all_gather(self, x: Array) -> Array:
        """Return every rank's `x`, all of one shape, stacked along a new first axis."""

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Overwrite `x` with `root`'s on every rank and return it."""

    def barrier(self) -> None:
        """Return when every rank has called it."""

    def close(self) -> None:
        """Release everything; may be called again.

        Peers that are late by more than some seconds may miss what this rank sent last: a `barrier`
        before makes sure of them. Work that has not ended fails.
        """


@dataclass(frozen=True)
class GroupConfig:
    """What a rank needs to know to join its group.

    `master_addr` and `master_port` are where rank 0 listens for the others; `listen_fd` is an
    inherited socket that listens there already (rank 0 only). `token` is the job's secret.
    `timeout` is how long nothing may move before a call gives up, `meeting` how long the ranks may
    take to find each other, in seconds.

    `address` is this rank's own address, which its links listen at (on `port`; 0: any) and dial
    from; None listens at the one that reaches the master. `control_address` is the same for meeting
    the others (None: `address`). `public` is where peers reach its links if that is another place,
    as behind port forwarding. `witness` is told what the collectives go through.
    """

    rank: int
    world_size: int
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    token: bytes = field(default=b"", repr=False)
    transport: str = "auto"
    listen_fd: int | None = None
    timeout: float = 300.0
    meeting: float = 300.0
    epoch: int = 0
    address: str | None = None
    port: int = 0
    public: tuple[str, int] | None = None
    control_address: str | None = None
    witness: Witness = field(default_factory=Blind, repr=False)
    link: LinkConfig = field(default_factory=LinkConfig)

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"a rank from 0 to world size - 1 was expected, found rank {self.rank} of "
                f"{self.world_size}; check RANK and WORLD_SIZE"
            )
        if self.world_size > 1 and len(self.token) < 16:
            raise UsageError(
                "a job of more than one rank needs a token of at least 16 bytes, so that no "
                "stranger joins it; `holdfast launch` makes one. Started otherwise, set "
                "HOLDFAST_TOKEN to the same 32 hex digits or more on every rank "
                "(openssl rand -hex 32)"
            )


def validate(op: str, x: Array, out: Array | None) -> None:
    """Raise UsageError for an operation or arrays that no sum can take.

    `out` is what will be written to; None for memory that isn't the caller's.
    """
    if op not in COMBINE:
        raise UsageError(f"an operation of {', '.join(COMBINE)} was expected, found {op!r}")
    if x.dtype.kind not in "fiuc":
        raise UsageError(f"an array of numbers was expected, found dtype {x.dtype}")
    if op == "mean" and x.dtype.kind in "iu":
        raise UsageError(
            f"the mean of {x.dtype} is not {x.dtype}: convert the array to float first"
        )
    if op in ("min", "max") and x.dtype.kind == "c":
        raise UsageError(f"complex numbers have no order: {op} of {x.dtype}")

    if out is None:
        return
    if out.shape != x.shape or out.dtype != x.dtype:
        raise UsageError(
            f"out must have x's shape and dtype, {x.shape} {x.dtype}; found {out.shape} {out.dtype}"
        )
    if not out.flags.writeable:
        raise UsageError("the result would be written to a read-only array: give another as out")
    if out is not x and np.may_share_memory(x, out) and not _same_memory(x, out):
        raise UsageError("out overlaps x without being x: take an array of its own, or x itself")


def validate_root(root: int, world_size: int, x: Array, rank: int) -> None:
    """Raise UsageError for a root that is no rank, or an array that a broadcast cannot fill."""
    if not 0 <= root < world_size:
        raise UsageError(f"a root from 0 to {world_size - 1} was expected, found {root}")
    if rank != root and not x.flags.writeable:
        raise UsageError("a broadcast would overwrite a read-only array: give a copy of it")


def _same_memory(x: Array, out: Array) -> bool:
    return x.strides == out.strides and (
        x.__array_interface__["data"][0] == out.__array_interface__["data"][0]
    )


def finish(op: str, total: Array, world_size: int) -> None:
    """Turn a whole sum into what `op` asks for, in place."""
    if op == "mean":
        np.multiply(total, total.dtype.type(1.0 / world_size), out=total)
