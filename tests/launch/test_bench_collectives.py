"""What each collective gives and gets, beside a naive one; what is timed, watched and counted."""

import mmap
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES, ROOT, SUM, Piece
from holdfast.launch.bandwidth.ranks.rank import (
    MEASURES,
    Array,
    Channel,
    Collective,
    count_wrong,
    fill,
    measure,
    watch,
)


def what_ranks_have(world_size: int, count: int) -> list[Array]:
    arrays = [np.empty(count, np.float32) for _ in range(world_size)]
    for rank, array in enumerate(arrays):
        fill(array, Piece(0, count, rank), world_size)
    return arrays


def naive(name: str, inputs: list[Array]) -> list[Array | None]:
    """Return what each rank gets when rank r has `inputs[r]`, all as long as the whole array."""
    n = len(inputs)
    chunks = [array.reshape(n, -1) if array.size % n == 0 else None for array in inputs]
    total: Array = np.asarray(np.sum(inputs, axis=0, dtype=np.float32))

    def at_root(result: Array) -> list[Array | None]:
        return [result if rank == ROOT else None for rank in range(n)]

    def chunk(of: int, number: int) -> Array:
        rows = chunks[of]
        assert rows is not None
        return np.asarray(rows[number])

    every: dict[str, Any] = {
        "all-reduce": lambda: [total] * n,
        "reduce-scatter": lambda: list(total.reshape(n, -1)),
        "all-gather": lambda: [np.concatenate([chunk(r, 0) for r in range(n)])] * n,
        "broadcast": lambda: [inputs[ROOT]] * n,
        "reduce": lambda: at_root(total),
        "all-to-all": lambda: [
            np.concatenate([chunk(source, rank) for source in range(n)]) for rank in range(n)
        ],
        "gather": lambda: at_root(np.concatenate([chunk(r, 0) for r in range(n)])),
        "scatter": lambda: [chunk(ROOT, rank) for rank in range(n)],
        "send-recv": lambda: [inputs[rank - 1] if rank % 2 else None for rank in range(n)],
        "barrier": lambda: [None] * n,
    }
    results: list[Array | None] = every[name]()
    return results


class OneRank:
    """A rank of a group that is played by the test: what it gets is made up beforehand."""

    version = "1"

    def __init__(self, rank, world_size, result):
        self.rank, self.world_size, self.result = rank, world_size, result
        self.asked: Any = None
        self.source: Any = None
        self.runs = 0

    def operation(self, asked):
        self.asked = asked
        self.source = np.zeros(asked.given, np.float32) if asked.given else None

        def run():
            self.runs += 1
            return self.result

        return self.source, None, run

    def barrier(self):
        pass

    def close(self):
        pass


def task(group):
    return Collective(group, cast(Channel, None))


def command(name, size, **rest):
    work = {"collective": name, "size": size, "in_place": False}
    return {**work, "iters": 5, "warmup": 2, "check": True, **rest}


@given(st.sampled_from(list(COLLECTIVES)), st.integers(2, 7), st.integers(1, 5))
def test_every_collective_gets_what_a_naive_one_does(name, world_size, chunks):
    size = COLLECTIVES[name].bytes_near(64 * world_size * chunks + 4, world_size)
    results = naive(name, what_ranks_have(world_size, size // 4))
    for rank, result in enumerate(results):
        group = OneRank(rank, world_size, result)
        assert measure(task(group), command(name, size))["wrong"] == 0
        assert group.runs == 2 + 5 + 1
        assert group.asked.got == (0 if result is None else result.size)
        if group.source is not None:  # what it gave is its own, from the beginning
            expected = np.empty_like(group.source)
            fill(expected, Piece(0, expected.size, rank), world_size)
            assert np.array_equal(group.source, expected)


@pytest.mark.parametrize("name", [name for name in COLLECTIVES if name != "barrier"])
def test_what_is_wrong_missing_or_too_much_is_counted(name):
    size = COLLECTIVES[name].bytes_near(4096, 2)
    for rank, result in enumerate(naive(name, what_ranks_have(2, size // 4))):
        if result is None:
            extra = task(OneRank(rank, 2, np.zeros(3, np.float32)))
            assert extra.check(command(name, size)) == 1
            continue
        broken = result.copy()
        broken.reshape(-1)[5] += 1
        assert task(OneRank(rank, 2, broken)).check(command(name, size)) == 1
        assert task(OneRank(rank, 2, None)).check(command(name, size)) == result.size


@pytest.mark.parametrize(
    ("name", "two", "four"),
    [("all-reduce", 1.0, 1.5), ("all-gather", 0.5, 0.75), ("broadcast", 1, 1), ("barrier", 0, 0)],
)
def test_factors_are_those_of_nccl_tests(name, two, four):
    assert COLLECTIVES[name].factor(2) == two
    assert COLLECTIVES[name].factor(4) == four


# Below, at and above the size of the repeated pattern.
@pytest.mark.parametrize("count", [1, 250, 251 * 1024, 300_000])
@pytest.mark.parametrize("world_size", [2, 3, 256])
def test_an_exact_sum_has_no_wrong_element(world_size, count):
    if world_size == 256 and count > 1000:
        count //= 100
    total = np.sum(what_ranks_have(world_size, count), axis=0, dtype=np.float32)
    assert count_wrong(total, Piece(0, count, SUM), world_size) == 0


def test_a_piece_from_the_middle_is_known():
    (array, _) = what_ranks_have(2, 600_000)
    assert count_wrong(array[300_001:], Piece(300_001, 299_999, 0), 2) == 0
    assert count_wrong(array[300_001:], Piece(300_000, 299_999, 0), 2) == 299_999


def test_a_rank_added_twice_is_seen():
    first, second, third = what_ranks_have(3, 1000)
    assert count_wrong(first + second + second, Piece(0, 1000, SUM), 3) > 900
    assert count_wrong(first + first + third, Piece(0, 1000, SUM), 3) > 900


def test_a_misplaced_chunk_is_seen():
    total = np.sum(what_ranks_have(2, 4096), axis=0, dtype=np.float32)
    total[1024:2048] = total[2048:3072].copy()
    assert count_wrong(total, Piece(0, 4096, SUM), 2) == 1024


def test_in_place_the_input_stays_zero_while_it_is_timed():
    group = OneRank(0, 2, np.sum(what_ranks_have(2, 16), axis=0, dtype=np.float32))
    task(group).prepare(command("all-reduce", 64, in_place=True))
    assert group.asked.in_place
    assert not group.source.any()


def test_what_is_watched_is_checked_each_time():
    right = np.sum(what_ranks_have(2, 16), axis=0, dtype=np.float32)
    answer = watch(task(OneRank(0, 2, right)), command("all-reduce", 64))
    assert answer["wrong"] == 0
    assert len(answer["ended"]) == 1 + 5
    assert answer["ended"] == sorted(answer["ended"])
    assert watch(task(OneRank(0, 2, right + 1)), command("all-reduce", 64))["wrong"] == 5 * 16


def test_memory_is_what_one_collective_takes_at_its_peak():
    taken = 64 << 20

    class Greedy(OneRank):
        def operation(self, asked):
            source, result, _ = super().operation(asked)

            def call():
                pages = np.frombuffer(mmap.mmap(-1, taken), np.int8)  # none that were freed before
                pages.fill(1)
                return pages[:1]

            return source, result, call

    growth = MEASURES["memory"](task(Greedy(0, 2, None)), command("all-reduce", 64))["growth"]
    assert taken <= growth + (1 << 20)
    assert growth < 2 * taken
