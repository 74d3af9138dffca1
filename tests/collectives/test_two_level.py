"""Two levels: who is on which host, what the collectives give, and the order of addition."""

import contextlib
import secrets
import socket
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives import GroupConfig, group
from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.local import LocalCommunicator
from holdfast.collectives.rendezvous import Rendezvous
from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.collectives.subgroup import GroupWitness, Renumbered, Traffic
from holdfast.collectives.two_level import (
    TwoLevelCommunicator,
    open_two_level,
    two_level_shape,
)
from holdfast.collectives.witness import Blind
from holdfast.errors import CommunicationError, PeerLost, UsageError

SHAPES = pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3)], ids=["2x2", "3x2", "2x3"])
DTYPES = [np.float32, np.float16, np.int64]
with contextlib.suppress(ImportError):
    from ml_dtypes import bfloat16

    DTYPES.append(bfloat16)


@given(hosts=st.integers(2, 9), local=st.integers(2, 9))
def test_hosts_with_as_many_consecutive_ranks_fit(hosts, local):
    names = [f"host {number}" for number in range(hosts) for _ in range(local)]
    assert two_level_shape(names) == (hosts, local)
    assert two_level_shape(names[:-1]) is None
    assert two_level_shape(names[1:]) is None
    assert two_level_shape(names[1:] + names[:1]) is None


@pytest.mark.parametrize("hosts", ["a", "aa", "ab", "abab", "aabbaa", "aabbc", "aaabb", "abc"])
def test_other_hosts_do_not(hosts):
    assert two_level_shape(hosts) is None


def test_ranks_must_be_numbered_host_by_host():
    class Of(LocalCommunicator):
        def __init__(self, rank, world_size):
            super().__init__()
            self.rank, self.world_size = rank, world_size

    TwoLevelCommunicator(Of(1, 2), Of(2, 3), Of(5, 6)).close()
    with pytest.raises(UsageError, match="numbered host by host"):
        TwoLevelCommunicator(Of(1, 2), Of(2, 3), Of(4, 6))
    with pytest.raises(UsageError, match="take --transport tcp"):
        TwoLevelCommunicator(Of(1, 2), Of(2, 3), Of(5, 7))


@pytest.fixture
def two_level(ranks):
    """Runs a function on every rank of hosts that are pretended: all are threads of this one."""

    def run(shape, body, *, timeout=20.0, witnesses=None):
        world_size = shape[0] * shape[1]
        listener = socket.create_server(("127.0.0.1", 0))
        port, token, fd = listener.getsockname()[1], secrets.token_bytes(32), listener.detach()

        def member(rank):
            config = GroupConfig(
                rank,
                world_size,
                master_port=port,
                token=token,
                timeout=timeout,
                algorithm="ring",
                link=ranks.link,
                witness=Blind() if witnesses is None else witnesses[rank],
            )
            with Rendezvous(
                rank,
                world_size,
                "127.0.0.1",
                port,
                token,
                listen_fd=fd if rank == 0 else None,
                timeout=60.0,
            ) as table:
                communicator = open_two_level(config, table, shape, group._openers["tcp"])
            with contextlib.closing(communicator):
                return body(communicator)

        return ranks.threads(world_size, member)

    return run


def contribution(rank, count, dtype):
    return (np.random.default_rng([rank, count]).normal(size=count) * 10).astype(dtype)


def reference(inputs, op, shape):
    """Within the hosts by local rank's chunk, in the ring's order; then the hosts' ring."""
    hosts, local = shape
    dtype, count = inputs[0].dtype, inputs[0].size
    held = np.float32 if dtype.itemsize == 2 else dtype
    out = np.empty(count, held)
    bounds = chunk_bounds(count, local)
    for chunk in range(local):
        part = slice(bounds[chunk], bounds[chunk + 1])
        partial = [
            combined([inputs[host * local + r][part].astype(held) for r in range(local)], chunk, op)
            for host in range(hosts)
        ]
        # float16 and bfloat16 travel as float32: the ring's order, whatever their own would be.
        inner = chunk_bounds(part.stop - part.start, hosts)
        for number in range(hosts):
            piece = slice(inner[number], inner[number + 1])
            out[part][piece] = combined([each[piece] for each in partial], number, op)
    if op == "mean":
        out /= out.dtype.type(len(inputs))
    return out.astype(dtype)


