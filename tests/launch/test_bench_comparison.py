"""The order of measurements, how many iterations are chosen, and what counts as wrong."""

from typing import Any, cast

import numpy as np
import pytest

from holdfast.errors import ProtocolError
from holdfast.launch.bandwidth.comparison import (
    Entrant,
    alternate,
    compare_all_reduce,
    iterations_for,
    rotated,
    run,
)
from holdfast.launch.bandwidth.controller import RankGroup
from holdfast.launch.bandwidth.ranks.rank import (
    AllReduce,
    Array,
    Channel,
    count_wrong,
    fill,
    measure,
)
from holdfast.launch.bandwidth.spec import AllReduceSpec


class FakeGroup:
    """Answers as two ranks would that need `seconds` per iteration; writes down who was asked."""

    def __init__(self, name, seconds, log, wrong=0):
        self.name, self.seconds, self.log, self.wrong = name, seconds, log, wrong

    def run(self, command):
        self.log.append((self.name, dict(command)))
        return [
            {"seconds": self.seconds / 2, "wrong": 0},
            {"seconds": self.seconds, "wrong": self.wrong},
        ]


def fake(name, seconds, log, wrong=0):
    return cast(RankGroup, FakeGroup(name, seconds, log, wrong))


def entrant(name, seconds, log):
    return Entrant(name, fake(name, seconds, log), {})


def test_the_order_rotates():
    assert rotated("abc", 0) == ["a", "b", "c"]
    assert rotated("abc", 1) == ["b", "c", "a"]
    assert rotated("abc", 5) == ["c", "a", "b"]


def test_each_measures_once_per_round_in_a_rotating_order():
    log: list[Any] = []
    entrants = [entrant(name, 0.01, log) for name in "abc"]
    measured = alternate(entrants, rounds=3, iters=5, warmup=1)
    assert [name for name, _ in log] == [*"abc", *"bca", *"cab"]
    assert [len(rounds) for rounds in measured] == [3, 3, 3]
    assert measured[0][0].seconds == 0.01  # the slowest rank's


def test_without_a_count_fast_and_slow_take_equally_long():
    log: list[Any] = []
    entrants = [entrant("fast", 0.001, log), entrant("slow", 0.02, log)]
    alternate(entrants, rounds=1, seconds=0.2)
    assert [(name, command["iters"]) for name, command in log[-2:]] == [("fast", 200), ("slow", 10)]
    assert [command["warmup"] for _, command in log[-2:]] == [20, 2]


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 3), (0.01, 20), (1e-9, 20_000)])
def test_the_number_of_iterations_has_bounds(seconds, count):
    assert iterations_for(entrant("any", seconds, []), 0.2) == count


def test_an_answer_without_a_time_is_refused():
    class Silent:
        name = "silent"

        def run(self, command):
            return [{"seconds": "soon", "wrong": 0}]

    broken = Entrant("silent", cast(RankGroup, Silent()), {})
    with pytest.raises(ProtocolError, match=r"silent.*'seconds'"):
        run(broken, iters=1, warmup=0, check=False)


def test_all_sizes_and_forms_become_results():
    log: list[Any] = []
    seen: list[Any] = []
    results = compare_all_reduce(
        [
            (fake("holdfast-shm", 0.001, log), (False, True)),
            (fake("gloo", 0.002, log, wrong=1), (True,)),
        ],
        AllReduceSpec(sizes=(8, 16), rounds=2, iters=1),
        lambda of_size: seen.append(len(of_size)),
    )
    assert seen == [2, 2]
    assert [(result.library, result.size) for result in results] == [
        *(("holdfast-shm", 8), ("gloo", 8), ("holdfast-shm", 16), ("gloo", 16))
    ]
    assert results[0].out_of_place is not None
    assert results[1].out_of_place is None
    assert results[1].wrong == 2  # one in each round
    assert {(command["size"], command["in_place"]) for _, command in log} == {
        *((8, False), (8, True), (16, False), (16, True))
    }


def inputs(world_size: int, count: int) -> list[Array]:
    arrays = [np.empty(count, np.float32) for _ in range(world_size)]
    for rank, array in enumerate(arrays):
        fill(array, rank)
    return arrays


def exact_sum(world_size: int, count: int) -> Array:
    total: Array = np.sum(np.stack(inputs(world_size, count)), axis=0, dtype=np.float32)
    return total


# Below, at and above the size of the repeated pattern.
@pytest.mark.parametrize("count", [1, 250, 251 * 1024, 300_000])
@pytest.mark.parametrize("world_size", [2, 3, 256])
def test_an_exact_sum_has_no_wrong_element(world_size, count):
    if world_size == 256 and count > 1000:
        count //= 100
    total = exact_sum(world_size, count)
    assert count_wrong(total, world_size) == 0


def test_wrong_elements_are_counted():
    total = exact_sum(2, 1000)
    total[7] += 1
    total[8] = np.nan
    assert count_wrong(total, 2) == 2


def test_a_rank_added_twice_is_seen():
    first, second, third = inputs(3, 1000)
    assert count_wrong(first + second + second, 3) > 900
    assert count_wrong(first + first + third, 3) > 900


def test_a_misplaced_chunk_is_seen():
    total = exact_sum(2, 4096)
    total[1024:2048] = total[2048:3072].copy()
    assert count_wrong(total, 2) == 1024


class PairOfOne:
    """A group in one process: the other rank's part is made up here, and can be left out."""

    rank = 0
    world_size = 2
    version = "1"

    def __init__(self, broken=False):
        self.broken = broken
        self.sums = 0

    def operation(self, count, in_place):
        source = np.zeros(count, np.float32)
        result = source if in_place else np.zeros(count, np.float32)
        other = np.empty(count, np.float32)
        fill(other, 0 if self.broken else 1)

        def add():
            self.sums += 1
            np.add(source, other, out=result)

        return source, result, add

    def barrier(self):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("in_place", [False, True])
def test_the_loop_times_and_checks(in_place):
    command = {"size": 4000, "in_place": in_place, "iters": 5, "warmup": 2, "check": True}
    group = PairOfOne()
    answer = measure(AllReduce(group, cast(Channel, None)), command)
    assert answer["wrong"] == 0
    assert answer["seconds"] > 0
    assert group.sums == 2 + 5 + 1
    wrong = measure(AllReduce(PairOfOne(broken=True), cast(Channel, None)), command)["wrong"]
    assert wrong == 1000
