"""Collectives of GPU arrays by NCCL.

A communicator has a CUDA stream of its own. A call lets that stream wait for what the caller's
current stream has been given so far, hands NCCL its part, and puts an event behind it; the caller's
stream then waits for the event. All that is ordered on the GPU: the host waits for nothing but
NCCL's word that a call is on the stream.

So a result is there for whatever the caller's stream does next, not for the host. Where a failure
must be known before anything is built on the result, as before an optimizer's step, wait with a
timeout: `work.wait(math.inf)` returns when the collective has ended on the GPU, or raises.

Start reading at `nccl/state.py` (a communicator's life) and `nccl/plan.py` (which calls make up a
collective); `nccl/engine.py` carries both out, over a `Binding` and a `Gpu`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import Array, GroupConfig, Op
from holdfast.collectives.nccl import plan as plans
from holdfast.collectives.nccl.binding import ID_BYTES, Binding, NcclError, load_binding
from holdfast.collectives.nccl.engine import Job, NcclEngine
from holdfast.collectives.nccl.gpu import CupyGpu, Gpu
from holdfast.collectives.nccl.plan import ElementType
from holdfast.collectives.rendezvous import Rendezvous, Table, host_identity
from holdfast.collectives.schedule import chunk_bounds
from holdfast.errors import CommunicationError, ProtocolError, RendezvousError, UsageError


class NcclCommunicator:
    """`Communicator` of CuPy arrays on one GPU of each rank; see there, and the module.

    NCCL chooses the algorithm and the order of addition: sums are the same bits on every rank, but
    not those of the other transports. It rounds float16 and bfloat16 by its own rules, in places
    after each addition. Arrays of counts of 0 take no call at all.
    """

    transport = "nccl"
    device = "cuda"
    overlaps = True

    def __init__(
        self,
        binding: Binding,
        gpu: Gpu,
        begin: Callable[[], Any],
        *,
        rank: int,
        world_size: int,
        timeout: float,
        epoch: int = 0,
    ) -> None:
        """Begin a communicator by `begin`, which returns its handle, and wait until it is there.

        `timeout` is how long nothing may end before the communicator is given up, in seconds.
        Raises DeadlineExceeded, PeerLost or CommunicationError where the ranks do not come together
        in that time.
        """
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self._binding = binding
        self._gpu = gpu
        self._timeout = timeout
        name = f"nccl, rank {rank} of {world_size}, epoch {epoch}"
        self._engine = NcclEngine(binding, gpu, begin, name=name, timeout=timeout)

    def allocate(self, count: int, dtype: DTypeLike, *, common: bool = False) -> Array:
        """Return zeroed memory of the GPU; no other rank reads it, whatever `common` says."""
        return self._gpu.zeros(count, dtype)

    def all_reduce(
        self, x: Array, op: Op = "sum", out: Array | None = None, *, async_op: bool = False
    ) -> Any:
        """Combine every rank's `x` into `out`."""
        out = x if out is None else out
        self._check(x, out)
        kind = self._kind(x, op)
        if out.shape != x.shape or out.dtype != x.dtype:
            raise UsageError(
                f"out must have x's shape and dtype, {x.shape} {x.dtype}; found {out.shape} "
                f"{out.dtype}"
            )
        same = out is x or self._same(x, out)
        if not same and self._gpu.overlap(x, out):
            raise UsageError("out overlaps x without being x: take an array of its own, or x")
        calls = plans.all_reduce(x.size * kind.each, self._most)
        source = out if same else x
        return self._run(Job("all_reduce", calls, kind, source, out, out, op), async_op)

    def reduce_scatter(self, x: Array, op: Op = "sum", *, async_op: bool = False) -> Any:
        """Return this rank's chunk of the combined `x`."""
        self._check(x)
        kind = self._kind(x, op)
        bounds = chunk_bounds(x.size, self.world_size)
        out = self._gpu.empty(bounds[self.rank + 1] - bounds[self.rank], x.dtype)
        parts = [bound * kind.each for bound in bounds]
        calls = plans.reduce_scatter(parts, self.rank, self._most)
        return self._run(Job("reduce_scatter", calls, kind, x, out, out, op), async_op)

    def all_gather(self, x: Array, *, async_op: bool = False) -> Any:
        """Return every rank's `x`, stacked along a new first axis."""
        self._check(x)
        out = self._gpu.empty((self.world_size, *x.shape), x.dtype)
        kind = plans.moved(x.dtype)
        calls = plans.all_gather(x.size * kind.each, self.world_size, self.rank, self._most)
        return self._run(Job("all_gather", calls, kind, x, out, out), async_op)

    def broadcast(self, x: Array, root: int = 0, *, async_op: bool = False) -> Any:
        """Overwrite `x` with `root`'s on every rank."""
        self._check(x)
        self._check_rank(root, "root")
        kind = plans.moved(x.dtype)
        calls = plans.broadcast(x.size * kind.each, root, self._most)
        return self._run(Job("broadcast", calls, kind, x, x, x), async_op)

    def all_to_all(self, x: Array, *, async_op: bool = False) -> Any:
        """Return what the ranks have for this one: `result[r]` is rank r's `x[rank]`."""
        self._check(x)
        if x.ndim == 0 or x.shape[0] != self.world_size:
            raise UsageError(
                f"an array with one part for each of {self.world_size} ranks along its first axis "
                f"was expected, found shape {x.shape}"
            )
        out = self._gpu.empty(x.shape, x.dtype)
        kind = plans.moved(x.dtype)
        count = x.size // self.world_size * kind.each
        calls = plans.all_to_all(count, self.world_size, self._most)
        return self._run(Job("all_to_all", calls, kind, x, out, out), async_op)

    def reduce(self, x: Array, op: Op = "sum", root: int = 0) -> Array | None:
        """Combine every rank's `x`; return the result at `root`, else None."""
        self._check(x)
        self._check_rank(root, "root")
        kind = self._kind(x, op)
        out = self._gpu.empty(x.shape, x.dtype) if self.rank == root else None
        calls = plans.reduce(x.size * kind.each, root, self.rank, self._most)
        return self._engine.post(Job("reduce", calls, kind, x, out, out, op)).wait()

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """Return every rank's `x`, stacked along a new first axis, at `root`, else None."""
        self._check(x)
        self._check_rank(root, "root")
        shape = (self.world_size, *x.shape)
        out = self._gpu.empty(shape, x.dtype) if self.rank == root else None
        kind = plans.moved(x.dtype)
        count = x.size * kind.each
        calls = plans.gather(count, self.world_size, root, self.rank, self._most)
        return self._engine.post(Job("gather", calls, kind, x, out, out)).wait()

    def scatter(self, x: Array | None, out: Array, root: int = 0) -> Array:
        """Fill `out` with `root`'s `x[rank]`."""
        self._check(out)
        self._check_rank(root, "root")
        source = None
        if self.rank == root:
            shape = (self.world_size, *out.shape)
            if x is None or x.shape != shape or x.dtype != out.dtype:
                found = "None" if x is None else f"{x.shape} {x.dtype}"
                raise UsageError(f"x must be {shape} {out.dtype} at the root, found {found}")
            self._check(x)
            source = x
        kind = plans.moved(out.dtype)
        count = out.size * kind.each
        calls = plans.scatter(count, self.world_size, root, self.rank, self._most)
        return self._engine.post(Job("scatter", calls, kind, source, out, out)).wait()

    def send(self, x: Array, peer: int) -> None:
        """Send `x` to `peer`; the current stream may overwrite it, in its order, on return."""
        self._check(x)
        self._check_peer(peer)
        kind = plans.moved(x.dtype)
        calls = plans.send(x.size * kind.each, peer, self._most)
        self._engine.post(Job("send", calls, kind, x, None, None)).wait()

    def recv(self, x: Array, peer: int) -> Array:
        """Overwrite `x` with what `peer` sends."""
        self._check(x)
        self._check_peer(peer)
        kind = plans.moved(x.dtype)
        calls = plans.recv(x.size * kind.each, peer, self._most)
        return self._engine.post(Job("recv", calls, kind, None, x, x)).wait()

    def barrier(self) -> None:
        """Return when every rank has called it, on the host, and all before it has ended."""
        token = self.allocate(1, np.int32)
        kind = self._kind(token, "sum")
        job = Job("barrier", plans.all_reduce(1, self._most), kind, token, token, None)
        self._engine.post(job).wait(math.inf)

    def shrink(self, excluding: Sequence[int]) -> "NcclCommunicator":
        """Return a communicator of the next epoch without the ranks `excluding`; close this one.

        It is closed whether that goes well or not, but for a UsageError.

        Every rank that is left calls it, with the same ranks; those left out do not, and may be
        dead. What is in flight fails. The order of ranks stays. Raises UsageError where the library
        has no such call (before NCCL 2.27), and the error that broke this communicator if it is
        broken: NCCL cannot shrink what was aborted. Both times the way is to close it, and to
        connect again with the next epoch and a rendezvous of the ranks that are left.
        """
        gone = sorted(set(excluding))
        if not gone or self.rank in gone or not 0 <= gone[0] <= gone[-1] < self.world_size:
            raise UsageError(
                f"ranks of {self.world_size} other than this one, {self.rank}, were expected to "
                f"leave; found {list(excluding)}"
            )
        if not self._binding.abilities.shrink:
            version = ".".join(map(str, self._binding.abilities.version))
            raise UsageError(
                f"NCCL {version} by {self._binding.name} has no shrink, NCCL 2.27 by nccl4py has: "
                "close this communicator, and connect again with the next epoch"
            )
        try:
            child = self._engine.separate(gone)
            return NcclCommunicator(
                self._binding,
                self._gpu,
                lambda: child,
                rank=self.rank - sum(rank < self.rank for rank in gone),
                world_size=self.world_size - len(gone),
                timeout=self._timeout,
                epoch=self.epoch + 1,
            )
        finally:
            self.close()

    def close(self) -> None:
        """Let what is in flight end for some seconds, then release everything."""
        self._engine.close()

    @property
    def _most(self) -> int:
        return self._binding.abilities.most_elements

    def _kind(self, x: Array, op: str) -> ElementType:
        return plans.summed(x.dtype, op, self._binding.abilities)

    def _same(self, x: Array, out: Array) -> bool:
        return x.strides == out.strides and self._gpu.pointer(x) == self._gpu.pointer(out)

    def _check(self, *arrays: Array) -> None:
        for x in arrays:
            if not self._gpu.holds(x):
                kind = type(x)
                raise UsageError(
                    f"transport nccl takes CuPy arrays on this rank's GPU, found a "
                    f"{kind.__module__}.{kind.__qualname__} elsewhere: move it with "
                    "cupy.asarray, or take --transport tcp or shm for arrays of the host"
                )

    def _check_rank(self, rank: int, what: str) -> None:
        if not 0 <= rank < self.world_size:
            raise UsageError(f"a {what} from 0 to {self.world_size - 1} was expected, found {rank}")

    def _check_peer(self, peer: int) -> None:
        self._check_rank(peer, "peer")
        if peer == self.rank:
            raise UsageError(f"rank {peer} is its own peer: no rank sends to itself")

    def _run(self, job: Job[Array], async_op: bool) -> Any:
        work = self._engine.post(job)
        return work if async_op else work.wait()


