"""The order of measurements, and how many iterations are chosen."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.errors import ProtocolError
from holdfast.launch.bandwidth.comparison import (
    Entrant,
    alternate,
    compare,
    iterations_for,
    rotated,
    run,
)
from holdfast.launch.bandwidth.controller import RankGroup
from holdfast.launch.bandwidth.libraries import Library
from holdfast.launch.bandwidth.processes import Program
from holdfast.launch.bandwidth.spec import CollectiveSpec


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


def library(name, forms, checkable=True):
    program = Program(name, Path(sys.executable), "collective", Path("program.py"))
    return Library(name, program, forms, checkable)


def test_all_sizes_and_forms_become_results():
    log: list[Any] = []
    seen: list[Any] = []
    results = compare(
        [
            (fake("holdfast-shm", 0.001, log), library("holdfast-shm", (False, True))),
            (fake("gloo", 0.002, log, wrong=1), library("gloo", (True,))),
        ],
        CollectiveSpec("all-reduce", sizes=(8, 16), rounds=2, iters=1),
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
    assert {command["collective"] for _, command in log} == {"all-reduce"}


def test_what_has_no_result_is_not_checked():
    log: list[Any] = []
    spec = CollectiveSpec("broadcast", sizes=(8,), rounds=1, iters=1)
    raw = library("raw", (False,), checkable=False)
    results = compare([(fake("raw", 1e-9, log), raw)], spec, lambda of_size: None)
    assert [command["check"] for _, command in log] == [False]
    assert results[0].main.busbw == pytest.approx(8.0)
