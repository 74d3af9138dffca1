"""The order of a comparison: each entrant measures once per round, alone; the order rotates.

So a machine that slows down for a while slows all of them, and nobody always measures first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from holdfast.errors import ProtocolError
from holdfast.launch.bandwidth.controller import Message, RankGroup
from holdfast.launch.bandwidth.figures import Result, Series
from holdfast.launch.bandwidth.libraries import Library
from holdfast.launch.bandwidth.spec import CollectiveSpec

ROUND_SECONDS = 0.2
FEWEST_ITERATIONS = 3
MOST_ITERATIONS = 20_000

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Entrant:
    """Who measures what: the ranks of a library, and what one iteration is.

    What is not `checkable` has no result, and none that is wrong.
    """

    name: str
    group: RankGroup
    work: Mapping[str, object]
    checkable: bool = True


@dataclass(frozen=True)
class Round:
    """What was measured in a round: the slowest rank's seconds per iteration, wrong elements."""

    seconds: float
    wrong: int


def rotated(items: Sequence[_Item], by: int) -> list[_Item]:
    """Return `items` beginning with the one at `by`, round and round."""
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def run(entrant: Entrant, *, iters: int, warmup: int, check: bool) -> Round:
    """Let an entrant measure once."""
    checked = check and entrant.checkable
    command = {**entrant.work, "iters": iters, "warmup": warmup, "check": checked}
    answers = entrant.group.run(command)
    return Round(
        seconds=max(_number(answer, "seconds", entrant) for answer in answers),
        wrong=sum(int(_number(answer, "wrong", entrant)) for answer in answers),
    )


def _number(answer: Message, key: str, entrant: Entrant) -> float:
    value = answer.get(key)
    if not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ProtocolError(f"{entrant.name}: a number {key!r} was expected in the answer {answer}")
    return value


def iterations_for(entrant: Entrant, seconds: float) -> int:
    """Return how many iterations of `entrant` take about `seconds`, by trying a few."""
    trial = 1
    while True:
        took = max(1e-9, run(entrant, iters=trial, warmup=1, check=False).seconds)
        if trial * took >= seconds / 10 or trial >= MOST_ITERATIONS:
            return min(MOST_ITERATIONS, max(FEWEST_ITERATIONS, round(seconds / took)))
        # Not straight to the end: the first iterations are slower than those that count.
        trial = min(MOST_ITERATIONS, 8 * trial, math.ceil(seconds / 5 / took))


def alternate(
    entrants: Sequence[Entrant],
    *,
    rounds: int,
    seconds: float = ROUND_SECONDS,
    iters: int = 0,
    warmup: int | None = None,
    check: bool = False,
) -> list[list[Round]]:
    """Return the rounds of each entrant, in the order of `entrants`.

    With `iters` 0 each entrant does as many iterations as take it about `seconds`: then fast and
    slow libraries are watched equally long. With `warmup` None a tenth of the iterations, at least
    2, come before, untimed.
    """
    counts = [iters or iterations_for(entrant, seconds) for entrant in entrants]
    measured: list[list[Round]] = [[] for _ in entrants]
    for number in range(rounds):
        for index in rotated(range(len(entrants)), number):
            untimed = max(2, counts[index] // 10) if warmup is None else warmup
            measured[index].append(
                run(entrants[index], iters=counts[index], warmup=untimed, check=check)
            )
    return measured


def compare(
    groups: Sequence[tuple[RankGroup, Library]],
    spec: CollectiveSpec,
    watch: Callable[[Sequence[Result]], None],
) -> list[Result]:
    """Measure all `groups`, each in its library's forms, at all sizes of `spec`.

    `watch` is given the results of each size as soon as they are there.
    """
    results: list[Result] = []
    for size in spec.sizes:
        keys = [(lib.name, in_place) for _, lib in groups for in_place in lib.forms]
        entrants = [
            Entrant(
                library.name,
                group,
                {"collective": spec.collective, "size": size, "in_place": in_place},
                library.checkable,
            )
            for group, library in groups
            for in_place in library.forms
        ]
        measured = alternate(
            entrants,
            rounds=spec.rounds,
            iters=spec.iters,
            warmup=spec.warmup,
            check=spec.check,
        )
        series = {
            key: Series(
                size=size,
                ranks=spec.ranks,
                factor=spec.what.factor(spec.ranks),
                seconds=tuple(each.seconds for each in rounds),
                wrong=sum(each.wrong for each in rounds),
            )
            for key, rounds in zip(keys, measured, strict=True)
        }
        of_size = [
            Result(lib.name, series.get((lib.name, False)), series.get((lib.name, True)))
            for _, lib in groups
        ]
        watch(of_size)
        results += of_size
    return results
