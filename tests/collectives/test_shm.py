"""Shared memory: what it does beyond the conformance suite; ranks that are late, leave or die."""

import contextlib
import errno
import functools
import gc
import mmap
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

from holdfast.collectives import GroupConfig, connect
from holdfast.collectives.communicator import COMBINE, sum_type
from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.collectives.shm import meeting, reducing
from holdfast.collectives.shm.call import dtype_name, dtype_sign
from holdfast.collectives.shm.mailbox import SLOT, SLOTS
from holdfast.collectives.shm.memory import Segment
from holdfast.collectives.shm.summing import BLOCK_BYTES, Sum
from holdfast.errors import CollectiveMismatch, CommunicationError, DeadlineExceeded, PeerLost

pytestmark = pytest.mark.local
DTYPES = [np.float16, np.float32]
with contextlib.suppress(ImportError):
    from ml_dtypes import bfloat16

    DTYPES.append(bfloat16)
SIZES = pytest.mark.parametrize("size", [2, 3])

CHILD = """
import os, signal, sys
import numpy as np
from holdfast.collectives import GroupConfig, connect
comm = connect(GroupConfig(1, 2, master_port=int(sys.argv[1]), token=bytes.fromhex(sys.argv[2]),
                           transport="shm", timeout=60.0))
big = comm.allocate(300_000, np.float32)
comm.all_reduce(big)
comm.recv(np.empty(1), 0)
"""
"""Rank 1 as a process of its own: it takes part in one sum and one message, and then does more."""


def reference(inputs, op):
    """Each chunk in its ring's order; 16-bit floats in float32, rounded once."""
    size, dtype = len(inputs), inputs[0].dtype
    held = np.float32 if dtype.itemsize == 2 else dtype
    out = np.empty_like(inputs[0])
    bounds = chunk_bounds(out.size, size)
    for chunk in range(size):
        part = slice(bounds[chunk], bounds[chunk + 1])
        first, *others = ring_reduction_order(size, chunk)
        total = inputs[first][part].astype(held)
        for rank in others:
            total = COMBINE[op](total, inputs[rank][part].astype(held))
        out[part] = total / total.dtype.type(size) if op == "mean" else total
    return out


def contribution(rank, count, dtype):
    return (np.random.default_rng([rank, count]).normal(size=count) * 10).astype(dtype)


