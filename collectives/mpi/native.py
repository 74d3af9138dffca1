"""MPI's own collectives, for those whose MPI knows their network best.

Before each of them the ranks agree that they make the same call, by an all-reduce of eight bytes:
MPI checks nothing, and would hang, or add up what doesn't belong together.

MPI adds in whatever order it likes: a sum has the same bits on every rank, but not those of our
schedules. float16 and bfloat16, which MPI doesn't know, are converted to float32, reduced, and
rounded once.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import (
    COMBINE,
    Array,
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
from holdfast.collectives.execution import call_tag
from holdfast.collectives.mpi.group import MpiGroup, join
from holdfast.collectives.mpi.transport import MpiTransport
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import WorkQueue
from holdfast.errors import UsageError

PIECE_BYTES = 256 << 20
"""A large array goes in pieces: MPI counts in 31 bits, and the deadline is for each of them."""

HALF_PIECE = 1 << 20
"""Elements of half precision that are converted to float32 at a time."""

COUNTABLE_BYTES = (1 << 31) - 1
"""The size of a rank's array in the collectives that don't go in pieces."""

CALLS = 1000
"""How many different calls a communicator remembers the tags of."""

_OPS = {"sum": "SUM", "mean": "SUM", "min": "MIN", "max": "MAX", "prod": "PROD"}

_TYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "float128": "LONG_DOUBLE",
    "complex64": "C_FLOAT_COMPLEX",
    "complex128": "C_DOUBLE_COMPLEX",
    "complex256": "C_LONG_DOUBLE_COMPLEX",
    "int8": "INT8_T",
    "int16": "INT16_T",
    "int32": "INT32_T",
    "int64": "INT64_T",
    "uint8": "UINT8_T",
    "uint16": "UINT16_T",
    "uint32": "UINT32_T",
    "uint64": "UINT64_T",
    "float16": "FLOAT",
    "bfloat16": "FLOAT",
}
"""The MPI datatypes that arrays are added up as (see `sum_type`), by the names of NumPy's."""

T = TypeVar("T")


