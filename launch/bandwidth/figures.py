"""From times to figures: bandwidths as nccl-tests defines them, medians, ratios and their mean."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def algbw(size: int, seconds: float) -> float:
    """Return bytes over time in GB/s (10^9)."""
    return size / seconds / 1e9


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive values: the mean for ratios."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


@dataclass(frozen=True)
class Series:
    """One library, size and form: seconds of a collective in each round, wrong elements of all.

    `factor` times algbw is the bus bandwidth, which can be compared with the hardware's speed
    whatever the number of ranks: an all-reduce, say, moves at least 2(n-1)/n of the array out of
    and into each rank (nccl-tests, doc/PERFORMANCE.md; `ranks/collectives.py`).
    """

    size: int
    ranks: int
    factor: float
    seconds: tuple[float, ...]
    wrong: int

    @property
    def median(self) -> float:
        """Seconds of one collective: the median over rounds."""
        return statistics.median(self.seconds)

    @property
    def algbw(self) -> float:
        """GB/s at the median."""
        return algbw(self.size, self.median)

    @property
    def busbw(self) -> float:
        """GB/s at the median."""
        return self.busbw_at(self.median)

    def busbw_at(self, seconds: float) -> float:
        """Return GB/s where one collective takes `seconds`."""
        return algbw(self.size, seconds) * self.factor

    def as_json(self) -> dict[str, object]:
        """Return the figures as the JSON file has them; `rounds` are microseconds, as `time_us`."""
        return {
            "time_us": self.median * 1e6,
            "algbw": self.algbw,
            "busbw": self.busbw,
            "wrong": self.wrong,
            "rounds": [seconds * 1e6 for seconds in self.seconds],
        }


@dataclass(frozen=True)
class Result:
    """One library at one size; a form that the library has not is None, but not both."""

    library: str
    out_of_place: Series | None
    in_place: Series | None

    @property
    def main(self) -> Series:
        """The form that is compared: out of place where the library has it."""
        series = self.out_of_place or self.in_place
        assert series is not None, "a result has at least one form"
        return series

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return self.main.size

    @property
    def wrong(self) -> int:
        """Wrong elements in both forms."""
        return sum(series.wrong for series in (self.out_of_place, self.in_place) if series)

    def as_json(self) -> dict[str, object]:
        """Return the entry of this library and size in the JSON file."""
        entry: dict[str, object] = {
            "library": self.library,
            "ranks": self.main.ranks,
            "size": self.size,
            **self.main.as_json(),
        }
        if self.out_of_place is not None and self.in_place is not None:
            entry["in_place"] = self.in_place.as_json()
        return entry


@dataclass(frozen=True)
class RatioRow:
    """Ours over each peer at one size, and over the fastest of them."""

    size: int
    over: dict[str, float]
    over_best: float


def libraries(results: Sequence[Result]) -> list[str]:
    """Return the libraries' names in the order in which they come."""
    return list(dict.fromkeys(result.library for result in results))


def average_busbw(results: Iterable[Result], library: str) -> float:
    """Return the mean bus bandwidth of `library` over sizes and forms, as nccl-tests does."""
    return statistics.fmean(
        series.busbw
        for result in results
        if result.library == library
        for series in (result.out_of_place, result.in_place)
        if series is not None
    )


def ratios(
    results: Iterable[Result], ours: str, peers: Sequence[str], *, in_place: bool = False
) -> list[RatioRow]:
    """Return ours over each of `peers`: ratios of the median times, a row per size.

    A library's out-of-place form is taken, or with `in_place` its in-place form, where it has both.
    """
    seconds: dict[int, dict[str, float]] = {}
    for result in results:
        series = (result.in_place if in_place else None) or result.main
        seconds.setdefault(result.size, {})[result.library] = series.median
    rows = []
    for size, of in sorted(seconds.items()):
        over = {peer: of[peer] / of[ours] for peer in peers}
        rows.append(RatioRow(size, over, min(over.values(), default=math.nan)))
    return rows
