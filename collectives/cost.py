"""What an all-reduce takes by each algorithm, and which is the fastest: an alpha-beta-gamma model.

Rule: the choice is a function of what all ranks agree on (the model, the world size, the bytes),
so that every rank chooses the same.

Sources: the model after Hockney, "The communication challenge for MPP" (1994), with a term for
the additions as in Thakur, Rabenseifner and Gropp, "Optimization of collective communication
operations in MPICH" (2005).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from holdfast.errors import UsageError

TOGETHER = 0.25
"""What a message costs, in messages, that leaves or comes in the same round as another one."""

PIECE_BYTES = 128 << 10
"""A tree's pieces have at least this many bytes, so that their latency is hidden by them."""

MOST_PIECES = 32
"""A tree's pieces are no more than this: their number hardly shortens the pipe's filling then."""

EXCHANGE_BYTES = 256 << 10
"""An exchange brings every rank no more than this many bytes, which must be held until all came.

Two ranks add what comes segment by segment, as it comes.
"""

SMALL_BYTES = 32
"""An array of so few bytes is a single chunk for a ring (`schedule.CHUNK_ALIGNMENT`).

But for elements of one byte, which are integers: these add up alike in any order.
"""

PREFERENCE = 0.9
"""A ring is given up only for what takes less than this part of its time.

Each of its ranks sends to one other and hears from one, which no network's shape slows down; the
model knows nothing of several streams that meet at a port.
"""

ALGORITHMS = (
    "ring",
    "exchange",
    "direct",
    "halving-doubling",
    "double-tree",
    "bidirectional-ring",
    "binary-tree",
)
"""The all-reduces that any number of ranks can take; of equally fast ones, the first is chosen."""


class Terms(NamedTuple):
    """What one rank does in an all-reduce; the rank and direction with the most counts."""

    messages: float
    """How many messages follow each other; see `TOGETHER`."""
    wire: float
    """How many bytes it sends or receives."""
    combined: float
    """How many bytes it adds to others."""


