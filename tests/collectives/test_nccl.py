"""The NCCL communicator over a recorded stand-in for the library: calls, order, sums, failures."""

import contextlib
import importlib.util
import math
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from holdfast.collectives.communicator import GroupConfig
from holdfast.collectives.nccl import engine
from holdfast.collectives.nccl.communicator import NcclCommunicator, meet
from holdfast.collectives.nccl.state import Result
from holdfast.collectives.schedule import chunk_bounds
from holdfast.errors import (
    CommunicationError,
    DeadlineExceeded,
    PeerLost,
    RendezvousError,
    UsageError,
)


def _fake():
    path = Path(__file__).with_name("nccl_fake.py")
    spec = importlib.util.spec_from_file_location("nccl_fake", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _fake()
Script = fake.Script
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZES = [0, 1, 15, 32, 33, 100, 1000]
MARGIN = 5.0
"""Seconds that something may take that ought to take none, on a machine that is busy."""


class Rank:
    """What a test's function is given: the communicator, its fake GPU and the binding's record."""

    def __init__(self, communicator, gpu, binding):
        self.communicator = communicator
        self.gpu = gpu
        self.binding = binding
        self.rank = communicator.rank
        self.world_size = communicator.world_size

    def data(self, count, dtype="float32", seed=0):
        return self.gpu.array(values(self.rank + 100 * seed, count, dtype))


def values(seed, count, dtype):
    """Return small whole numbers, so that every sum is exact in every dtype."""
    return np.random.default_rng(seed).integers(1, 4, count).astype(dtype)


class Group:
    """Runs a function on every rank of a group, each in a thread, and closes all behind it."""

    def __init__(self, ranks):
        self._ranks = ranks
        self.timeout = 20.0
        self.library = fake.FakeNccl()

    def __call__(self, world_size, body, scripts=None, abilities=fake.ABLE):
        scripts = scripts or {}
        first = self.library.binding()
        unique = first.unique_id()

        def member(rank):
            binding = self.library.binding(scripts.get(rank), abilities)
            with contextlib.closing(fake.FakeGpu()) as gpu:
                communicator = NcclCommunicator(
                    binding,
                    gpu,
                    lambda: binding.init(world_size, rank, unique),
                    rank=rank,
                    world_size=world_size,
                    timeout=self.timeout,
                )
                with contextlib.closing(communicator):
                    return body(Rank(communicator, gpu, binding))

        return self._ranks.threads(world_size, member)


@pytest.fixture
def group(ranks):
    before = threading.active_count()
    yield Group(ranks)
    deadline = time.monotonic() + MARGIN
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before, "threads were left behind"


def test_what_the_library_is_told(group):
    def body(each):
        comm = each.communicator
        comm.all_reduce(each.data(10))
        comm.reduce_scatter(each.data(64), "max")
        comm.reduce_scatter(each.data(20))
        comm.all_gather(each.data(3, "int16"))
        comm.broadcast(each.data(4, "float64"), root=1)
        comm.send(each.data(2), 1) if each.rank == 0 else comm.recv(each.data(2), 0)
        comm.all_reduce(each.data(0))
        comm.close()
        return each.binding.calls

    def grouped(*calls):
        return [("group_start",), *calls, ("group_end",)]

    calls = group(2, body)
    for rank in range(2):
        assert calls[rank] == [
            ("init", 2, rank),
            *grouped(("all_reduce", 10, "float32", "sum")),
            *grouped(("reduce_scatter", 32, "float32", "max")),
            *grouped(*([("reduce", 16, "float32", "sum", 0)]), ("reduce", 4, "float32", "sum", 1)),
            *grouped(("all_gather", 6, "uint8")),
            *grouped(("broadcast", 32, "uint8", 1)),
            *grouped(("send", 8, "uint8", 1) if rank == 0 else ("recv", 8, "uint8", 0)),
            ("finalize",),
            ("destroy",),
        ]


@pytest.mark.parametrize("in_progress", [0, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_sums_of_every_size(group, world_size, in_progress):
    def body(each):
        for count in SIZES:
            everyone = [values(rank, count, "float32") for rank in range(world_size)]
            total = np.sum(everyone, axis=0, dtype="float32")
            x, out = each.data(count), each.gpu.empty(count, "float32")
            assert each.communicator.all_reduce(x, out=out) is out
            assert np.array_equal(each.gpu.read(out), total)
            assert each.communicator.all_reduce(x) is x
            assert np.array_equal(each.gpu.read(x), total)
            bounds = chunk_bounds(count, world_size)
            part = each.communicator.reduce_scatter(each.data(count))
            mine = total[bounds[each.rank] : bounds[each.rank + 1]]
            assert np.array_equal(each.gpu.read(part), mine)
            root = world_size - 1
            whole = each.communicator.reduce(each.data(count), root=root)
            assert (whole is None) is (each.rank != root)
            assert whole is None or np.array_equal(each.gpu.read(whole), total)

    scripts = {rank: Script(in_progress=in_progress) for rank in range(world_size)}
    group(world_size, body, scripts)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_moves_of_every_size(group, world_size):
    def body(each):
        comm, gpu, rank = each.communicator, each.gpu, each.rank
        for count in SIZES[:5]:
            everyone = [values(r, count, "int16").reshape(1, -1) for r in range(world_size)]
            x = each.data(count, "int16").reshape(1, -1)
            assert np.array_equal(gpu.read(comm.all_gather(x)), np.stack(everyone))
            gathered = comm.gather(x, root=0)
            assert (gathered is None) is (rank != 0)
            assert gathered is None or np.array_equal(gpu.read(gathered), np.stack(everyone))
            rows = [values(r, world_size * count, "int16") for r in range(world_size)]
            rows = [row.reshape(world_size, -1) for row in rows]
            swapped = comm.all_to_all(gpu.array(rows[rank]))
            assert np.array_equal(gpu.read(swapped), [row[rank] for row in rows])
            out = gpu.empty(count, "int16")
            given = gpu.array(rows[0]) if rank == 0 else None
            assert comm.scatter(given, out, root=0) is out
            assert np.array_equal(gpu.read(out), rows[0][rank])
            assert comm.broadcast(x, root=world_size - 1) is x
            assert np.array_equal(gpu.read(x), everyone[-1])

    group(world_size, body)


def test_messages_keep_their_order(group):
    def body(each):
        for number in range(5):
            x = each.gpu.array(np.full(3, number))
            if each.rank == 0:
                each.communicator.send(x, 1)
            else:
                x = each.communicator.recv(each.gpu.zeros(3, int), 0)
                assert np.array_equal(each.gpu.read(x), np.full(3, number))

    group(2, body)


@pytest.mark.parametrize(
    ("op", "expected"),
    [("sum", np.sum), ("mean", np.mean), ("min", np.min), ("max", np.max), ("prod", np.prod)],
)
@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float64", "int64", "uint8"])
def test_operations(group, op, expected, dtype):
    if op == "mean" and np.dtype(dtype).kind in "iu":
        pytest.skip("whole numbers have no mean")
    everyone = np.stack([values(rank, 40, "float32") for rank in range(2)])

    def body(each):
        x = each.communicator.all_reduce(each.data(40, dtype), op)
        assert x.dtype == dtype
        assert np.array_equal(each.gpu.read(x).astype("float32"), expected(everyone, axis=0))

    group(2, body)


def test_complex_numbers_are_summed_by_parts(group):
    def body(each):
        x = each.gpu.array(each.data(20) + 1j * each.data(20, seed=1))
        part = each.communicator.reduce_scatter(x)
        return each.gpu.read(part)

    total = sum(values(r, 20, "float32") + 1j * values(r + 100, 20, "float32") for r in range(2))
    assert np.array_equal(np.concatenate(group(2, body)), total)


def test_arrays_that_are_not_contiguous(group):
    def body(each):
        comm, gpu = each.communicator, each.gpu
        rows = [values(rank, 24, "float32").reshape(4, 6) for rank in range(2)]
        total = (rows[0] + rows[1]).T
        base = gpu.array(rows[each.rank])
        comm.all_reduce(base.T)
        assert np.array_equal(gpu.read(base).T, total)
        x, out = gpu.array(rows[each.rank]).T, gpu.empty((4, 6), "float32").T
        comm.all_reduce(x, out=out)
        assert np.array_equal(gpu.read(out), total)
        assert np.array_equal(x, rows[each.rank].T)
        comm.broadcast(x, root=1)
        assert np.array_equal(gpu.read(x), rows[1].T)
        assert np.array_equal(gpu.read(comm.all_gather(out)), np.stack([total, total]))

    group(2, body)


def test_a_call_waits_for_the_callers_stream_and_that_for_the_result(group):
    """What the current stream was given before is summed; what it is given after sees the sum."""

    def body(each):
        gpu, comm = each.gpu, each.communicator
        x, seen = gpu.zeros(100, "float32"), []
        for stream in (gpu.default, gpu.new_stream()):
            with stream:
                hold = threading.Event()
                stream.give(hold.wait)
                stream.give(lambda: x.fill(1 + each.rank))
                work = comm.all_reduce(x, async_op=True)
                assert not work.done()  # and the host got here, although the stream is held up
                work.wait()
                stream.give(lambda: seen.append(x.copy()))
                hold.set()
                stream.synchronize()
        assert all(np.array_equal(x, np.full(100, 3)) for x in seen)
        assert len(seen) == 2

    group(2, body)


def test_work_is_done_in_order_and_waited_for_on_the_host(group):
    def body(each):
        works = [each.communicator.all_reduce(each.data(9), async_op=True) for _ in range(5)]
        result = works[-1].wait(math.inf)
        assert all(work.done() for work in works)  # one stream: the last one is the last to end
        assert np.array_equal(result, values(0, 9, "float32") + values(1, 9, "float32"))
        each.communicator.barrier()

    group(2, body)


def test_a_barrier_holds_until_all_have_come(group):
    came = []

    def body(each):
        if each.rank == 1:
            while not each.binding._library.groups:
                time.sleep(0.001)
            time.sleep(0.05)
        came.append(each.rank)
        each.communicator.barrier()
        assert len(came) == 2

    group(2, body)


def test_arrays_of_the_host_and_other_misuse_are_refused_before_anything_moves(group):
    def body(each):
        comm, x = each.communicator, each.data(8)
        for call in (
            lambda: comm.all_reduce(np.zeros(8)),
            lambda: comm.all_reduce(x, out=np.zeros(8, "float32")),
            lambda: comm.all_reduce(x, "xor"),
            lambda: comm.all_reduce(x, out=each.data(9)),
            lambda: comm.all_reduce(x[:6], out=x[2:]),
            lambda: comm.all_reduce(each.data(8, "int16")),
            lambda: comm.broadcast(x, root=2),
            lambda: comm.all_to_all(each.data(3)),
            lambda: comm.scatter(x if each.rank == 0 else None, x) if each.rank == 0 else x[9],
            lambda: comm.send(x, each.rank),
            lambda: comm.recv(x, 5),
            lambda: comm.shrink([each.rank]),
            lambda: comm.shrink([7]),
        ):
            with pytest.raises((UsageError, IndexError)):
                call()
        with pytest.raises(UsageError, match=r"numpy\.ndarray.*cupy\.asarray"):
            comm.all_reduce(np.zeros(8))
        assert each.binding.calls == [("init", 2, each.rank)]
        comm.all_reduce(x)
        return each.gpu.read(x)

    assert len(group(2, body)) == 2


def test_a_peer_that_is_lost_is_an_error_of_this_and_every_later_call(group):
    def body(each):
        comm = each.communicator
        if each.rank == 1:
            return
        work = comm.all_reduce(each.data(8), async_op=True)
        each.binding.script.fails["async"] = Result.REMOTE_ERROR
        with pytest.raises(PeerLost, match="all_reduce failed with NCCL's remote error"):
            work.wait(math.inf)
        with pytest.raises(PeerLost, match="broke before this call"):
            comm.all_reduce(each.data(8))
        each.gpu.default.synchronize()  # no stream is left waiting
        comm.close()
        assert each.binding.calls.count(("abort",)) == 1
        assert ("destroy",) not in each.binding.calls

    group(2, body)


def test_a_missed_deadline_aborts_and_frees_the_callers_stream(group):
    group.timeout = 0.3

    def body(each):
        if each.rank == 1:  # in none of the collectives
            return
        comm = each.communicator
        first = comm.all_reduce(each.data(8), async_op=True)
        second = comm.all_reduce(each.data(8), async_op=True)
        second.wait()  # on the GPU: the host goes on, and the stream is held up
        for work in (first, second):
            with pytest.raises(DeadlineExceeded, match=r"rank 0 of 2.*all_reduce has not ended"):
                work.wait(math.inf)
        each.gpu.default.synchronize()
        with pytest.raises(DeadlineExceeded):
            comm.barrier()
        assert ("abort",) in each.binding.calls

    group(2, body)


def test_a_wait_that_runs_out_leaves_the_collective_going(group):
    def body(each):
        if each.rank == 0:
            work = each.communicator.all_reduce(each.data(8), async_op=True)
            with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
                work.wait(0.01)
            met.set()
            return np.array(work.wait(math.inf))
        assert met.wait(MARGIN)
        return np.array(each.communicator.all_reduce(each.data(8), async_op=True).wait(math.inf))

    met = threading.Event()
    first, second = group(2, body)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("what", ["init", "post"])
def test_a_call_that_never_gets_through_is_aborted(group, what):
    group.timeout = 0.2
    bindings = {}

    def body(each):
        bindings[each.rank] = each.binding
        each.communicator.all_reduce(each.data(8))

    with pytest.raises(DeadlineExceeded):
        group(1, body, {0: Script(never=frozenset({what}))})
    assert what == "init" or ("abort",) in bindings[0].calls


def test_a_rank_that_never_comes_fails_the_opening(group):
    group.timeout = 0.2
    gpu, binding = fake.FakeGpu(), group.library.binding()
    with contextlib.closing(gpu), pytest.raises(DeadlineExceeded, match="the ranks' communicator"):
        NcclCommunicator(
            binding, gpu, lambda: binding.init(2, 0, bytes(128)), rank=0, world_size=2, timeout=0.2
        )
    assert binding.calls == [("init", 2, 0), ("abort",)]


@pytest.mark.parametrize("verb", ["init", "group_start", "all_reduce", "group_end"])
def test_a_call_that_fails_at_once_is_aborted(group, verb):
    def body(each):
        with pytest.raises(CommunicationError, match="so it was told"):
            each.communicator.all_reduce(each.data(8))
        assert each.binding.calls[-1] == ("abort",)
        assert each.binding._depth == 0 or verb == "group_start"  # the thread is in no group

    script = {0: Script(fails={verb: Result.SYSTEM_ERROR})}
    if verb == "init":
        with pytest.raises(CommunicationError, match="system error"):
            group(1, body, script)
    else:
        group(1, body, script)


def test_an_abort_that_hangs_is_left_to_itself(group, monkeypatch, caplog):
    monkeypatch.setattr(engine, "ABORT_SECONDS", 0.05)
    group.timeout = 0.2

    def body(each):
        work = each.communicator.all_reduce(each.data(8), async_op=True)
        with pytest.raises(DeadlineExceeded):
            work.wait(math.inf)
        each.communicator.close()

    group(1, body, {0: Script(hangs=True, abort_hangs=True)})
    assert "abort did not work" in caplog.text


def test_an_interrupt_while_a_call_is_handed_over_breaks_the_communicator(group, monkeypatch):
    def body(each):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(each.binding, "all_reduce", interrupted)
        with pytest.raises(KeyboardInterrupt):
            each.communicator.all_reduce(each.data(8))
        with pytest.raises(CommunicationError, match="out of step"):
            each.communicator.barrier()

    group(1, body)


def test_close_breaks_off_a_call_of_another_thread(group):
    def body(each):
        errors = []

        def caller():
            try:
                each.communicator.all_reduce(each.data(8))
            except CommunicationError as error:
                errors.append(error)

        thread = threading.Thread(target=caller)
        thread.start()
        while ("group_end",) not in each.binding.calls:
            time.sleep(0.001)
        each.communicator.close()
        thread.join(MARGIN)
        assert len(errors) == 1
        assert "closed while all_reduce" in str(errors[0])
        with pytest.raises(CommunicationError, match="is closed"):
            each.communicator.all_reduce(each.data(8))

    group(1, body, {0: Script(never=frozenset({"post"}))})


def test_what_has_not_ended_at_the_close_fails(group, monkeypatch):
    monkeypatch.setattr("holdfast.collectives.nccl.state.CLOSE_SECONDS", 0.1)

    def body(each):
        work = each.communicator.all_reduce(each.data(8), async_op=True)
        each.communicator.close()
        each.communicator.close()
        with pytest.raises(CommunicationError, match="was closed"):
            work.wait(1.0)
        assert each.binding.calls[-2:] == [("finalize",), ("abort",)]

    group(1, body, {0: Script(hangs=True)})


def test_arrays_are_kept_until_the_gpu_is_done_with_them(group):
    import gc
    import weakref

    def body(each):
        hold = threading.Event()
        each.communicator._engine._stream.give(hold.wait)
        x = each.data(8)
        gone = weakref.ref(x)
        work = each.communicator.all_reduce(x, async_op=True)
        del x, work
        gc.collect()
        assert gone() is not None
        hold.set()
        each.communicator.barrier()
        each.communicator.barrier()  # by then the first of them has been let go
        gc.collect()
        assert gone() is None

    group(1, body)


def test_shrinks_to_the_ranks_that_are_left(group):
    def body(each):
        comm = each.communicator
        comm.all_reduce(each.data(8))
        if each.rank == 1:
            return None
        held = comm.all_reduce(each.data(8), async_op=True)  # rank 1 is not in it any more
        with contextlib.closing(comm.shrink([1])) as smaller:
            with pytest.raises(CommunicationError, match="gave way to a smaller one"):
                held.wait(math.inf)
            with pytest.raises(CommunicationError):
                comm.all_reduce(each.data(8))
            assert (smaller.rank, smaller.world_size, smaller.epoch) == (each.rank // 2, 2, 1)
            x = smaller.all_reduce(each.gpu.array(np.full(4, 1.0 + each.rank)))
            assert np.array_equal(each.gpu.read(x), np.full(4, 4.0))
            smaller.barrier()
        names = [call[0] for call in each.binding.calls]
        assert names.index("shrink") < names.index("abort")  # the parent, once the child is there

    group(3, body, {rank: Script(in_progress=2) for rank in range(3)})


@pytest.mark.parametrize("how", ["never through", "hangs", "fails"])
def test_a_shrink_that_fails_leaves_nothing_open(group, how):
    group.timeout = 0.3
    hung = threading.Event()

    def body(each):
        if each.rank == 1:
            return
        if how == "hangs":
            each.binding.shrink = lambda handle, excluded: hung.wait(MARGIN)
        with pytest.raises(CommunicationError):
            each.communicator.shrink([1])
        names = [call[0] for call in each.binding.calls]
        assert "abort" in names
        assert not each.communicator._engine._watcher.is_alive()
        each.communicator.close()
        with pytest.raises(CommunicationError):
            each.communicator.all_reduce(each.data(8))
        hung.set()

    scripts = {
        "never through": Script(never=frozenset({"shrink"})),
        "hangs": Script(),
        "fails": Script(fails={"shrink": Result.SYSTEM_ERROR}),
    }
    group(2, body, {0: scripts[how]})


def test_closing_after_a_separation_that_hangs_releases_everything(group):
    group.timeout = 0.3
    hung = threading.Event()

    def body(each):
        if each.rank == 1:
            return
        each.binding.shrink = lambda handle, excluded: hung.wait(MARGIN)
        engine = each.communicator._engine
        with pytest.raises(CommunicationError):
            engine.separate([1])
        for _ in range(2):
            each.communicator.close()
            assert not engine._watcher.is_alive()
        hung.set()

    group(2, body)


def test_a_library_without_shrink_says_what_to_do(group):
    def body(each):
        with pytest.raises(UsageError, match=r"2\.7\.8.*connect again with the next epoch"):
            each.communicator.shrink([1 - each.rank])
        with pytest.raises(UsageError, match="no mean"):
            each.communicator.all_reduce(each.data(8), "mean")
        each.communicator.barrier()

    group(2, body, abilities=fake.ABLE._replace(version=(2, 7, 8), shrink=False, mean=False))


def test_counts_are_cut_for_a_binding_that_takes_few(group):
    def body(each):
        everyone = [values(rank, 100, "float32") for rank in range(2)]
        x = each.communicator.all_reduce(each.data(100))
        assert np.array_equal(each.gpu.read(x), sum(everyone))
        rows = each.communicator.all_gather(each.data(100))
        assert np.array_equal(each.gpu.read(rows), np.stack(everyone))
        assert all(call[1] <= 30 for call in each.binding.calls if len(call) > 3)

    group(2, body, abilities=fake.ABLE._replace(most_elements=30))


def test_a_binding_that_blocks_is_given_up_at_the_deadline(group):
    def body(each):
        raise AssertionError("it opened")

    library = group.library
    abilities = fake.ABLE._replace(blocking=True)
    released = threading.Event()

    class Blocking(fake.FakeBinding):
        def init(self, *arguments):
            released.wait(MARGIN)
            return super().init(*arguments)

    group.timeout = 0.1
    library.binding = lambda script=None, able=None: Blocking(library, Script(), abilities)
    try:
        with pytest.raises(DeadlineExceeded, match="the ranks' communicator has not ended"):
            group(1, body)
    finally:
        released.set()


class Table:
    """A rendezvous of threads, with a barrier for a table."""

    def __init__(self, world_size):
        self._barrier = threading.Barrier(world_size)
        self._tables = [None] * world_size

    def seat(self, rank):
        table = self

        class Seat:
            def exchange(self, mine):
                table._tables[rank] = mine
                table._barrier.wait(MARGIN)
                return table._tables

        return Seat()


def met(ranks, *, gpus=("a", "b"), versions=((2, 28, 3), (2, 28, 3)), epochs=(4, 4)):
    library, table = fake.FakeNccl(), Table(2)

    def member(rank):
        config = GroupConfig(rank, 2, token=bytes(16), epoch=epochs[rank], timeout=5.0)
        binding = library.binding(abilities=fake.ABLE._replace(version=versions[rank]))
        with contextlib.closing(fake.FakeGpu(gpus[rank])) as gpu:
            communicator = meet(config, table.seat(rank), binding, gpu)
            with contextlib.closing(communicator):
                x = communicator.all_reduce(gpu.array(np.ones(3)))
                return communicator.epoch, list(gpu.read(x))

    return ranks.threads(2, member)


def test_the_ranks_meet_and_open_a_communicator_of_their_epoch(ranks):
    assert met(ranks) == [(4, [2.0, 2.0, 2.0])] * 2


def test_what_keeps_the_ranks_from_a_communicator_is_said_first(ranks):
    with pytest.raises(UsageError, match=r"ranks 0 and 1 have the same GPU \(a\)"):
        met(ranks, gpus=("a", "a"))
    with pytest.raises(UsageError, match=r"versions of NCCL: rank 0 2\.28\.3, rank 1 2\.27\.0"):
        met(ranks, versions=((2, 28, 3), (2, 27, 0)))
    with pytest.raises(RendezvousError, match="different epochs: rank 0 4, rank 1 5"):
        met(ranks, epochs=(4, 5))
