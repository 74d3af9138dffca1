"""Every communicator is run through the bodies of `conformance.py`; what only some promise is here.

A group is a row of `GROUPS`: what carries it, how many ranks, and with which settings. Those of MPI
are in `test_mpi.py`, in other interpreters.
"""

import importlib.util
import threading
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.collectives.communicator import sum_type
from holdfast.collectives.cost import ALGORITHMS, CostModel
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.errors import CollectiveMismatch, CommunicationError, UsageError


def sibling(name):
    """Import a module beside this one, once."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


conformance, memory_wire = sibling("conformance"), sibling("memory_wire")


@dataclass(frozen=True)
class Group:
    """A row of the matrix; `link` are settings of the links that differ from the tests' own."""

    transport: str
    size: int
    algorithm: str = "auto"
    link: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = False
    late: bool = False

    def __str__(self):
        more = [f"{key}={value}" for key, value in self.link.items()]
        more += [name for name in ("tls", "late") if getattr(self, name)]
        return "-".join((self.transport, str(self.size), self.algorithm, *more))

    @property
    def in_ring_order(self):
        """Whether it promises to add in the ring's order."""
        return self.algorithm in ("auto", "ring", "direct", "exchange")

    def run(self, ranks, body, timeout=20.0):
        """Run a body on every rank and return what it returns on each."""
        if self.transport == "memory":
            return self._in_memory(ranks, body, timeout)
        ranks.timeout = timeout
        ranks.link = replace(ranks.link, tls=ranks.tls if self.tls else None, **self.link)
        return ranks(self.size, self.transport, body, algorithm=self.algorithm)

    def _in_memory(self, ranks, body, timeout):
        wires = memory_wire.Wires(self.size)

        def member(rank):
            comm = ScheduledCommunicator(
                wires.transport(rank, late=self.late, timeout=timeout),
                "memory",
                segment=8 << 10,
                algorithm=self.algorithm,
            )
            try:
                return body(comm)
            finally:
                comm.close()

        return ranks.threads(self.size, member)


# Each is run through every body.
GROUPS = [
    Group("auto", 1),
    *(Group(transport, size) for transport in ("shm", "tcp") for size in (2, 3, 4)),
    *(Group("memory", size, late=True) for size in (2, 5)),
]
# These are run through all of them in one go.
CARRIED = [
    Group("tcp", 3, link={"rails": 3}),
    Group("tcp", 2, link={"checksum": "crc32c"}),
    Group("tcp", 2, link={"checksum": "crc32c", "rails": 3}),
    Group("tcp", 2, tls=True),
    Group("tcp", 3, link={"rails": 3}, tls=True),
]
# These through all in which an all-reduce's algorithm has a part. Over sockets: those that differ
# most in who talks to whom; the others, which the schedules' proofs and the memory's rows show as
# well, in the long runs.
REDUCED = [
    *(Group("memory", 6, name, late=True) for name in (*ALGORITHMS, "two-level:3")),
    Group("tcp", 3, "exchange"),
    Group("tcp", 3, "double-tree"),
    Group("tcp", 4, "halving-doubling"),
    Group("tcp", 4, "two-level:2"),
    *(
        pytest.param(Group("tcp", 3, name), marks=pytest.mark.soak)
        for name in ALGORITHMS
        if name not in ("exchange", "double-tree")
    ),
]
WITHOUT_ALGORITHM = ("moves", "point_to_point", "barriers", "refusals")
group = pytest.mark.parametrize("group", GROUPS, ids=str)
peers = pytest.mark.parametrize("group", [each for each in GROUPS if each.size > 1], ids=str)
# Where a rank that nobody tells waits until its deadline.
wires = pytest.mark.parametrize(
    "group", [Group(transport, size) for transport in ("shm", "tcp") for size in (2, 3)], ids=str
)
pytestmark = pytest.mark.local


@pytest.fixture
def ranks(ranks, authority):
    """Those of every test, which have the files for TLS here."""
    ranks.tls = authority("ours")
    return ranks


@group
@pytest.mark.parametrize("body", conformance.BODIES)
def test_what_every_communicator_does(ranks, group, body):
    group.run(ranks, conformance.BODIES[body])


@group
def test_the_bits_are_those_of_the_ring(ranks, group):
    group.run(ranks, conformance.the_ring_s_bits)


def through(group, ranks, names):
    def body(comm):
        for name in names:
            conformance.BODIES[name](comm)
        if group.in_ring_order:
            conformance.the_ring_s_bits(comm)

    group.run(ranks, body)


@pytest.mark.parametrize("group", CARRIED, ids=str)
def test_the_same_however_it_is_carried(ranks, group):
    through(group, ranks, conformance.BODIES)


@pytest.mark.parametrize("group", REDUCED, ids=str)
def test_the_same_whatever_the_algorithm(ranks, group):
    through(group, ranks, [name for name in conformance.BODIES if name not in WITHOUT_ALGORITHM])


@peers
def test_no_rank_sees_a_common_result_before_it_is_final(ranks, group):
    def body(comm):
        x = comm.allocate(4000, np.float32)
        out = comm.allocate(4000, np.float32, common=True)
        x[:] = 1 + comm.rank
        for _ in range(200):
            comm.all_reduce(x, "mean", out)
            assert (out == np.float32((group.size + 1) / 2)).all()

    group.run(ranks, body)