def combined(terms, chunk, op):
    first, *others = ring_reduction_order(len(terms), chunk)
    total = terms[first]
    for term in others:
        total = COMBINE[op](total, terms[term])
    return total


@pytest.mark.local
@SHAPES
def test_all_reduce_gives_the_schedule_s_bits(two_level, shape):
    def body(comm):
        for dtype in DTYPES:
            for count in (0, 1, 40, 40_009):
                for op in ("sum", "max") if np.dtype(dtype).kind == "i" else ("sum", "mean"):
                    inputs = [contribution(r, count, dtype) for r in range(comm.world_size)]
                    expected = reference(inputs, op, shape).tobytes()
                    x = comm.allocate(count, dtype)
                    x[:] = inputs[comm.rank]
                    out = comm.allocate(count, dtype, common=True)
                    assert comm.all_reduce(x, op, out).tobytes() == expected, (dtype, count, op)
                    assert x.tobytes() == inputs[comm.rank].tobytes(), "the input was touched"
                    assert comm.all_reduce(x, op) is x
                    assert x.tobytes() == expected
                    strided = np.empty((count, 2), dtype)[:, 0]
                    strided[:] = inputs[comm.rank]
                    comm.all_reduce(strided, op)
                    assert strided.tobytes() == expected

    two_level(shape, body)


@pytest.mark.local
@SHAPES
def test_the_other_collectives(two_level, shape):
    def body(comm):
        rank, size = comm.rank, comm.world_size
        for count in (0, 7, 50_000):
            table = np.arange(size * size * count, dtype=np.int64).reshape(size, size, count)
            mine = table[rank].copy()
            total = table.sum(0).reshape(-1)
            bounds = chunk_bounds(total.size, size)
            part = slice(bounds[rank], bounds[rank + 1])
            np.testing.assert_array_equal(comm.reduce_scatter(mine), total[part])
            np.testing.assert_array_equal(comm.all_gather(mine), table)
            np.testing.assert_array_equal(comm.all_to_all(mine), table[:, rank])
            for root in range(size):
                x = mine.copy()
                assert comm.broadcast(x, root) is x
                np.testing.assert_array_equal(x, table[root])
                expected = [None] * size
                expected[root] = table.sum(0)
                np.testing.assert_array_equal(comm.reduce(mine, "sum", root), expected[rank])
                expected[root] = table
                np.testing.assert_array_equal(comm.gather(mine, root), expected[rank])
                out = np.empty((count, 2), np.int64)[:, 1]
                assert comm.scatter(mine if rank == root else None, out, root) is out
                np.testing.assert_array_equal(out, table[root, rank])
            works = [comm.all_reduce(mine, async_op=True), comm.all_gather(mine[0], async_op=True)]
            np.testing.assert_array_equal(works[0].wait(20.0).reshape(-1), total)
            assert works[1].wait(20.0).shape == (size, count)
            comm.barrier()

    two_level(shape, body)


@pytest.mark.local
def test_messages_go_within_and_across(two_level):
    def body(comm):
        for distance in range(1, comm.world_size):
            to = (comm.rank + distance) % comm.world_size
            of = (comm.rank - distance) % comm.world_size
            x, y = np.full(1000, comm.rank), np.empty(1000, int)
            if comm.rank < to:
                comm.send(x, to)
                comm.recv(y, of)
            else:
                comm.recv(y, of)
                comm.send(x, to)
            assert (y == of).all()

    two_level((2, 2), body)