@contextlib.contextmanager
def pair(body, *, timeout=60.0):
    """Be rank 0, in this process, of two; rank 1 is a process that goes on with `body`."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, token = listener.getsockname()[1], secrets.token_bytes(32)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD + body, str(port), token.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        fd = listener.detach()
        config = GroupConfig(
            0, 2, master_port=port, token=token, transport="shm", listen_fd=fd, timeout=timeout
        )
        with contextlib.closing(connect(config)) as communicator:
            communicator.all_reduce(communicator.allocate(300_000, np.float32))
            communicator.send(np.zeros(1), 1)
            yield communicator, child
    finally:
        child.kill()
        child.communicate()


@SIZES
@pytest.mark.parametrize("place", ["private", "allocated", "common"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_every_path_gives_the_ring_s_bits_and_rounds_16_bits_once(ranks, size, place, dtype):
    def body(comm):
        for count in (1, 17, 1000, 40_009, 600_011):
            for op in ("sum", "mean", "max"):
                inputs = [contribution(r, count, dtype) for r in range(size)]
                expected = reference(inputs, op)
                x = np.empty(count, dtype) if place == "private" else comm.allocate(count, dtype)
                out = x if place != "common" else comm.allocate(count, dtype, common=True)
                x[:] = inputs[comm.rank]
                comm.all_reduce(x, op, out)
                assert out.tobytes() == expected.tobytes(), (count, op)
                comm.barrier()  # before the next one writes the common result
                x[:] = inputs[comm.rank]
                bounds = chunk_bounds(count, size)[comm.rank :]
                chunk = comm.reduce_scatter(x, op)
                assert chunk.tobytes() == expected[bounds[0] : bounds[1]].tobytes()
                total = comm.reduce(x, op, size - 1)
                assert (total is None) == (comm.rank != size - 1)
                assert total is None or total.tobytes() == expected.tobytes()

    ranks(size, "shm", body)


class Watched(np.ndarray):
    """Memory of which every write is looked at: `seen` gets a copy of it each time."""

    seen: ClassVar[list[np.ndarray]] = []

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.seen.append(np.array(self))

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        plain = [x.view(np.ndarray) if isinstance(x, Watched) else x for x in inputs]
        outs = tuple(x.view(np.ndarray) if isinstance(x, Watched) else x for x in out)
        getattr(ufunc, method)(*plain, out=outs or None, **options)
        self.seen.extend(np.array(x) for x in outs)
        return out[0]


@SIZES
@pytest.mark.parametrize("op", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [*DTYPES, np.float64, np.complex64], ids=lambda d: d.__name__)
def test_what_all_ranks_write_alike_is_whole_from_the_first_write_on(monkeypatch, size, op, dtype):
    """A rank may write a common result while another does, or has gone on: no half sums there."""
    if op == "max" and dtype is np.complex64:
        pytest.skip("complex numbers have no order")
    monkeypatch.setattr(Watched, "seen", [])
    inputs = [contribution(rank, 100, dtype) for rank in range(size)]
    out = np.zeros(100, dtype).view(Watched)
    add_up = Sum(op, inputs, [out], 0, scratch=np.empty(BLOCK_BYTES, np.uint8))
    add_up()
    assert Watched.seen
    for written in Watched.seen:
        assert written.tobytes() == out.tobytes()
    first, *others = ring_reduction_order(size, 0)
    held = sum_type(dtype)
    total = inputs[first].astype(held)
    for rank in others:
        total = COMBINE[op](total, inputs[rank].astype(held))
    expected = total / held.type(size) if op == "mean" else total
    np.testing.assert_allclose(np.asarray(out), expected.astype(dtype), rtol=1e-6)


@SIZES
@pytest.mark.parametrize("allocated", [False, True], ids=["private", "allocated"])
def test_moves(ranks, size, allocated):
    def body(comm):
        for count in (0, 5, 1000, 700_001):
            everybody = [
                np.stack([contribution(10 * r + to, count, np.float32) for to in range(size)])
                for r in range(size)
            ]
            make = comm.allocate if allocated else np.empty
            mine = make(size * count, np.float32).reshape(size, count)
            mine[:] = everybody[comm.rank]
            crossed = comm.all_to_all(mine)
            assert crossed.tobytes() == np.stack([x[comm.rank] for x in everybody]).tobytes()
            assert comm.all_gather(mine).tobytes() == np.stack(everybody).tobytes()
            for root in range(size):
                rows = comm.gather(mine[0], root)
                assert (rows is None) == (comm.rank != root)
                assert (
                    rows is None or rows.tobytes() == np.stack([x[0] for x in everybody]).tobytes()
                )
                strided = np.zeros((count, 2), np.float32)[:, 0]
                comm.scatter(mine if comm.rank == root else None, strided, root)
                np.testing.assert_array_equal(strided, everybody[root][comm.rank])
                comm.broadcast(strided, root)
                np.testing.assert_array_equal(strided, everybody[root][root])
            works = [comm.all_to_all(mine, async_op=True), comm.all_gather(mine, async_op=True)]
            assert works[0].wait().tobytes() == crossed.tobytes()
            assert works[1].wait()[comm.rank].tobytes() == mine.tobytes()

    ranks(size, "shm", body)


def test_messages_of_any_size_arrive_in_order_both_ways(ranks):
    counts = [0, 1, SLOT // 4 - 1, SLOT // 4, SLOT // 4 + 1, 3 * SLOTS * SLOT // 4 + 5]

    def body(comm):
        after, before = (comm.rank + 1) % 3, (comm.rank - 1) % 3
        for turn in range(3):
            for count in counts:
                sent = contribution(comm.rank + 10 * turn, count, np.float32)
                got = np.empty(2 * count, np.float32)[::2]
                if comm.rank == 0:
                    comm.send(sent, after)
                    assert comm.recv(got, before) is got
                else:
                    comm.recv(got, before)
                    comm.send(sent, after)
                expected = contribution(before + 10 * turn, count, np.float32)
                assert got.tobytes() == expected.tobytes()
        comm.barrier()

    ranks(3, "shm", body)


@pytest.mark.parametrize("given", [np.zeros(4, np.int32), np.zeros(5, np.float32)], ids=str)
def test_a_message_of_another_kind_or_size_is_told(ranks, given):
    def body(comm):
        if comm.rank == 0:
            comm.send(given, 1)
        else:
            with pytest.raises(CollectiveMismatch, match="one size and dtype"):
                comm.recv(np.zeros(4, np.float32), 0)

    ranks(2, "shm", body)


def test_nobody_waits_for_a_rank_that_has_left_or_does_not_come(ranks):
    gone = threading.Event()

    def body(comm):
        if comm.rank == 1:
            comm.close()
            gone.set()
            return
        gone.wait(60)
        with pytest.raises(PeerLost, match=r"rank 1 .* has closed its communicator"):
            comm.recv(np.zeros(1), 1)

    ranks(2, "shm", body)
    late = threading.Event()

    def lazy(comm):
        if comm.rank == 1:
            late.wait(60)
            return
        with pytest.raises(DeadlineExceeded, match=r"waited .* for rank 1"):
            comm.send(np.zeros(2 * SLOTS * SLOT, np.uint8), 1)
        late.set()

    ranks.timeout = 0.3
    ranks(2, "shm", lazy)


def test_dtypes_are_told_apart_by_what_all_processes_know(ranks):
    assert len({dtype_sign(np.dtype(dtype)) for dtype in [*DTYPES, np.int16]}) == len(DTYPES) + 1

    def body(comm):
        x = np.zeros(3, "<f4" if comm.rank else ">f4")
        with pytest.raises(CollectiveMismatch, match="dtype"):
            comm.all_reduce(x)

    ranks(2, "shm", body)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (
            (lambda comm: comm.all_reduce(np.zeros(3, np.float32)),
             lambda comm: comm.all_reduce(np.zeros(4, np.int64), "max")),
            r"rank 0 called all_reduce\(3 elements of dtype float32, op=sum\), rank 1 called "
            r"all_reduce\(4 elements of dtype int64, op=max\)",
        ),
        (
            (lambda comm: comm.allocate(11, np.float32),
             lambda comm: comm.allocate(11, np.float32, common=True)),
            r"allocate\(44 bytes, common=False\).*allocate\(44 bytes, common=True\)",
        ),
        (
            (lambda comm: comm.recv(np.zeros(4, np.int32), 1),
             lambda comm: (comm.send(np.zeros(4, ">f8"), 0), comm.barrier())),
            "awaits 16 bytes of dtype int32 from rank 1, which sent 32 bytes of dtype >f8",
        ),
    ],
    ids=["sums", "memory", "messages"],
)  # fmt: skip
def test_what_the_ranks_do_not_agree_on_is_said_in_words(ranks, calls, message):
    def body(comm):
        with pytest.raises(CommunicationError) as caught:
            calls[comm.rank](comm)
        return str(caught.value)

    assert re.search(message, ranks(2, "shm", body)[0])


def test_a_dtype_s_sign_is_told_as_its_name():
    for dtype in (*DTYPES, np.uint8, np.bool_, np.complex64, np.longdouble):
        assert dtype_name(dtype_sign(np.dtype(dtype))) == np.dtype(dtype).name
    assert dtype_name(dtype_sign(np.dtype(">i4"))) == ">i4"
    assert dtype_name(dtype_sign(np.dtype("M8[s]"))).startswith("number ")


def test_sums_of_many_arrays_forget_the_oldest(ranks, monkeypatch):
    monkeypatch.setattr(reducing, "KEPT", 3)

    def body(comm):
        arena = comm.allocate(12 * 5000, np.float32)
        result = comm.allocate(12 * 5000, np.float32, common=True)
        for _ in range(3):
            arena[:] = np.arange(arena.size) % 1000 + comm.rank
            for start in range(0, arena.size, 5000):
                part = slice(start, start + 5000)
                comm.all_reduce(arena[part], out=result[part])
                comm.all_reduce(np.ones(start % 7 + 1, np.float32))
            np.testing.assert_array_equal(result, 2 * (np.arange(arena.size) % 1000) + 1)

    ranks(2, "shm", body)


def test_no_sleeper_misses_the_bell(ranks, monkeypatch):
    """They would look by themselves after a tenth of a second; here, never within this test."""
    monkeypatch.setattr(meeting, "LOOK_AFTER", 1000.0)

    def body(comm):
        comm._meetings._spins = 0
        for turn in range(300):
            comm.barrier()
            message = np.full(1, turn)
            if comm.rank:
                comm.send(message, 0)
            else:
                assert [int(comm.recv(message, peer)[0]) for peer in (1, 2)] == [turn, turn]

    ranks(3, "shm", body)


def test_a_rank_that_waits_for_a_late_one_does_not_burn_its_processor():
    with pair("sys.stdin.read(1); comm.barrier(); comm.send(big[:1], 0)") as (comm, child):
        looked, real = [], comm._meetings._look_after

        def look_after(*args):
            looked.append(time.thread_time())
            if len(looked) == 6:  # each after a sleep of a tenth of a second
                child.stdin.write(b"x")
                child.stdin.flush()
            real(*args)

        comm._meetings._look_after = look_after
        began, clock = time.thread_time(), time.monotonic()
        comm.barrier()
        used, waited = time.thread_time() - began, time.monotonic() - clock
        comm.recv(np.zeros(1, np.float32), 1)
    assert len(looked) >= 6
    assert waited > 0.5
    assert used < 0.2 * waited


def mapped():
    with open("/proc/self/maps", encoding="ascii") as file:
        return sum("memfd:holdfast" in line for line in file)


def descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("memfd:holdfast" in each or "pidfd" in each for each in found)


@pytest.mark.parametrize("waiting_in", ["sum", "message"])
def test_a_killed_rank_is_missed_and_leaves_nothing(waiting_in):
    gc.collect()
    before = sorted(os.listdir("/dev/shm")), descriptors(), mapped()
    with pair("os.kill(os.getpid(), signal.SIGKILL)") as (comm, child):
        wait = comm.all_reduce if waiting_in == "sum" else functools.partial(comm.recv, peer=1)
        with pytest.raises(PeerLost, match=rf"rank 1 \(process {child.pid}\) has ended"):
            wait(np.zeros(100_000, np.float32))
        assert child.wait(10) == -signal.SIGKILL
        with pytest.raises(CommunicationError, match="broke before this call"):
            comm.barrier()
    del comm, wait
    gc.collect()
    assert (sorted(os.listdir("/dev/shm")), descriptors(), mapped()) == before


def test_memory_that_cannot_be_had_is_told_and_leaves_no_descriptor(monkeypatch):
    before = descriptors()
    with pytest.raises(CommunicationError, match=r"no shared memory of \d+ bytes: .*smaller"):
        Segment.create(1 << 62)  # the file may be so large, the mapping not
    assert descriptors() == before

    def refuse(fd, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(CommunicationError, match="no shared memory of 10 bytes: No space left"):
        Segment.create(10)
    assert descriptors() == before


def test_memory_of_a_peer_that_cannot_be_mapped_leaves_no_descriptor(monkeypatch):
    with contextlib.closing(Segment.create(4096)) as segment:
        before = descriptors()
        with pytest.raises(CommunicationError, match="smaller than it says"):
            Segment.open(os.getpid(), segment.fd, 1 << 20)
        assert descriptors() == before

        def refuse(fd, length):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(mmap, "mmap", refuse)
        with pytest.raises(CommunicationError, match=r"cannot map .* of process \d+: Cannot alloc"):
            Segment.open(os.getpid(), segment.fd, 4096)
        assert descriptors() == before