def pieces(nbytes: int) -> int:
    """Return in how many pieces a tree takes `nbytes` bytes, so that all its edges are busy."""
    return max(1, min(MOST_PIECES, nbytes // PIECE_BYTES))


def exchange_chunks(world_size: int, nbytes: int) -> int:
    """Return in how many chunks an exchange takes `nbytes` bytes, each added in its own order.

    Two ranks take one: either order of two gives the same sum. But not the same bits of a product
    of complex numbers, nor which of two zeros is the least or the largest, nor which of two that
    are not numbers: these are a ring's only with a ring's chunks.
    """
    return 1 if world_size == 2 or nbytes <= SMALL_BYTES else world_size


def local_ranks(algorithm: str, world_size: int) -> int | None:
    """Return how many ranks a host has by `two-level:RANKS`; None for another algorithm.

    Raises UsageError for a number that doesn't divide the world size.
    """
    name, colon, number = algorithm.partition(":")
    if name != "two-level":
        return None
    if not colon or not number.isdecimal() or int(number) < 1 or world_size % int(number):
        raise UsageError(
            f"two-level:RANKS was expected, RANKS on every host and a divisor of the {world_size} "
            f"ranks; found {algorithm!r}"
        )
    return int(number)


def terms(algorithm: str, world_size: int, nbytes: int) -> Terms:
    """Return what an all-reduce of `nbytes` bytes takes; exact but for trees, which are bounded.

    Raises UsageError for an algorithm that there isn't.
    """
    n, size = world_size, float(nbytes)
    if (local := local_ranks(algorithm, n)) is not None:
        inner, outer = _ring(local, size), _ring(n // local, size / local)
        return Terms(*(a + b for a, b in zip(inner, outer, strict=True)))
    if algorithm not in ALGORITHMS:
        raise UsageError(
            f"an algorithm of {', '.join(ALGORITHMS)}, two-level:RANKS was expected, found "
            f"{algorithm!r}"
        )
    if n == 1:
        return Terms(0, 0, 0)
    if algorithm == "exchange":
        return Terms(
            _together((n - 1) * exchange_chunks(n, nbytes)), (n - 1) * size, (n - 1) * size
        )
    ring = _ring(n, size)
    if algorithm == "direct":
        return ring._replace(messages=2 * _together(n - 1))
    if algorithm == "bidirectional-ring":
        return ring._replace(messages=ring.messages * _together(2))
    if algorithm == "halving-doubling":
        rounds = n.bit_length() - 1
        folded = n != 1 << rounds
        kept = 1 - 1 / (1 << rounds)
        return Terms(2 * (rounds + folded), 2 * (kept + folded) * size, (kept + folded) * size)
    if algorithm == "binary-tree":
        return _tree(n, size, pieces(nbytes), 1)
    if algorithm == "double-tree":
        return _tree(n, size, pieces(nbytes // 2), 2)
    return ring


def _together(messages: int) -> float:
    """Return what so many messages of one round cost, in messages."""
    return 1 + TOGETHER * (messages - 1) if messages else 0


def _ring(n: int, size: float) -> Terms:
    return Terms(2 * (n - 1), 2 * (n - 1) / n * size, (n - 1) / n * size)


def _tree(n: int, size: float, count: int, trees: int) -> Terms:
    """Return the terms of `trees` complementary trees, each with its share in `count` pieces."""
    depth = (n - 1).bit_length()
    children = min(2, n - 1)
    busy = children + 1 if count > 1 and n > 2 else children  # up and down overlap by pieces only
    at_once = busy + trees - 1  # in its other tree a rank is a leaf, which has one edge
    rounds = 2 * depth + count - 1
    piece = size / trees / count
    return Terms(rounds * _together(at_once), rounds * at_once * piece, children * size)


@dataclass(frozen=True)
class CostModel:
    """A network and its hosts in three numbers, each 0 or more; the defaults fit 10 Gbit/s.

    `alpha` are the seconds of a message, `beta` those of a byte on the wire (per rank and
    direction), `gamma` those of combining a byte with another.
    """

    alpha: float = 4e-5
    beta: float = 0.8e-9
    gamma: float = 0.15e-9

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"a cost model's {name} is seconds, found {value!r}")
            if not math.isfinite(value) or value < 0:
                raise UsageError(f"a cost model's {name} is 0 or more seconds, found {value}")

    def seconds(self, algorithm: str, world_size: int, nbytes: int) -> float:
        """Return how long an all-reduce of `nbytes` bytes should take."""
        messages, wire, combined = terms(algorithm, world_size, nbytes)
        return self.alpha * messages + self.beta * wire + self.gamma * combined

    def choose(self, world_size: int, nbytes: int, algorithms: Sequence[str] = ALGORITHMS) -> str:
        """Return the fastest of `algorithms` for an all-reduce of `nbytes` bytes.

        The ring, where it is about as fast as any (`PREFERENCE`).
        """
        possible = [
            each
            for each in algorithms
            if each != "exchange" or world_size == 2 or (world_size - 1) * nbytes <= EXCHANGE_BYTES
        ]
        if not possible:
            raise UsageError(f"no algorithm of {list(algorithms)} can take {nbytes} bytes")
        seconds = {each: self.seconds(each, world_size, nbytes) for each in possible}
        best = min(possible, key=seconds.__getitem__)
        if world_size == 2:
            return best  # all of them use the one edge that there is
        return "ring" if PREFERENCE * seconds.get("ring", math.inf) <= seconds[best] else best

    def choose_broadcast(self, world_size: int, nbytes: int) -> str:
        """Return the faster of `binomial` and `chain` for a broadcast of `nbytes` bytes."""
        doublings = (world_size - 1).bit_length()
        binomial = doublings * (self.alpha + self.beta * nbytes)
        chain = (world_size - 1) * self.alpha + self.beta * nbytes
        return "chain" if chain < binomial else "binomial"

    @classmethod
    def fit(cls, samples: Iterable[tuple[str, int, int, float]]) -> "CostModel":
        """Return the model nearest to what all-reduces took.

        A sample is (algorithm, world size, bytes, seconds). By least squares of the relative
        errors, with no number below 0. Raises UsageError for fewer than 3 samples, or where one
        cannot be.
        """
        rows = []
        for algorithm, world_size, nbytes, seconds in samples:
            if world_size < 2 or nbytes < 0 or not (seconds > 0 and math.isfinite(seconds)):
                raise UsageError(
                    "samples of at least 2 ranks, 0 bytes and more than 0 seconds were expected, "
                    f"found {algorithm}, {world_size} ranks, {nbytes} bytes, {seconds} seconds"
                )
            rows.append([each / seconds for each in terms(algorithm, world_size, nbytes)])
        if len(rows) < 3:
            raise UsageError(f"a model of 3 numbers takes at least 3 samples, found {len(rows)}")
        return cls(*_non_negative_least_squares(np.array(rows, np.float64)))

    def to_json(self) -> str:
        """Return it as a JSON object, which `from_json` reads."""
        numbers = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}
        return json.dumps(numbers, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CostModel":
        """Return the model that `to_json` wrote; raise UsageError where `text` is none."""
        try:
            numbers = json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"a cost model in JSON was expected: {error}; `holdfast bench tune` writes one"
            ) from error
        if not isinstance(numbers, dict) or set(numbers) != {"alpha", "beta", "gamma"}:
            found = sorted(numbers) if isinstance(numbers, dict) else type(numbers).__name__
            raise UsageError(
                "a cost model's alpha, beta and gamma were expected and nothing else, found "
                f"{found}; `holdfast bench tune` writes one"
            )
        return cls(**numbers)


def _non_negative_least_squares(rows: np.ndarray) -> list[float]:
    """Return the three numbers of 0 or more by which `rows` come nearest to 1.

    The best solution is the plain least squares over those of its numbers that aren't 0. Only sets
    with beta are tried, and only where `rows` tell their numbers apart: rings alone don't tell a
    byte on the wire from one that is added, and a wire that costs nothing would misjudge whatever
    adds nothing.
    """
    best, least = [0.0, 0.0, 0.0], math.inf
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0
    for columns in ((1,), (0, 1), (1, 2), (0, 1, 2)):
        part = (rows / scale)[:, columns]
        found, _, rank, _ = np.linalg.lstsq(part, np.ones(len(rows)), rcond=1e-9)
        error = float(np.square(part @ found - 1).sum())
        if rank == len(columns) and (found >= 0).all() and error < least:
            least, best = error, [0.0, 0.0, 0.0]
            for column, value in zip(columns, found, strict=True):
                best[column] = float(value / scale[column])
    return best