@pytest.mark.local
def test_ranks_that_disagree_are_told_within_and_across_hosts(two_level):
    for odd in (1, 3):

        def body(comm, odd=odd):
            x = np.ones(2000 if comm.rank == odd else 1000, np.float32)
            with pytest.raises(CommunicationError):
                comm.all_reduce(x)

        two_level((2, 2), body, timeout=1.0)


@pytest.mark.local
def test_closing_breaks_off_what_waits_for_others(two_level):
    def body(comm):
        if comm.rank == 0:
            work = comm.all_reduce(np.ones(1000, np.float32), async_op=True)
            comm.close()
            with pytest.raises(CommunicationError):
                work.wait()

    two_level((2, 2), body, timeout=300.0)


# What is told of the groups within


class Recording(Blind):
    def __init__(self):
        self.told = []

    def link_lost(self, peer, why):
        self.told.append(("lost", peer, why))

    def link_restored(self, peer, seconds):
        self.told.append(("restored", peer, seconds))

    def traffic(self, peer, sent, received):
        self.told.append(("traffic", peer, sent, received))


def test_a_witness_hears_of_the_job_s_ranks_and_of_all_that_went_to_each():
    recording = Recording()
    traffic = Traffic(recording)
    column = GroupWitness(recording, range(1, 6, 2), traffic)
    everyone = GroupWitness(recording, range(6), traffic)
    column.link_lost(2, "cut")
    column.link_restored(1, 0.5)
    column.traffic(1, 100, 10)
    everyone.traffic(3, 5, 1)
    everyone.traffic(2, 7, 7)
    column.traffic(1, 200, 20)
    assert recording.told == [
        ("lost", 5, "cut"),
        ("restored", 3, 0.5),
        ("traffic", 3, 100, 10),
        ("traffic", 3, 105, 11),
        ("traffic", 2, 7, 7),
        ("traffic", 3, 205, 21),
    ]


@pytest.mark.local
def test_each_link_s_traffic_is_told_of_the_rank_at_its_other_end(two_level):
    witnesses = [Recording() for _ in range(4)]
    wanted = [{2, 3}, {3}, {0}, {0, 1}]

    def body(comm):
        comm.all_reduce(np.ones(40_000, np.float32))
        if comm.rank == 0:  # only these two have something to say over the links of all
            comm.send(np.ones(30_000, np.float32), 3)
        if comm.rank == 3:
            comm.recv(np.empty(30_000, np.float32), 0)
        end = time.monotonic() + 20
        while time.monotonic() < end:  # it is told when a link is looked after
            peers = {each[1] for each in tuple(witnesses[comm.rank].told)}
            if peers == wanted[comm.rank]:
                break
            time.sleep(0.01)
        comm.barrier()
        return peers

    assert two_level((2, 2), body, witnesses=witnesses) == wanted


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (range(2, 4), "whose ranks 0, 1 are the job's ranks 2, 3"),
        (range(1, 128, 8), "whose ranks 0, 1, …, 15 are the job's ranks 1, 9, …, 121"),
    ],
)
def test_errors_say_which_ranks_they_speak_of(ranks, said):
    with pytest.raises(PeerLost, match=f"^rank 1 has ended .*{said}"), Renumbered(ranks):
        raise PeerLost("rank 1 has ended")
    with pytest.raises(ValueError, match=r"^rank 1$"), Renumbered(ranks):
        raise ValueError("rank 1")


@pytest.mark.local
def test_who_left_is_named_as_the_job_counts(two_level):
    """Rank 3 is local rank 1 of the second host, and the second of its column."""

    def body(comm):
        comm.all_reduce(np.ones(1000, np.float32))
        comm.barrier()
        if comm.rank != 3:
            with pytest.raises(CommunicationError) as caught:
                comm.all_reduce(np.ones(1000, np.float32))
            return str(caught.value)
        return None

    _, column, here, _ = two_level((2, 2), body, timeout=5.0)
    assert "rank 1, which has left" in column, column
    assert "whose ranks 0, 1 are the job's ranks 1, 3" in column
    assert "rank 1 (process" in here
    assert "whose ranks 0, 1 are the job's ranks 2, 3" in here
