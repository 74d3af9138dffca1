"""The bandwidth between all pairs of ranks, so that a slow link is seen at a glance."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.collectives import Communicator, connect
from holdfast.errors import UsageError
from holdfast.launch.bandwidth.spec import check_files, check_size
from holdfast.launch.bandwidth.together import Seat, tell

SLOW = 0.5
"""A link is called slow below this part of the median of all."""
_SHOWN = 16  # ranks whose figures fit on a terminal
_TRIAL = 1 << 20
_PAIR_SECONDS = 0.1
_LARGEST = 64 << 20

Pair = tuple[int, int]


@dataclass(frozen=True)
class MatrixSpec:
    """What `bench matrix` is to measure; `size` 0 takes what moves in a tenth of a second.

    With `parallel`, pairs that share no rank are measured at the same time. For `rails` and
    `interfaces` see `LinkSpec`.
    """

    size: int = 0
    rounds: int = 3
    parallel: bool = False
    rails: int = 0
    interfaces: tuple[str, ...] = ()
    json_file: Path | None = None
    plot_file: Path | None = None

    def __post_init__(self) -> None:
        check_size(self.size, self.rounds)
        check_files(self.json_file, self.plot_file)


@dataclass(frozen=True)
class Matrix:
    """`rates[a][b]` are the GB/s from rank a to rank b, the median of `rounds`; 0 for a = b."""

    rates: tuple[tuple[float, ...], ...]
    rounds: int
    parallel: bool

    @property
    def median(self) -> float:
        """GB/s of the link in the middle."""
        return statistics.median(rate for _, rate in self._links())

    def slow(self) -> list[tuple[Pair, float]]:
        """Return the links (from, to) below half of the median with their GB/s, slowest first."""
        limit = SLOW * self.median
        found = [(pair, rate) for pair, rate in self._links() if rate < limit]
        return sorted(found, key=lambda each: each[1])

    def _links(self) -> list[tuple[Pair, float]]:
        return [
            ((a, b), rate)
            for a, row in enumerate(self.rates)
            for b, rate in enumerate(row)
            if a != b
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {
            "rates": [list(row) for row in self.rates],
            "rounds": self.rounds,
            "parallel": self.parallel,
            "median": self.median,
            "slow": [{"from": a, "to": b, "rate": rate} for (a, b), rate in self.slow()],
        }


def turns(ranks: int, *, parallel: bool) -> list[list[Pair]]:
    """Return which pairs are measured together, turn by turn; each pair comes once.

    If `parallel`, as many as share no rank, as in a tournament in which everybody plays everybody
    (the circle method): one stays, the others move on by one place.
    """
    if not parallel:
        return [[(a, b)] for a in range(ranks) for b in range(a + 1, ranks)]
    seats: list[int | None] = [*range(ranks), *([None] if ranks % 2 else [])]
    found = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found


def measure(seat: Seat, spec: MatrixSpec, say: Callable[[str], None]) -> Matrix | None:
    """Measure all pairs of the ranks that call this; return the figures at rank 0."""
    if seat.base.world_size < 2:
        raise UsageError("a matrix of links takes 2 ranks or more: give --ranks")
    config = seat.over_tcp(spec.interfaces, spec.rails)
    with contextlib.closing(connect(config)) as communicator:
        ranks = communicator.world_size
        array = np.ones((spec.size or _LARGEST) // 4, np.float32)
        rounds: list[dict[Pair, float]] = []
        for number in range(spec.rounds):
            seen: dict[Pair, float] = {}
            for pairs in turns(ranks, parallel=spec.parallel):
                communicator.barrier()
                for pair in pairs:
                    if seat.rank in pair:
                        seen |= _both_ways(communicator, pair, array, spec.size)
            # Each rank knows what it has sent.
            mine = {str(to): rate for (_, to), rate in seen.items()}
            told = tell(communicator, mine)
            rounds.append(
                {(a, int(b)): rate for a, row in enumerate(told) for b, rate in row.items()}
            )
            if seat.rank == 0:
                say(f"round {number + 1} of {spec.rounds}: slowest {min(rounds[-1].values()):.3f}")
        communicator.barrier()
    if seat.rank:
        return None
    rates = [
        tuple(
            statistics.median(each[a, b] for each in rounds) if a != b else 0.0
            for b in range(ranks)
        )
        for a in range(ranks)
    ]
    return Matrix(tuple(rates), spec.rounds, spec.parallel)


def _both_ways(
    communicator: Communicator, pair: Pair, array: np.ndarray, size: int
) -> dict[Pair, float]:
    """Measure from the lower to the higher rank, then back; return what this rank sent, GB/s."""
    found: dict[Pair, float] = {}
    for source, target in (pair, pair[::-1]):
        trial = _move(communicator, source, target, array[: min(array.size, _TRIAL // 4)])
        count = array.size
        if not size:
            # Both know how long the trial took, because one tells the other.
            count = min(count, max(_TRIAL // 4, int(_TRIAL // 4 * _PAIR_SECONDS / trial)))
        seconds = _move(communicator, source, target, array[:count])
        if communicator.rank == source:
            found[source, target] = 4 * count / seconds / 1e9
    return found


def _move(communicator: Communicator, source: int, target: int, array: np.ndarray) -> float:
    """Send `array` from `source` to `target`; return, at both, the seconds until it is there."""
    seconds = np.zeros(1, np.float64)
    if communicator.rank == source:
        begin = time.perf_counter()
        communicator.send(array, target)
        communicator.recv(seconds, target)  # it has come
        seconds[0] = time.perf_counter() - begin
        communicator.send(seconds, target)
    else:
        communicator.recv(array, source)
        communicator.send(seconds, source)
        communicator.recv(seconds, source)
    return float(seconds[0])


def table(matrix: Matrix) -> str:
    """Return the figures as text: a row for each sending rank; `!` marks what is slow."""
    ranks = len(matrix.rates)
    how = "disjoint pairs at the same time" if matrix.parallel else "one pair after the other"
    lines = [
        f"# GB/s (10^9 bytes/s) from each of {ranks} ranks (rows) to each, medians of "
        f"{matrix.rounds} rounds, {how}"
    ]
    slow = {pair for pair, _ in matrix.slow()}
    if ranks <= _SHOWN:
        lines.append("#" + f"{'to':>6}" + "".join(f"{rank:>8}" for rank in range(ranks)))
        for a, row in enumerate(matrix.rates):
            cells = [_cell(rate, (a, b) in slow) if a != b else "-" for b, rate in enumerate(row)]
            lines.append(f" {a:>6}" + "".join(f"{cell:>8}" for cell in cells))
    lines.append(f"# median {matrix.median:.3f}; " + _slow_line(matrix.slow()))
    return "\n".join(lines)


def _cell(rate: float, slow: bool) -> str:
    return f"{'!' if slow else ''}{rate:.3f}"


def _slow_line(slow: Sequence[tuple[Pair, float]]) -> str:
    if not slow:
        return f"no link is below {SLOW} of it"
    named = ", ".join(f"{a} to {b} {rate:.3f}" for (a, b), rate in slow[:10])
    more = f" and {len(slow) - 10} more" if len(slow) > 10 else ""
    return f"below {SLOW} of it: {named}{more}"