@wires
def test_ranks_that_disagree_are_told(ranks, group):
    def body(comm):
        x = np.zeros(1000 + 100 * comm.rank, np.float32)
        with pytest.raises(CommunicationError):
            comm.all_reduce(x)
        return True

    try:
        assert all(group.run(ranks, body, timeout=2.0))
    except CollectiveMismatch:
        pytest.fail("the error came outside of the call")


@wires
@pytest.mark.parametrize("differing", ["operation", "dtype", "root", "call"])
def test_ranks_that_call_different_things_are_told(ranks, group, differing):
    def body(comm):
        x = np.ones(8, np.float32 if differing != "dtype" or comm.rank else np.int32)

        def call():
            if differing == "root":
                comm.broadcast(x, min(comm.rank, 1))
            elif differing == "call" and comm.rank:
                comm.all_gather(x)
            else:
                comm.all_reduce(x, "max" if differing == "operation" and comm.rank else "sum")
            comm.barrier()

        with pytest.raises(CommunicationError) as raised:
            call()
        return raised.type

    assert CollectiveMismatch in group.run(ranks, body, timeout=2.0)


@peers
def test_closing_does_not_wait_for_work_that_cannot_end(ranks, group):
    def body(comm):
        if comm.rank == 0:
            work = comm.all_reduce(np.ones(100_000, np.float32), async_op=True)
            comm.close()
            with pytest.raises(CommunicationError):
                work.wait()
        done.wait(60) if comm.rank else done.set()

    done = threading.Event()
    group.run(ranks, body, timeout=300.0)


@group
def test_a_closed_communicator_says_so(ranks, group):
    def body(comm):
        comm.barrier()
        comm.close()
        comm.close()
        if group.size > 1:
            with pytest.raises(CommunicationError, match="closed"):
                comm.all_reduce(np.zeros(3, np.float32))

    group.run(ranks, body)


@pytest.mark.parametrize("group", [each for each in GROUPS if each.size == 3], ids=str)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(counts=st.lists(st.integers(0, 70_000), min_size=1, max_size=6))
def test_any_sequence_of_sizes(ranks, group, counts):
    rough, dtype = conformance.rough, np.dtype(np.float32)

    def body(comm):
        for count in counts:
            x = rough.__wrapped__(comm.rank, count, dtype).copy()
            expected = conformance.reference.__wrapped__(rough, group.size, count, dtype, "sum")
            assert comm.all_reduce(x).tobytes() == expected.tobytes()

    group.run(ranks, body)


# What schedules over a transport promise besides


def test_an_all_reduce_takes_little_memory_beyond_its_arrays(ranks):
    def body(comm):
        x, out = np.ones(8 << 20, np.float32), np.zeros(8 << 20, np.float32)
        comm.all_reduce(x, out=out)
        comm.barrier()
        if comm.rank == 0:
            tracemalloc.start()
        comm.barrier()
        comm._plans.clear()
        comm._memory = np.empty(0, np.uint8)
        comm.all_reduce(x, out=out)
        comm.barrier()
        return tracemalloc.get_traced_memory()[1] if comm.rank == 0 else 0

    ranks.link = LinkConfig()
    try:
        (peak, _) = ranks(2, "tcp", body)
    finally:
        tracemalloc.stop()
    assert peak < 2 * (8 << 20), "of both ranks"


def test_sixteen_bit_floats_are_rounded_once(ranks):
    def body(comm):
        for dtype in (np.float16, conformance.bfloat16):
            x = np.full(5000, 0.1, dtype)
            total = np.full(5000, np.float32(x[0]))
            for _ in range(4):
                total += np.float32(x[0])
            assert sum_type(dtype) == np.float32
            assert (comm.all_reduce(x) == total.astype(dtype)).all()

    for name in ("auto", "ring", "double-tree"):
        Group("memory", 5, name).run(ranks, body)


@pytest.mark.parametrize(
    ("model", "messages"),
    [(CostModel(1.0, 0.0, 0.0), 6), (CostModel(0.0, 1.0, 0.0), 4)],
    ids=["exchange", "ring"],
)
def test_auto_goes_by_the_model(ranks, model, messages):
    """Where messages cost all, each chunk goes to both peers at once; where bytes do, by a ring."""
    wires = memory_wire.Wires(3)

    def member(rank):
        transport, sizes = wires.transport(rank), []
        send = transport.send
        transport.send = lambda peer, data, tag: (sizes.append(len(data)), send(peer, data, tag))
        comm = ScheduledCommunicator(transport, "memory", segment=1 << 20, model=model)
        comm.all_reduce(np.ones(4800, np.float32))
        comm.close()
        return sizes

    assert ranks.threads(3, member) == [[6400] * messages] * 3


@pytest.mark.parametrize("name", ["rings", "two-level", "two-level:2", "two-level:x"])
def test_an_algorithm_that_there_isn_t_is_refused(name):
    with pytest.raises(UsageError, match="two-level:RANKS"):
        ScheduledCommunicator(
            memory_wire.Wires(3).transport(0), "memory", segment=1024, algorithm=name
        )
