"""One rank of the tests over MPI: `mpiexec -n 3 python mpi_rank.py TRANSPORT,… TASK…`.

Run by `test_mpi.py` in a Python that has MPI, NumPy and ml_dtypes and nothing else. It prints a
line for each task that went well, and ends with a traceback and status 1 where one did not.
"""

import contextlib
import os
import signal
import sys
import time

import numpy as np
from ml_dtypes import bfloat16
from tests.collectives.conformance import BODIES, the_ring_s_bits

from holdfast.collectives import GroupConfig, LinkConfig
from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.mpi.native import open_mpi
from holdfast.collectives.mpi.process import mpi_process
from holdfast.collectives.mpi.transport import open_mpi_p2p
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.witness import Blind
from holdfast.errors import (
    CollectiveMismatch,
    CommunicationError,
    DeadlineExceeded,
    PeerLost,
    UsageError,
)

MPI = mpi_process().module
RANK, SIZE = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
OPENERS = {"mpi": open_mpi, "mpi-p2p": open_mpi_p2p}
COUNTS = [0, 1, 17, 4099]
LINK = LinkConfig(segment=16 << 10)


def config(transport, **overrides):
    settings = {"rank": RANK, "world_size": SIZE, "timeout": 20.0, "link": LINK} | overrides
    return GroupConfig(transport=transport, **settings)


def connect(transport, **overrides):
    return contextlib.closing(OPENERS[transport](config(transport, **overrides)))


def contribution(rank, count, dtype):
    values = np.random.default_rng([rank, count]).normal(size=count) * 10
    return (np.abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


def expect(kind, call, *args, match="", **kwargs):
    """Assert that the call raises `kind`, whose message holds `match`."""
    try:
        call(*args, **kwargs)
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"{kind} was expected")
    assert match in message, message


def same(found, wanted):
    """Return whether the values have the same bits: a long double has some that are of none."""
    if found.dtype.char in "gG":
        return np.array_equal(found, wanted)
    return found.tobytes() == wanted.tobytes()


def rounded(comm):
    """Every operation and dtype, near to the sum in float64, and the same bits on every rank."""
    dtypes = (np.float32, np.float16, bfloat16, np.uint8, np.complex64, np.clongdouble, ">f4")
    for dtype in map(np.dtype, dtypes):
        floating = dtype.kind in "fcV"
        for op in ("sum", "mean", "prod") if dtype.kind == "c" else COMBINE:
            if op == "mean" and not floating:
                continue
            for count in COUNTS:
                inputs = [contribution(rank, count, dtype) for rank in range(SIZE)]
                exact = {"c": np.complex128, "f": np.float64, "V": np.float64}.get(
                    dtype.kind, dtype
                )
                whole = COMBINE[op].reduce(np.stack(inputs).astype(exact), axis=0, dtype=exact)
                whole = whole / SIZE if op == "mean" else whole
                tolerance = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype.name, 1e-4)

                def close(found, wanted, tolerance=tolerance):
                    np.testing.assert_allclose(
                        found.astype(wanted.dtype), wanted, rtol=tolerance, atol=tolerance * 30
                    )

                x = inputs[comm.rank].copy()
                out = np.empty_like(x)
                assert comm.all_reduce(x, op, out) is out
                assert same(x, inputs[comm.rank]), "the input was touched"
                close(out, whole)
                if dtype.itemsize == 2 and count:  # rounded once
                    assert (out == whole.astype(np.float32).astype(dtype)).mean() > 0.9
                everyone = comm.all_gather(out)
                assert all(same(row, out) for row in everyone)
                assert comm.all_reduce(x, op) is x
                assert same(x, out)
                bounds = chunk_bounds(count, SIZE)
                mine = comm.reduce_scatter(inputs[comm.rank], op)
                close(mine, whole[bounds[comm.rank] : bounds[comm.rank + 1]])
                assert mine.dtype == dtype
                total = comm.reduce(inputs[comm.rank], op, SIZE - 1)
                assert (total is None) == (comm.rank != SIZE - 1)
                if total is not None:
                    close(total, whole)


def collectives(transport):
    with connect(transport) as comm:
        assert (comm.rank, comm.world_size, comm.transport) == (RANK, SIZE, transport)
        for name, body in BODIES.items():
            if transport == "mpi-p2p" or name != "reductions":  # MPI adds in its own order
                body(comm)
        if transport == "mpi-p2p":
            the_ring_s_bits(comm)
        rounded(comm)
        expect(UsageError, comm.all_reduce, np.ones(3, "m8[s]"), match="numbers")
        comm.close()
        expect(CommunicationError, comm.barrier, match="closed")


