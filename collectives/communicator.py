"""The two protocols of the room, and how a rank joins its group.

A `Transport` moves bytes between ranks. A `Communicator` has the collectives. Schedules are
executed once, above `Transport` (`scheduled.py`); what has collectives of its own (shared memory;
MPI and NCCL) implements `Communicator` directly. Collectives take arrays, never models.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from holdfast.collectives.cost import CostModel
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import Rest, Work
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

    While `wait` or `flush` sleeps, it is in the context `asleep`, which whoever uses the transport
    may set: in there another thread may call `send` and `post`, and what it gives is on its way at
    once.
    """

    rank: int
    world_size: int
    asleep: Rest

    def send(self, peer: int, data: memoryview, tag: int) -> None:
        """Queue `data` for `peer` and return at once; `tag` (16 bits) says of which call it is."""

    def post(self, peer: int, into: memoryview, tag: int) -> None:
        """Let the next message of `peer` that has no place yet go to `into`; return at once.

        Places may be posted well before their messages come: then several can be on their way at
        a time. `into` is the transport's until `wait` has returned for it.
        """

    def wait(self, peer: int) -> None:
        """Return when the oldest place posted for `peer` that was not waited for is filled.

        Raises CollectiveMismatch if its message has another size or tag.
        """

    def flush(self, count: int | None = None) -> None:
        """Wait until the receivers have the first `count` messages that were sent (None: all)."""

    def service(self) -> None:
        """Do what is due while no collective runs (heartbeats, reconnections) and return."""

    def abort(self) -> None:
        """Make what another thread waits for here fail soon; only `close` is of use after it."""

    def close(self, *, graceful: bool) -> None:
        """Close everything, may be called again; if graceful, let peers have what was sent."""