class MpiCommunicator:
    """The collectives of `Communicator` by those of MPI, over an MPI group that it owns.

    See `Communicator` for what each method promises, but for the bits of a sum, which are MPI's.
    `reduce_scatter`, `all_gather`, `all_to_all`, `gather` and `scatter` take arrays of less than
    2 GiB, the others of any size.
    """

    transport = "mpi"
    device = "cpu"
    overlaps = True

    def __init__(self, group: MpiGroup, *, witness: Witness | None = None) -> None:
        self.rank = group.rank
        self.world_size = group.world_size
        self.epoch = group.epoch
        self.members = group.members
        """The numbers that the ranks had when the job was started, in the order of the ranks."""
        self._group = group
        self._comm = group.comm
        self._mpi = group.process.module
        self._wire = MpiTransport(group)
        self._witness = witness or Blind()
        self._calls: dict[tuple[Any, ...], tuple[int, str, str]] = {}  # tag and names of each
        self._queue = WorkQueue(f"holdfast-mpi-{self.rank}", abort=group.abort)
        group.process.open.add(self)

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory; `common` makes no difference."""
        return np.zeros(count, dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out` by MPI_Iallreduce."""
        target = x if out is None else out
        _validate(op, x, target)

        def call() -> Array:
            self._begin("all_reduce", op, x)
            usable = target.flags.c_contiguous and target.dtype.isnative
            total = target.reshape(-1) if usable else np.empty(x.size, _native(x))
            in_place = usable and np.may_share_memory(x, target)
            self._combine(op, total if in_place else _flat(x), total, self._comm.Iallreduce)
            if not usable:
                target[...] = total.reshape(x.shape)
            return target

        return self._carry_out(call, async_op)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return this rank's chunk of the combined `x`, by MPI_Ireduce_scatter."""
        _validate(op, x, None)
        _check_countable(x)

        def call() -> Array:
            self._begin("reduce_scatter", op, x)
            bounds = chunk_bounds(x.size, self.world_size)
            counts = np.diff(bounds).tolist()
            whole = _flat(x).astype(_widened(x), copy=False)
            mine = np.empty(counts[self.rank], whole.dtype)
            self._group.call(
                "a reduce-scatter",
                self._comm.Ireduce_scatter,
                self._numbers(whole, x),
                self._numbers(mine, x),
                counts,
                self._op(op, whole.dtype),
            )
            finish(op, mine, self.world_size)
            return mine.astype(x.dtype, copy=False)

        return self._carry_out(call, async_op)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x`, stacked, by MPI_Iallgather."""
        _check_countable(x)

        def call() -> Array:
            self._begin("all_gather", "", x)
            out = np.empty((self.world_size, *x.shape), x.dtype)
            self._group.call(
                "an all-gather", self._comm.Iallgather, self._bytes(x), self._bytes(out)
            )
            return out

        return self._carry_out(call, async_op)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Overwrite `x` with `root`'s, by MPI_Ibcast."""
        validate_root(root, self.world_size, x, self.rank)

        def call() -> Array:
            self._begin("broadcast", str(root), x)
            flat = np.ascontiguousarray(x).reshape(-1)
            for part in _parts(flat):
                self._group.call(
                    "a broadcast", self._comm.Ibcast, (part, len(part), self._mpi.BYTE), root
                )
            if self.rank != root and not np.may_share_memory(flat, x):
                x[...] = flat.reshape(x.shape)
            return x

        return self._carry_out(call, async_op)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return what the ranks have for this one, by MPI_Ialltoall."""
        validate_all_to_all(x, self.world_size)
        _check_countable(x)

        def call() -> Array:
            self._begin("all_to_all", "", x)
            out = np.empty(x.shape, x.dtype)
            self._group.call(
                "an all-to-all", self._comm.Ialltoall, self._bytes(x), self._bytes(out)
            )
            return out

        return self._carry_out(call, async_op)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Combine every rank's `x` at `root`, by MPI_Ireduce."""
        _validate(op, x, None)
        validate_rank(root, self.world_size)

        def call() -> Array | None:
            self._begin("reduce", f"{op} {root}", x)
            total = np.empty(x.size, _native(x)) if self.rank == root else None
            self._combine(op, _flat(x), total, self._comm.Ireduce, root)
            return None if total is None else total.astype(x.dtype, copy=False).reshape(x.shape)

        return self._queue.run(call)

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, stacked, at `root`, by MPI_Igather."""
        validate_rank(root, self.world_size)
        _check_countable(x)

        def call() -> Array | None:
            self._begin("gather", str(root), x)
            out = np.empty((self.world_size, *x.shape), x.dtype) if self.rank == root else None
            into = None if out is None else self._bytes(out)
            self._group.call("a gather", self._comm.Igather, self._bytes(x), into, root)
            return out

        return self._queue.run(call)

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]`, by MPI_Iscatter."""
        validate_scatter(x, out, root, self.world_size, self.rank)
        _check_countable(out)

        def call() -> Array:
            self._begin("scatter", str(root), out)
            flat = np.empty(out.shape, out.dtype)
            rows = self._bytes(x) if x is not None and self.rank == root else None
            self._group.call("a scatter", self._comm.Iscatter, rows, self._bytes(flat), root)
            out[...] = flat
            return out

        return self._queue.run(call)

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`, by MPI_Isend."""
        validate_peer(x, peer, self.world_size, self.rank, filled=False)

        def call() -> None:
            tag = call_tag("send", "", x)
            for part in _parts(np.ascontiguousarray(x).reshape(-1)):
                self._wire.send(peer, part, tag)
            self._wire.flush()

        self._queue.run(call)

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends, by MPI_Irecv."""
        validate_peer(x, peer, self.world_size, self.rank, filled=True)

        def call() -> Array:
            tag = call_tag("send", "", x)
            flat = np.ascontiguousarray(x).reshape(-1)
            for part in _parts(flat):
                self._wire.post(peer, part, tag)
                self._wire.wait(peer)
            if not np.may_share_memory(flat, x):
                x[...] = flat.reshape(x.shape)
            return x

        return self._queue.run(call)

    def barrier(self) -> None:
        """Return when every rank has called it: to agree on it is a barrier already."""
        self._queue.run(lambda: self._group.agree(call_tag("barrier", "", _NOTHING), "a barrier"))

    def shrink(self) -> "MpiCommunicator":
        """Return a communicator of the ranks that are left, after a rank has died (ULFM).

        All that are left call it, also those that have not seen an error yet. The new one is of
        the next epoch and has new ranks (see `members`); this one is closed in any case. Raises
        UsageError where MPI cannot go on without a rank: that takes Open MPI 5 under
        `mpiexec --with-ft ulfm`.
        """
        self._queue.close()
        try:
            group = self._group.shrink()
        finally:
            self.close()
        return MpiCommunicator(group, witness=self._witness)

    def close(self) -> None:
        """Give the group back to MPI; may be called again."""
        self._queue.close()
        self._wire.close(graceful=not self._queue.broken)

    # What the calls have in common

    def _carry_out(self, call: Callable[[], T], async_op: bool) -> Any:
        return self._queue.submit(call) if async_op else self._queue.run(call)

    def _begin(self, collective: str, detail: str, x: Array) -> None:
        """Make sure that all ranks make this call."""
        key = (collective, detail, x.size, x.dtype)
        known = self._calls.get(key)
        if known is None:
            if len(self._calls) >= CALLS:
                self._calls.clear()
            name = collective.replace("_", "-")
            known = call_tag(collective, detail, x), name, f"{name} of {x.size} {x.dtype}"
            self._calls[key] = known
        tag, name, what = known
        self._group.agree(tag, what)
        self._witness.phase(name)

    def _combine(self, op: Op, source: Array, total: Array | None, begin: Any, *root: int) -> None:
        """Reduce `source` into `total`, both flat, piece by piece, by the MPI call `begin`.

        They may be one array. `total` is None where no result comes.
        """
        wide = _widened(source)
        half = wide != source.dtype
        length = HALF_PIECE if half else PIECE_BYTES // source.itemsize
        for start in range(0, source.size, length):
            part = slice(start, start + length)
            given: Any = source[part].astype(wide, copy=False)
            result = None
            if total is not None:
                result = np.empty_like(given) if half else total[part]
            into = None if result is None else self._numbers(result, source)
            if source is total and not half:
                given = self._mpi.IN_PLACE
            else:
                given = self._numbers(given, source)
            self._group.call("a reduction", begin, given, into, self._op(op, wide), *root)
            if result is not None and total is not None:
                finish(op, result, self.world_size)
                if half:
                    total[part] = result

    def _numbers(self, flat: Array, like: Array) -> tuple[Array, int, Any]:
        """Return an MPI buffer that can be added up: of `like`'s dtype, maybe widened."""
        return flat, flat.size, getattr(self._mpi, _type_name(like.dtype))

    def _bytes(self, x: Array) -> tuple[memoryview, Any]:
        """Return an MPI buffer that is only moved; a copy where `x` is not contiguous.

        It bears no count: that would be each rank's part, mpi4py takes it from the buffer.
        """
        return np.ascontiguousarray(x).reshape(-1).view(np.uint8).data, self._mpi.BYTE

    def _op(self, op: Op, dtype: np.dtype[Any]) -> Any:
        """Return MPI's own operation, but for the least and the largest of floats.

        MPI compares: what is not a number gets lost, or not, by the order in which ranks are
        combined, which may differ between them. NumPy's keeps it.
        """
        if dtype.kind == "f" and op in ("min", "max"):
            return self._group.process.operation(COMBINE[op], dtype)
        return getattr(self._mpi, _OPS[op])


