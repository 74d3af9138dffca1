"""What every communicator must do, as plain functions of one rank's communicator.

`BODIES` has them by name; each is called on every rank of a group at the same time, whatever the
group's size. They need NumPy, ml_dtypes and Holdfast, and no pytest: some groups are other
interpreters (MPI's). A body raises AssertionError where the communicator is wrong.
"""

import contextlib
import functools

import numpy as np
from ml_dtypes import bfloat16

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.errors import UsageError

COUNTS = (0, 1, 16, 17, 4099)
LARGE = 300_001
DTYPES = tuple(
    np.dtype(each) for each in (np.float32, np.float64, np.float16, bfloat16, np.int8, np.uint64)
)


def is_float(dtype):
    return dtype.kind == "f" or dtype == bfloat16


@functools.cache
def exact(rank, count, dtype, op="sum"):
    """Return small whole numbers, or powers of two: no order of addition changes their sum."""
    rng = np.random.default_rng([rank, count, len(op)])
    if op == "prod":
        values = rng.choice([1, 2] if dtype.kind == "u" else [1, -1, 2], count)
    else:
        values = rng.integers(0 if dtype.kind == "u" else -10, 10, count)
    return fixed(values.astype(dtype))


@functools.cache
def rough(rank, count, dtype):
    """Return numbers whose sum is rounded, so that its bits show the order of addition."""
    return fixed((np.random.default_rng([rank, count]).normal(size=count) * 3).astype(dtype))


def fixed(x):
    x.flags.writeable = False
    return x


@functools.cache
def reference(contribution, size, count, dtype, op):
    """The naive all-reduce: each chunk in the ring's order, the 16-bit floats in float32."""
    more = (op,) if contribution is exact else ()
    inputs = [contribution(rank, count, dtype, *more) for rank in range(size)]
    wide = np.dtype(np.float32) if dtype.itemsize == 2 and is_float(dtype) else dtype
    out, bounds = np.empty(count, dtype), chunk_bounds(count, size)
    for chunk in range(size):
        part = slice(bounds[chunk], bounds[chunk + 1])
        first, *others = ring_reduction_order(size, chunk)
        total = inputs[first][part].astype(wide)
        for rank in others:
            total = COMBINE[op](total, inputs[rank][part].astype(wide))
        out[part] = total / wide.type(size) if op == "mean" else total
    return fixed(out)


def ops(dtype):
    return ("sum", "mean", "min", "max", "prod") if is_float(dtype) else ("sum", "min", "max")


@contextlib.contextmanager
def refused(match):
    said = ""
    try:
        yield
    except UsageError as error:
        said = str(error)
    assert match in said, f"a UsageError with {match!r} was expected, found {said!r}"


def all_reduce(comm):
    """Every dtype, operation and count, in place and apart, in memory of both sorts."""
    n, rank = comm.world_size, comm.rank
    for dtype in DTYPES:
        for op in ops(dtype):
            for count in (*COUNTS, LARGE) if (dtype.num, op) == (11, "sum") else COUNTS:
                mine = exact(rank, count, dtype, op)
                expected = reference(exact, n, count, dtype, op).tobytes()
                x = mine.copy()
                assert comm.all_reduce(x, op) is x
                assert x.tobytes() == expected, (dtype, op, count, "in place")
                x = mine.copy()
                out = np.full_like(x, 3)
                assert comm.all_reduce(x, op, out) is out
                assert out.tobytes() == expected, (dtype, op, count, "apart")
                assert x.tobytes() == mine.tobytes(), "the input was touched"


def allocated(comm):
    """Between arrays from `allocate`, again and again."""
    n = comm.world_size
    for dtype, count in ((np.float32, 50_000), (np.float64, 7), (bfloat16, 40_000)):
        x, out = comm.allocate(count, dtype), comm.allocate(count, dtype, common=True)
        assert not x.any()
        assert not out.any()
        for turn in range(10):
            x[:] = turn % 5 + comm.rank
            comm.all_reduce(x, out=out)
            assert (out == n * (turn % 5) + sum(range(n))).all()
            assert (x == turn % 5 + comm.rank).all()
            comm.all_reduce(x)
            assert (x == n * (turn % 5) + sum(range(n))).all()