def mismatches(transport):
    """Ranks that call different things are told, at least one of them of what it is."""

    def size(comm):
        comm.all_reduce(np.zeros(1000 + 100 * comm.rank, np.float32))

    def operation(comm):
        comm.all_reduce(np.ones(8, np.float32), "max" if comm.rank else "sum")

    def dtype(comm):
        comm.all_reduce(np.ones(8, np.int32 if comm.rank else np.float32))

    def root(comm):
        comm.broadcast(np.ones(8), min(comm.rank, 1))

    for body in (size, operation, dtype, root):
        with connect(transport, timeout=5.0) as comm:
            try:
                body(comm)
                comm.barrier()
                kind = 0
            except CommunicationError as error:
                kind = 2 if isinstance(error, CollectiveMismatch) else 1
        kinds = MPI.COMM_WORLD.allgather(kind)
        assert min(kinds) > 0, (body, kinds)
        assert max(kinds) == 2, (body, kinds)


def deadlines(transport):
    """A rank that never comes is waited for until the deadline, and others can be told sooner."""
    with connect(transport, timeout=0.3) as comm:
        if comm.rank != SIZE - 1:
            expect(DeadlineExceeded, comm.all_reduce, np.ones(3), match="waited 0.3 s")
            expect(DeadlineExceeded, comm.barrier, match="broke before this call")
        MPI.COMM_WORLD.Barrier()
    with connect(transport) as comm:  # and the next communicator is none the worse
        assert comm.all_reduce(np.ones(3))[0] == SIZE


def closing(transport):
    """Work that cannot end does not keep `close` from ending."""
    with connect(transport) as comm:
        if comm.rank == 0:
            work = comm.all_reduce(np.ones(100_000, np.float32), async_op=True)
            comm.close()
            expect(CommunicationError, work.wait)
        MPI.COMM_WORLD.Barrier()


def settings(transport):
    other = next(name for name in OPENERS if name != transport)
    expect(UsageError, connect, transport if RANK else other, match="another rank others")
    expect(UsageError, connect, transport, rank=(RANK + 1) % SIZE, match="MPI says rank")
    expect(UsageError, connect, transport, world_size=SIZE + 1, match=f"of {SIZE}")
    with connect("mpi") as comm:
        if not mpi_process().survives:
            expect(UsageError, comm.shrink, match="--with-ft ulfm")


class Killer(Blind):
    """Kills this process when a collective of the given step begins to move bytes."""

    step = -1
    deadly = 3

    def phase(self, name):
        if self.step == self.deadly:
            print(f"died at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def death(transport):
    """The last rank kills itself within a step; the others are told, shrink, and go on."""
    killer = Killer()
    with connect(transport, timeout=60.0, witness=killer if RANK == SIZE - 1 else Blind()) as comm:
        x, step = np.ones(100_000, np.float32), 0
        try:
            for step in range(10):
                killer.step = step
                assert comm.all_reduce(x, out=np.empty_like(x))[0] == SIZE
        except PeerLost as error:
            message = str(error)
            print(f"told at {time.time()}: {message}", flush=True)
        assert step == killer.deadly
        assert f"rank {SIZE - 1} has died" in message
        if transport == "mpi":
            began = time.perf_counter()
            comm = comm.shrink()
            print(f"shrunk in {time.perf_counter() - began}", flush=True)
            assert (comm.rank, comm.world_size, comm.epoch) == (RANK, SIZE - 1, 1)
            assert comm.members == tuple(range(SIZE - 1))
            for _ in range(step, 10):
                assert comm.all_reduce(x, out=np.empty_like(x))[0] == SIZE - 1
            comm.barrier()
            comm.close()


TASKS = {
    task.__name__: task for task in (collectives, mismatches, deadlines, closing, settings, death)
}


def main():
    transports, *names = sys.argv[1:]
    for transport in transports.split(","):
        for name in names:
            TASKS[name](transport)
            # In one piece: ranks share the pipe.
            os.write(1, f"rank {RANK} of {SIZE}: {transport} {name} went well\n".encode())


if __name__ == "__main__":
    main()