class Communicator(Protocol):
    """The collectives of one group of ranks; each rank calls the same ones in the same order.

    Arrays are one-dimensional or are treated so, in C order; other layouts are copied. A result has
    the same bits on every rank, in every run, and over every transport that carries out the same
    algorithm (shared memory always adds in the ring's order). Calls may come from any
    thread; they are carried out in the order in which they were made. Every call raises a
    `CommunicationError` where the ranks cannot go on; after that the communicator is of no use but
    to be closed.
    """

    rank: int
    world_size: int
    transport: str
    device: str
    """Where its arrays are: `cpu`, NumPy's; or `cuda`, CuPy's on this rank's GPU (NCCL)."""
    overlaps: bool
    """Whether a call made with `async_op` waits for a wire or a GPU while its caller computes. All
    that one over shared memory does is work of the ranks' own processors: it spares nothing."""

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return a zeroed one-dimensional array of `count` elements that peers can read in place.

        With `common`, over shared memory it is one array for all ranks: an all-reduce into it needs
        no copies. A peer may still be writing the result into it, the same, when this rank's call
        has returned: change it otherwise only after a `barrier`. Every rank must make the same
        allocations in the same order. The memory lives as long as the communicator and is owned by
        it.
        """

    @overload
    def all_reduce(
        self, x: Array, op: Op = ..., out: Array | None = ..., *, async_op: Literal[False] = ...
    ) -> Array: ...
    @overload
    def all_reduce(
        self, x: Array, op: Op = ..., out: Array | None = ..., *, async_op: Literal[True]
    ) -> Work[Array]: ...
    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Array | Work[Array]:
        """Combine every rank's `x` into `out` (into `x` itself if None) on every rank.

        `out` is `x` or apart from it in memory. An operation, dtype or array that cannot be raises
        UsageError before anything moves. float16 and bfloat16 are accumulated in float32 and
        rounded once.

        With `async_op`, here and below, return a `Work` at once, whose `wait` returns the result;
        no array that was given may be touched until then.
        """

    @overload
    def reduce_scatter(
        self, x: Array, op: Op = ..., *, async_op: Literal[False] = ...
    ) -> Array: ...
    @overload
    def reduce_scatter(self, x: Array, op: Op = ..., *, async_op: Literal[True]) -> Work[Array]: ...
    def reduce_scatter(
        self, x: Array, op: Op = "sum", *, async_op: bool = False
    ) -> Array | Work[Array]:
        """Return this rank's chunk (`chunk_bounds`) of the combined `x`, in fresh memory."""

    @overload
    def all_gather(self, x: Array, *, async_op: Literal[False] = ...) -> Array: ...
    @overload
    def all_gather(self, x: Array, *, async_op: Literal[True]) -> Work[Array]: ...
    def all_gather(self, x: Array, *, async_op: bool = False) -> Array | Work[Array]:
        """Return every rank's `x`, all of one shape, stacked along a new first axis."""

    @overload
    def broadcast(self, x: Array, root: int = ..., *, async_op: Literal[False] = ...) -> Array: ...
    @overload
    def broadcast(self, x: Array, root: int = ..., *, async_op: Literal[True]) -> Work[Array]: ...
    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Array | Work[Array]:
        """Overwrite `x` with `root`'s on every rank and return it."""

    @overload
    def all_to_all(self, x: Array, *, async_op: Literal[False] = ...) -> Array: ...
    @overload
    def all_to_all(self, x: Array, *, async_op: Literal[True]) -> Work[Array]: ...
    def all_to_all(self, x: Array, *, async_op: bool = False) -> Array | Work[Array]:
        """Return what the ranks have for this one: `result[r]` is rank r's `x[rank]`.

        The first axis of `x` is as long as the world; all ranks' `x` are of one shape and dtype.
        """

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Combine every rank's `x`; return the result, in fresh memory, at `root`, else None."""

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, of one shape, stacked along a new first axis, at `root`.

        The other ranks get None.
        """

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]` and return it.

        `x`, of shape (world size, *out.shape) and out's dtype, is looked at on `root` only.
        """

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`, which calls `recv`; `x` may be changed on return.

        Messages between two ranks arrive in the order in which they were sent. No rank is its own
        peer.
        """

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends, of the same size and dtype, and return it."""

    def barrier(self) -> None:
        """Return when every rank has called it."""

    def close(self) -> None:
        """Release everything; may be called again.

        Peers that are late by more than some seconds may miss what this rank sent last: a `barrier`
        before makes sure of them. Work that has not ended fails.
        """


SELF_MEETING = ("mpi", "mpi-p2p")
"""Transports whose ranks know each other from the start: they need no address, port or token."""


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

    `interfaces` are the network interfaces (`eth0`) or addresses of this host that the rails of a
    link use, in the order of the peers'; empty: `address` alone. `algorithm` names the schedules'
    family (`ring`, `halving-doubling`, …), or `auto`: the fastest by `model`, a cost model that
    was measured (None: by one that fits most networks). All ranks go by rank 0's.
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
    interfaces: tuple[str, ...] = ()
    algorithm: str = "auto"
    model: CostModel | None = None
    witness: Witness = field(default_factory=Blind, repr=False)
    link: LinkConfig = field(default_factory=LinkConfig)

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"a rank from 0 to world size - 1 was expected, found rank {self.rank} of "
                f"{self.world_size}; check RANK and WORLD_SIZE"
            )
        meets_itself = self.transport in SELF_MEETING
        if self.world_size > 1 and not meets_itself and len(self.token) < 16:
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
    if x.dtype.kind not in "fiuc" and x.dtype.name != "bfloat16":
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
    if not _writeable(out):
        raise UsageError("the result would be written to a read-only array: give another as out")
    if out is not x and np.may_share_memory(x, out) and not _same_memory(x, out):
        raise UsageError("out overlaps x without being x: take an array of its own, or x itself")


def validate_root(root: int, world_size: int, x: Array, rank: int) -> None:
    """Raise UsageError for a root that is no rank, or an array that a broadcast cannot fill."""
    validate_rank(root, world_size)
    validate_moved(x)
    if rank != root and not _writeable(x):
        raise UsageError("a broadcast would overwrite a read-only array: give a copy of it")


def validate_rank(root: int, world_size: int) -> None:
    """Raise UsageError for a root that is no rank."""
    if not 0 <= root < world_size:
        raise UsageError(f"a root from 0 to {world_size - 1} was expected, found {root}")


def validate_moved(x: Array) -> None:
    """Raise UsageError for an array that isn't plain memory."""
    if x.dtype.hasobject:
        raise UsageError(
            f"an array of plain values was expected, found dtype {x.dtype}: Python objects don't "
            "travel between ranks"
        )


def validate_all_to_all(x: Array, world_size: int) -> None:
    """Raise UsageError for an array that has no part for each rank."""
    validate_moved(x)
    if x.ndim < 1 or x.shape[0] != world_size:
        raise UsageError(
            f"an array with a first axis of {world_size}, a part for each rank, was expected; "
            f"found shape {x.shape}"
        )


def validate_scatter(x: Array | None, out: Array, root: int, world_size: int, rank: int) -> None:
    """Raise UsageError for arrays between which nothing can be scattered."""
    validate_rank(root, world_size)
    validate_moved(out)
    if not _writeable(out):
        raise UsageError("a scatter would overwrite a read-only array: give a copy of it")
    shape = (world_size, *out.shape)
    if rank == root and (x is None or x.shape != shape or x.dtype != out.dtype):
        found = "None" if x is None else f"{x.shape} {x.dtype}"
        raise UsageError(f"the root's x must be of {shape} {out.dtype}; found {found}")


def validate_peer(x: Array, peer: int, world_size: int, rank: int, *, filled: bool) -> None:
    """Raise UsageError for a peer that there isn't, or an array that cannot be `filled`."""
    if not 0 <= peer < world_size or peer == rank:
        raise UsageError(
            f"another rank from 0 to {world_size - 1} was expected, found {peer}; this is rank "
            f"{rank}"
        )
    validate_moved(x)
    if filled and not _writeable(x):
        raise UsageError("a read-only array would be overwritten: give a copy of it")


def _same_memory(x: Array, out: Array) -> bool:
    return x.strides == out.strides and _address(x) == _address(out)


# CuPy's arrays come this way in a group of one, which asks for no GPU to copy them.


def _address(x: Array) -> int:
    interface: Any = getattr(x, "__cuda_array_interface__", None) or x.__array_interface__
    return int(interface["data"][0])


def _writeable(x: Array) -> bool:
    return bool(getattr(x.flags, "writeable", True))  # CuPy's always are


def sum_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type in which arrays of `dtype` are added up: float32 for the 16-bit floats.

    Every other type is its own. bfloat16 is that of the package ml_dtypes.
    """
    dtype = np.dtype(dtype)
    if dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16"):
        return np.dtype(np.float32)
    return dtype


def finish(op: str, total: Array, world_size: int) -> None:
    """Turn a whole sum, contiguous, into what `op` asks for, in place."""
    if op == "mean":
        # The parts of complex numbers one by one: infinity times a complex number is not a number.
        parts = total.view(total.real.dtype)
        np.divide(parts, parts.dtype.type(world_size), out=parts)