def the_same_bits(comm):
    """Rounded sums have the same bits on every rank and in every run."""
    for dtype in map(np.dtype, (np.float32, np.float16, bfloat16)):
        for count in (17, 4099, 60_000):
            runs = []
            for turn in range(2):
                x = rough(comm.rank, count, dtype).copy()
                out = comm.all_reduce(x, "mean", np.empty_like(x) if turn else None)
                everywhere = comm.all_gather(out.view(np.uint8))
                runs += [each.tobytes() for each in everywhere]
            assert len(set(runs)) == 1, (dtype, count)


def the_ring_s_bits(comm):
    """Rounded sums have the bits of the ring's order: for what promises that."""
    n = comm.world_size
    for dtype in map(np.dtype, (np.float32, np.float64, np.float16, bfloat16)):
        for count in (*COUNTS, 60_000):
            for op in ("sum", "mean", "prod"):
                expected = reference(rough, n, count, dtype, op)
                result = comm.all_reduce(rough(comm.rank, count, dtype).copy(), op)
                assert result.tobytes() == expected.tobytes(), (dtype, count, op)


def layouts(comm):
    """Any number of axes, any strides."""
    n = comm.world_size
    whole = np.arange(2 * 12_000, dtype=np.float64).reshape(30, 400, 2)
    views = (whole[:, :, 0], whole[::2, 5:300:3].transpose(2, 0, 1), whole[0, :7], whole[3, 3, 1])
    for view in views:
        view = np.asarray(view)
        x, total = view * (comm.rank + 1), sum(range(1, n + 1))
        backing = np.zeros((2, *x.shape))
        np.testing.assert_array_equal(comm.all_reduce(x, out=backing[1, ...]), view * total)
        assert not backing[0].any()
        strided = np.asfortranarray(x)
        comm.all_reduce(strided)
        np.testing.assert_array_equal(strided, view * total)
        strided = np.asfortranarray(x)
        assert comm.broadcast(strided, n - 1) is strided
        np.testing.assert_array_equal(strided, view * n)
        np.testing.assert_array_equal(comm.all_gather(np.asfortranarray(x))[0], view)
        np.testing.assert_array_equal(
            comm.reduce_scatter(np.asfortranarray(x)), my_chunk(comm, view * total)
        )
    odd = np.zeros((6, 9), np.int16)[::2, ::3]
    odd[...] = comm.rank
    comm.all_reduce(odd)
    assert (odd == sum(range(n))).all()


def my_chunk(comm, x):
    bounds = chunk_bounds(x.size, comm.world_size)
    return x.reshape(-1)[bounds[comm.rank] : bounds[comm.rank + 1]]


def reductions(comm):
    """reduce_scatter and reduce have the bits of the ring; their input cannot be written to."""
    n, rank = comm.world_size, comm.rank
    for dtype in map(np.dtype, (np.float32, np.int64, np.float16, bfloat16)):
        for count in (0, 5, 30_001):
            for op in ("sum", "mean", "max") if is_float(dtype) else ("sum", "min"):
                x, expected = rough(rank, count, dtype), reference(rough, n, count, dtype, op)
                mine = comm.reduce_scatter(x, op)
                assert mine.tobytes() == my_chunk(comm, expected).tobytes(), (dtype, count, op)
                for root in {0, n - 1}:
                    total = comm.reduce(x, op, root)
                    if rank == root:
                        assert total.tobytes() == expected.tobytes(), (dtype, count, op)
                    else:
                        assert total is None


