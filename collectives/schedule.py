"""A collective is a schedule: who sends which chunk to whom in which round, and nothing else.

A schedule does no I/O. The same one is proved (`proof.py`), drawn, simulated, and executed by any
transport (`scheduled.py`). A rank's part is a list of steps, at most one send and one receive a
round; both sides of a transfer are written down, so that the proof can find them at odds.

Rule: the order in which contributions are added is part of the schedule. A received chunk is the
left operand: `mine = received + mine`.

Sources: ring all-reduce after Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
clusters of workstations" (2009); binomial broadcast after Thakur, Rabenseifner and Gropp,
"Optimization of collective communication operations in MPICH" (2005).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

CHUNK_ALIGNMENT = 16
"""Chunks begin at multiples of this many elements: a 64-byte cache line of float32."""


class Send(NamedTuple):
    """Send `chunk`, as it stands at the start of the round, to `peer`."""

    peer: int
    chunk: int


class Receive(NamedTuple):
    """Receive `chunk` from `peer`; add it to what is there if `reduce`, else replace that."""

    peer: int
    chunk: int
    reduce: bool


class Step(NamedTuple):
    """What one rank does in one round."""

    round: int
    send: Send | None = None
    receive: Receive | None = None


@dataclass(frozen=True)
class Schedule:
    """An algorithm for `world_size` ranks over `chunks` chunks, in `rounds` rounds.

    `program(rank, round)` is pure and gives the step of one rank; `steps` walks it, so that a rank
    of ten thousand holds only its own part.
    """

    name: str
    world_size: int
    chunks: int
    rounds: int
    program: Callable[[int, int], Step]

    def steps(self, rank: int) -> Iterator[Step]:
        """Yield the steps in which `rank` sends or receives, in order."""
        for number in range(self.rounds):
            step = self.program(rank, number)
            if step.send or step.receive:
                yield step


@cache
def ring_reduce_scatter(world_size: int) -> Schedule:
    """Each rank ends with the whole sum of one chunk: rank r with chunk r, after n - 1 rounds."""

    def program(rank: int, number: int) -> Step:
        return Step(
            number,
            Send((rank + 1) % world_size, (rank - number - 1) % world_size),
            Receive((rank - 1) % world_size, (rank - number - 2) % world_size, reduce=True),
        )

    return Schedule("ring-reduce-scatter", world_size, world_size, world_size - 1, program)


@cache
def ring_all_gather(world_size: int) -> Schedule:
    """Rank r begins with chunk r; every rank ends with all chunks, after n - 1 rounds."""

    def program(rank: int, number: int) -> Step:
        return Step(
            number,
            Send((rank + 1) % world_size, (rank - number) % world_size),
            Receive((rank - 1) % world_size, (rank - number - 1) % world_size, reduce=False),
        )

    return Schedule("ring-all-gather", world_size, world_size, world_size - 1, program)


@cache
def ring_all_reduce(world_size: int) -> Schedule:
    """Every rank ends with the whole sum: a ring reduce-scatter, then a ring all-gather."""
    first, second = ring_reduce_scatter(world_size), ring_all_gather(world_size)

    def program(rank: int, number: int) -> Step:
        if number < first.rounds:
            return first.program(rank, number)
        return second.program(rank, number - first.rounds)._replace(round=number)

    rounds = first.rounds + second.rounds
    return Schedule("ring-all-reduce", world_size, world_size, rounds, program)


@cache
def binomial_broadcast(world_size: int, root: int = 0) -> Schedule:
    """Every rank ends with `root`'s one chunk after ceil(log2 n) rounds."""
    rounds = (world_size - 1).bit_length()

    def program(rank: int, number: int) -> Step:
        place = (rank - root) % world_size  # the root stands at place 0
        reach = 1 << number  # places below it have the chunk already
        if place < reach and place + reach < world_size:
            return Step(number, send=Send((rank + reach) % world_size, 0))
        if reach <= place < 2 * reach:
            return Step(number, receive=Receive((rank - reach) % world_size, 0, reduce=False))
        return Step(number)

    return Schedule("binomial-broadcast", world_size, 1, rounds, program)


def ring_reduction_order(world_size: int, chunk: int) -> tuple[int, ...]:
    """Return the ranks in the order in which a ring adds up `chunk`: c + 1, c + 2, …, c.

    A transport that reads its peers in place (shared memory) adds in this order too, so that the
    bits of a sum don't depend on the transport.
    """
    return tuple((chunk + 1 + place) % world_size for place in range(world_size))


def chunk_bounds(count: int, chunks: int) -> list[int]:
    """Split `count` elements into `chunks` even parts; return the chunks + 1 boundaries.

    Boundaries are multiples of `CHUNK_ALIGNMENT` elements, but for the last; late chunks of a
    small array may be empty.
    """
    lines = -(-count // CHUNK_ALIGNMENT)
    return [min(count, lines * chunk // chunks * CHUNK_ALIGNMENT) for chunk in range(chunks)] + [
        count
    ]
