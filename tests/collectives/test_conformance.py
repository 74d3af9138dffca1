"""What every communicator must do, whatever carries it."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.errors import CollectiveMismatch, CommunicationError, UsageError

GROUPS = [("auto", 1)] + [(name, n) for name in ("shm", "tcp") for n in (2, 3, 4)]
pytestmark = [
    pytest.mark.local,
    pytest.mark.parametrize(("transport", "size"), GROUPS, ids=[f"{t}-{n}" for t, n in GROUPS]),
]
COUNTS = [0, 1, 15, 16, 17, 1000, 4099, 300_001]
DTYPES = [np.float32, np.float64, np.int32, np.int64, np.float16]


def contribution(rank, count, dtype):
    rng = np.random.default_rng([rank, count])
    return (rng.normal(size=count) * 10).astype(dtype)


def reference(inputs, op):
    """The naive all-reduce: each chunk in its ring's order, in the array's own dtype."""
    size, count = len(inputs), inputs[0].size
    out = np.empty_like(inputs[0])
    bounds = chunk_bounds(count, size)
    for chunk in range(size):
        part = slice(bounds[chunk], bounds[chunk + 1])
        first, *others = ring_reduction_order(size, chunk)
        total = inputs[first][part].copy()
        for rank in others:
            total = COMBINE[op](total, inputs[rank][part])
        out[part] = total * out.dtype.type(1 / size) if op == "mean" else total
    return out


@pytest.mark.parametrize("allocated", [False, True], ids=["private", "allocated"])
def test_all_reduce_gives_the_same_bits_on_every_transport(ranks, transport, size, allocated):
    def body(comm):
        for dtype in DTYPES:
            for count in COUNTS:
                for op in ("sum", "max", "mean") if np.dtype(dtype).kind == "f" else ("sum", "min"):
                    inputs = [contribution(r, count, dtype) for r in range(size)]
                    x = comm.allocate(count, dtype) if allocated else np.empty(count, dtype)
                    out = comm.allocate(count, dtype, common=True) if allocated else None
                    x[:] = inputs[comm.rank]
                    result = comm.all_reduce(x, op, out)
                    expected = reference(inputs, op)
                    assert result.tobytes() == expected.tobytes(), (dtype, count, op)
                    if out is not None:
                        assert x.tobytes() == inputs[comm.rank].tobytes(), "the input was touched"
                    comm.barrier()

    ranks(size, transport, body)


def test_repeated_and_alternating_all_reduces(ranks, transport, size):
    """One rank is never so far ahead that it overwrites what another still reads."""

    def body(comm):
        x = comm.allocate(50_000, np.float32)
        out = comm.allocate(50_000, np.float32, common=True)
        small = np.empty(7, np.float32)
        for turn in range(60):
            x[:] = turn + comm.rank
            comm.all_reduce(x, out=out)
            assert (out == size * turn + sum(range(size))).all()
            small[:] = turn * comm.rank
            comm.all_reduce(small)
            assert (small == turn * sum(range(size))).all()
            comm.all_reduce(x)
            assert (x == size * turn + sum(range(size))).all()

    ranks(size, transport, body)


def test_no_rank_sees_a_common_result_before_it_is_final(ranks, transport, size):
    def body(comm):
        x = comm.allocate(4000, np.float32)
        out = comm.allocate(4000, np.float32, common=True)
        x[:] = 1 + comm.rank
        for _ in range(400):
            comm.all_reduce(x, "mean", out)
            assert (out == np.float32((size + 1) / 2)).all()

    ranks(size, transport, body)


def test_any_shape_and_layout(ranks, transport, size):
    def body(comm):
        whole = np.arange(2 * 120_000, dtype=np.float64).reshape(300, 400, 2)
        for view in (whole[:, :, 0], whole[::2, 5:300:3].transpose(2, 0, 1), whole[0, :7]):
            x = view * (comm.rank + 1)
            backing = np.zeros((2, *x.shape))
            target = backing[1]
            expected = view * sum(range(1, size + 1))
            np.testing.assert_array_equal(comm.all_reduce(x, out=target), expected)
            assert not backing[0].any()
            strided = np.asfortranarray(x)
            comm.all_reduce(strided)
            np.testing.assert_array_equal(strided, expected)

    ranks(size, transport, body)


def test_reduce_scatter_all_gather_broadcast(ranks, transport, size):
    def body(comm):
        for count in (0, 5, 1000, 700_000):
            inputs = [contribution(r, count, np.float32) for r in range(size)]
            bounds = chunk_bounds(count, size)
            mine = comm.reduce_scatter(inputs[comm.rank])
            expected = reference(inputs, "sum")[bounds[comm.rank] : bounds[comm.rank + 1]]
            assert mine.tobytes() == expected.tobytes()
            np.testing.assert_array_equal(comm.all_gather(inputs[comm.rank]), np.stack(inputs))
            for root in range(size):
                x = inputs[comm.rank].copy()
                assert comm.broadcast(x, root) is x
                np.testing.assert_array_equal(x, inputs[root])

    ranks(size, transport, body)


def test_work_is_carried_out_in_order_and_waited_for_in_any(ranks, transport, size):
    def body(comm):
        arrays = [np.full(20_000, float(i + comm.rank), np.float32) for i in range(12)]
        works = [comm.all_reduce(a, async_op=True) for a in arrays[:10]]
        comm.all_reduce(arrays[10])
        assert all(work.done() for work in works)
        works.append(comm.all_reduce(arrays[11], async_op=True))
        for work in reversed(works):
            work.wait(20.0)
        for i, array in enumerate(arrays):
            assert (array == size * i + sum(range(size))).all()

    ranks(size, transport, body)


def test_bad_calls_are_refused_before_anything_moves(ranks, transport, size):
    def body(comm):
        x = np.zeros(4, np.float32)
        with pytest.raises(UsageError, match="operation of sum"):
            comm.all_reduce(x, "median")
        with pytest.raises(UsageError, match="numbers"):
            comm.all_reduce(np.array(["a"]))
        with pytest.raises(UsageError, match="shape and dtype"):
            comm.all_reduce(x, out=np.zeros(5, np.float32))
        with pytest.raises(UsageError, match="mean of int"):
            comm.all_reduce(np.zeros(4, np.int64), "mean")
        fixed = np.zeros(4, np.float32)
        fixed.flags.writeable = False
        for _ in (1, 2):
            with pytest.raises(UsageError, match="read-only"):
                comm.all_reduce(fixed)
            assert comm.all_reduce(fixed, out=x) is x
        wide = comm.allocate(30_000, np.float32)
        with pytest.raises(UsageError, match="overlaps"):
            comm.all_reduce(wide[:20_000], out=wide[10_000:])
        assert comm.all_reduce(wide[:20], out=wide[:20]).size == 20
        for root in (-1, size):
            with pytest.raises(UsageError, match="root from 0 to"):
                comm.broadcast(x, root)
        if comm.rank:
            with pytest.raises(UsageError, match="overwrite a read-only"):
                comm.broadcast(fixed)
        comm.barrier()

    ranks(size, transport, body)


def test_ranks_that_disagree_are_told(ranks, transport, size):
    if size == 1:
        return

    def body(comm):
        x = np.zeros(1000 + 100 * comm.rank, np.float32)
        with pytest.raises(CommunicationError):
            comm.all_reduce(x)
        return True

    ranks.timeout = 2.0
    try:
        assert all(ranks(size, transport, body))
    except CollectiveMismatch:
        pytest.fail("the error came outside of the call")


@pytest.mark.parametrize("differing", ["operation", "dtype", "root"])
def test_ranks_that_call_different_things_are_told(ranks, transport, size, differing):
    if size == 1:
        return

    def body(comm):
        x = np.ones(8, np.float32 if differing != "dtype" or comm.rank else np.int32)

        def call():
            if differing == "root":
                comm.broadcast(x, min(comm.rank, 1))
            else:
                comm.all_reduce(x, "max" if differing == "operation" and comm.rank else "sum")
            comm.barrier()

        with pytest.raises(CommunicationError) as raised:
            call()
        return raised.type

    ranks.timeout = 2.0
    assert CollectiveMismatch in ranks(size, transport, body)


def test_closing_does_not_wait_for_work_that_cannot_end(ranks, transport, size):
    if size == 1:
        return

    def body(comm):
        if comm.rank == 0:
            work = comm.all_reduce(np.ones(100_000, np.float32), async_op=True)
            comm.close()
            with pytest.raises(CommunicationError):
                work.wait()
        done.wait(60) if comm.rank else done.set()

    ranks.timeout = 300.0
    done = threading.Event()
    ranks(size, transport, body)


def test_a_closed_communicator_says_so(ranks, transport, size):
    def body(comm):
        comm.barrier()
        comm.close()
        comm.close()
        if size > 1:
            with pytest.raises(CommunicationError, match="closed"):
                comm.all_reduce(np.zeros(3, np.float32))

    ranks(size, transport, body)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(counts=st.lists(st.integers(0, 70_000), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_any_sequence_of_sizes(ranks, transport, size, counts, seed):
    def body(comm):
        for number, count in enumerate(counts):
            inputs = [
                np.random.default_rng([seed, number, r]).normal(size=count).astype(np.float32)
                for r in range(size)
            ]
            x = inputs[comm.rank].copy()
            comm.all_reduce(x)
            assert x.tobytes() == reference(inputs, "sum").tobytes()

    ranks(size, transport, body)