def moves(comm):
    """all_gather, broadcast, all_to_all, gather and scatter move bytes of any type."""
    n, rank = comm.world_size, comm.rank
    for dtype in map(np.dtype, (np.float32, bfloat16, np.bool_, np.complex128, "S3", "M8[s]")):
        for shape in ((0,), (5,), (3, 7), (), (20_011,)):
            part = functools.partial(moved, shape, dtype)
            mine = part(rank, 0)
            same(comm.all_gather(mine), [part(r, 0) for r in range(n)])
            parts = np.stack([part(rank, target) for target in range(n)])
            same(comm.all_to_all(parts), [part(source, rank) for source in range(n)])
            for root in {0, n - 1}:
                x = mine.copy()
                assert comm.broadcast(x, root) is x
                same(x, part(root, 0))
                gathered = comm.gather(mine, root)
                if rank == root:
                    same(gathered, [part(r, 0) for r in range(n)])
                else:
                    assert gathered is None
                out = np.empty(shape, dtype)
                assert comm.scatter(parts if rank == root else None, out, root) is out
                same(out, part(root, rank))
    strided = np.arange(n * 40.0).reshape(40, n).T + 1000 * rank
    out = np.empty((2, 40)).T[:, 0]
    same(comm.scatter(strided, out, 0), np.arange(40.0) * n + rank)
    same(comm.all_to_all(strided), [np.arange(40.0) * n + rank + 1000 * r for r in range(n)])