_NOTHING = np.empty(0, np.uint8)


def _validate(op: Op, x: Array, out: Array | None) -> None:
    validate(op, x, out)
    _type_name(x.dtype)


@cache
def _type_name(dtype: np.dtype[Any]) -> str:
    if dtype.name not in _TYPES:
        raise UsageError(
            f"MPI cannot add up arrays of {dtype}: convert it, or take the transport mpi-p2p"
        )
    return _TYPES[dtype.name]


def _check_countable(x: Array) -> None:
    validate_moved(x)
    if x.nbytes > COUNTABLE_BYTES:
        raise UsageError(
            f"MPI takes arrays of up to {COUNTABLE_BYTES} bytes here, found {x.nbytes}: split it, "
            "or take the transport mpi-p2p"
        )


def _native(x: Array) -> np.dtype[Any]:
    return x.dtype.newbyteorder("=")


def _widened(x: Array) -> np.dtype[Any]:
    return sum_type(_native(x))


def _flat(x: Array) -> Array:
    """Return `x` as one dimension in this machine's byte order: itself, or a copy."""
    return np.ascontiguousarray(x, _native(x)).reshape(-1)


def _parts(flat: Array) -> Iterator[memoryview]:
    """Yield the bytes of `flat` in pieces that MPI can count; at least one."""
    data = flat.view(np.uint8).data
    for start in range(0, max(1, len(data)), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def open_mpi(config: GroupConfig) -> MpiCommunicator:
    """Join all ranks that mpiexec has started; return MPI's own collectives.

    `config`'s addresses, token and algorithm are of no use here. Raises MissingDependency without
    MPI, UsageError where the job was not started as `config` says, RendezvousError where a rank
    doesn't come.
    """
    return MpiCommunicator(join(config, {"transport": "mpi"}), witness=config.witness)