def open_nccl(config: GroupConfig, table: Rendezvous) -> NcclCommunicator:
    """Open NCCL on the thread's current GPU, by the best binding that is installed.

    Raises MissingDependency without CuPy or a binding, UsageError without a GPU, and what `meet`
    raises.
    """
    return meet(config, table, load_binding(), CupyGpu())


def open_pynccl(config: GroupConfig, table: Rendezvous) -> NcclCommunicator:
    """Open NCCL by pynccl, whatever else is installed; raises what `open_nccl` does."""
    return meet(config, table, load_binding("pynccl"), CupyGpu())


def meet(config: GroupConfig, table: Rendezvous, binding: Binding, gpu: Gpu) -> NcclCommunicator:
    """Exchange what the ranks must know of each other, and open the communicator of this epoch.

    A new epoch takes a new rendezvous and with it a new id of NCCL's: what is late from an old one
    finds nobody. Raises UsageError where two ranks have one GPU or NCCL's versions differ,
    RendezvousError where epochs differ, CommunicationError where NCCL finds no network.
    """
    try:
        unique_id = binding.unique_id().hex() if config.rank == 0 else ""
    except NcclError as error:
        raise CommunicationError(
            f"NCCL cannot listen for the other ranks: {error}; NCCL_SOCKET_IFNAME names the "
            "network interface that it takes"
        ) from error
    tables = table.exchange(
        {
            "gpu": f"{host_identity()} {gpu.identity}",
            "nccl": ".".join(map(str, binding.abilities.version)),
            "epoch": config.epoch,
            "id": unique_id,
        }
    )
    _check_tables(tables)
    common = bytes.fromhex(tables[0]["id"])
    if len(common) != ID_BYTES:
        raise ProtocolError(
            f"an id of {ID_BYTES} bytes was expected of rank 0, found {len(common)}"
        )
    return NcclCommunicator(
        binding,
        gpu,
        lambda: binding.init(config.world_size, config.rank, common),
        rank=config.rank,
        world_size=config.world_size,
        timeout=config.timeout,
        epoch=config.epoch,
    )


def _check_tables(tables: Sequence[Table]) -> None:
    """Raise what keeps these ranks from a communicator, before NCCL finds it out in its way."""
    for key, what in (("epoch", "epochs"), ("nccl", "versions of NCCL")):
        if len({table[key] for table in tables}) > 1:
            found = ", ".join(f"rank {rank} {table[key]}" for rank, table in enumerate(tables))
            kind = RendezvousError if key == "epoch" else UsageError
            raise kind(f"the ranks have different {what}: {found}")
    owners: dict[str, int] = {}
    for rank, table in enumerate(tables):
        other = owners.setdefault(table["gpu"], rank)
        if other != rank:
            raise UsageError(
                f"ranks {other} and {rank} have the same GPU ({table['gpu'].split()[-1]}), which "
                "NCCL does not allow: give each its own, by CUDA_VISIBLE_DEVICES or "
                "cupy.cuda.Device(local_rank).use()"
            )