@functools.cache
def moved(shape, dtype, source, target):
    rng = np.random.default_rng([source, target])
    raw = rng.integers(0, 2, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return fixed(raw.view(dtype).reshape(shape))


def same(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def point_to_point(comm):
    """Between neighbours, and messages keep their order."""
    n, rank = comm.world_size, comm.rank
    if n == 1:
        with refused("another rank"):
            comm.send(np.zeros(3), 0)
        return
    for count in (0, 1, 1000, 70_001):
        for turn in range(2):
            x = np.full(count, rank + turn, np.float32)
            y = np.empty((2, count), np.float32).T[:, 0]
            # Around the ring; rank 0 hears first, so that somebody does.
            if rank == 0:
                assert comm.recv(y, n - 1) is y
                comm.send(x, 1 % n)
            else:
                comm.send(x, (rank + 1) % n)
                comm.recv(y, rank - 1)
            assert (y == (rank - 1) % n + turn).all()
    for peer in (rank, n, -1):
        with refused("another rank"):
            comm.send(np.zeros(3), peer)
    comm.barrier()


def works(comm):
    """Work is carried out in order, waited for in any, and gives its result."""
    n, rank = comm.world_size, comm.rank
    arrays = [np.full(20_000, float(i + rank), np.float32) for i in range(12)]
    pending = [comm.all_reduce(a, async_op=True) for a in arrays[:10]]
    comm.all_reduce(arrays[10])
    assert all(work.done() for work in pending)
    pending.append(comm.all_reduce(arrays[11], async_op=True))
    for work, array in reversed(list(zip(pending, [*arrays[:10], arrays[11]], strict=True))):
        assert work.wait(20.0) is array
    for i, array in enumerate(arrays):
        assert (array == n * i + sum(range(n))).all()
    x = np.arange(n * 100, dtype=np.float32).reshape(n, 100) + rank
    target = np.full(100, float(rank))
    scattered = comm.reduce_scatter(x, async_op=True)
    gathered = comm.all_gather(x, async_op=True)
    swapped = comm.all_to_all(x, async_op=True)
    copied = comm.broadcast(target, n - 1, async_op=True)
    assert copied.wait(20.0) is target
    assert (target == n - 1).all()
    base = np.arange(n * 100, dtype=np.float32).reshape(n, 100)
    same(swapped.wait(20.0), [base[rank] + r for r in range(n)])
    same(gathered.wait(20.0), [base + r for r in range(n)])
    same(scattered.wait(20.0), my_chunk(comm, base * n + sum(range(n))))


def ahead(comm):
    """A rank that waits for each call before it makes the next keeps up with those that don't."""
    n, rank = comm.world_size, comm.rank
    for slow in range(n):
        arrays = [np.full(20_000, float(i + rank), np.float32) for i in range(12)]
        pending = []
        for array in arrays:
            pending.append(comm.all_reduce(array, async_op=True))
            if rank == slow:
                pending.pop().wait(20.0)
        for work in pending:
            work.wait(20.0)
        for i, array in enumerate(arrays):
            assert (array == n * i + sum(range(n))).all()


def chained(comm):
    """A call may be given what one that is under way writes: it is carried out behind that one."""
    n, rank = comm.world_size, comm.rank
    total = sum(range(1, n + 1))
    for count in (10, 30_000):
        for layout in (slice(None), slice(None, None, 2)):
            x = np.full(2 * count, 1.0 + rank)[layout]
            copy, given = np.zeros_like(x), np.full(x.size, float(rank))
            works = [comm.all_reduce(x, async_op=True), comm.all_reduce(x, out=copy, async_op=True)]
            works += [comm.broadcast(given, n - 1, async_op=True)]
            gathered = comm.all_gather(copy, async_op=True)
            works += [comm.all_reduce(given, "max", copy, async_op=True)]  # which is gathered first
            same(gathered.wait(20.0), [np.full(x.size, float(n * total))] * n)
            for work in works:
                work.wait(20.0)
            for array, value in ((x, total), (given, n - 1), (copy, n - 1)):
                assert (array == value).all()


def not_numbers(comm):
    """What is not a number stays so in the least and the largest, on every rank."""
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for lost in range(comm.world_size):
            x = np.arange(20, dtype=dtype)
            expected = x.copy()
            expected[3] = np.nan
            if comm.rank == lost:
                x[3] = np.nan
            for op in ("min", "max"):
                found = comm.all_reduce(x, op, np.empty_like(x))
                assert np.array_equal(found, expected, equal_nan=True), (op, lost, found)


def barriers(comm):
    """No rank leaves before every rank has come."""
    came = np.zeros(comm.world_size, np.int64)
    for turn in range(20):
        comm.barrier()
        came[comm.rank] = turn
        assert (comm.all_reduce(came, "max", np.empty_like(came)) == turn).all()


def refusals(comm):
    """A call that cannot be is refused before anything moves."""
    n = comm.world_size
    x = np.zeros(4, np.float32)
    with refused("operation of sum"):
        comm.all_reduce(x, "median")
    with refused("numbers"):
        comm.all_reduce(np.array(["a"]))
    with refused("numbers"):
        comm.reduce(np.zeros(3, bool))
    with refused("shape and dtype"):
        comm.all_reduce(x, out=np.zeros(5, np.float32))
    with refused("mean of int"):
        comm.reduce_scatter(np.zeros(4, np.int64), "mean")
    fixed = np.zeros(4, np.float32)
    fixed.flags.writeable = False
    for _ in (1, 2):
        with refused("read-only"):
            comm.all_reduce(fixed)
        assert comm.all_reduce(fixed, out=x) is x
    wide = comm.allocate(30_000, np.float32)
    with refused("overlaps"):
        comm.all_reduce(wide[:20_000], out=wide[10_000:])
    wide[:20] = 1
    assert (comm.all_reduce(wide[:20], out=wide[:20]) == n).all()
    for root in (-1, n):
        for call in (comm.broadcast, comm.gather):
            with refused("root from 0 to"):
                call(x, root)
        with refused("root from 0 to"):
            comm.reduce(x, root=root)
        with refused("root from 0 to"):
            comm.scatter(None, x, root)
    with refused("first axis"):
        comm.all_to_all(np.zeros((n + 1, 2)))
    with refused("plain values"):
        comm.all_gather(np.array([{}], object))
    if comm.rank == 0:
        with refused("root's x must be"):
            comm.scatter(np.zeros((n, 3)), x)
    else:
        with refused("read-only"):
            comm.broadcast(fixed)
    comm.barrier()


BODIES = {
    body.__name__: body
    for body in (
        *(all_reduce, allocated, the_same_bits, layouts, reductions, moves, point_to_point),
        *(works, ahead, chained, not_numbers, barriers, refusals),
    )
}
"""Those that hold for every communicator; `the_ring_s_bits` holds for what adds in that order."""
