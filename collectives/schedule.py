"""A collective is a schedule: who sends which chunk to whom in which round, and nothing else.

A schedule does no I/O. The same one is proved (`schedules/proof.py`), drawn
(`schedules/picture.py`), simulated, and executed by any transport (`scheduled.py`). Both sides of a
transfer are written down, so that the proof can find them at odds. The schedules themselves are in
`schedules/`.

Rule: the order in which contributions are added is part of the schedule. What a rank receives of a
chunk in one round is added up from left to right, in the order in which it is written down, with
the rank's own (what it holds at the start of the round) behind those that come `before` it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

CHUNK_ALIGNMENT = 16
"""Chunks begin at multiples of this many elements: a 64-byte cache line of float32."""


class Send(NamedTuple):
    """Send `run` chunks from `chunk` on, as they stand at the start of the round, to `peer`."""

    peer: int
    chunk: int
    run: int = 1


class Receive(NamedTuple):
    """Receive `run` chunks from `chunk` on from `peer`; they take the place of what is there.

    Or are added to it if `reduce`: as a left operand of the rank's own, or as a right one if not
    `before`. `whole`: when this round is over, every rank's contribution is in.
    """

    peer: int
    chunk: int
    reduce: bool = False
    before: bool = True
    whole: bool = False
    run: int = 1


class Step(NamedTuple):
    """What one rank does in one round.

    Several messages to the same peer arrive in the order in which they are written down.
    """

    round: int
    sends: tuple[Send, ...] = ()
    receives: tuple[Receive, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """An algorithm for `world_size` ranks over `chunks` chunks, in `rounds` rounds.

    `program(rank, round)` is pure and gives the step of one rank; `steps` walks it, so that a rank
    of ten thousand holds only its own part.
    """

    algorithm: str
    collective: str
    world_size: int
    chunks: int
    rounds: int
    program: Callable[[int, int], Step]

    @property
    def name(self) -> str:
        """Algorithm and collective: `ring-all-reduce`."""
        return f"{self.algorithm}-{self.collective}"

    def steps(self, rank: int) -> Iterator[Step]:
        """Yield the steps in which `rank` sends or receives, in order."""
        for number in range(self.rounds):
            step = self.program(rank, number)
            if step.sends or step.receives:
                yield step


def in_turn(
    algorithm: str, collective: str, first: Schedule, second: Schedule, *more: Schedule
) -> Schedule:
    """Return the schedule that is these, of the same ranks and chunks, one after the other."""
    parts = (first, second, *more)
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + part.rounds)

    def program(rank: int, number: int) -> Step:
        for start, part in zip(starts, parts, strict=False):
            if number < start + part.rounds:
                return part.program(rank, number - start)._replace(round=number)
        raise IndexError(number)

    return Schedule(algorithm, collective, first.world_size, first.chunks, starts[-1], program)


def joined(step: Step, other: Step) -> Step:
    """Return both steps of one round as one."""
    return Step(step.round, step.sends + other.sends, step.receives + other.receives)


def relabelled(
    step: Step, peer: Callable[[int], int], chunk: Callable[[int], int], run: int = 1
) -> Step:
    """Return a step among other ranks and chunks: each of its chunks is a run of `run` ones."""
    return Step(
        step.round,
        tuple(Send(peer(s.peer), chunk(s.chunk), s.run * run) for s in step.sends),
        tuple(
            r._replace(peer=peer(r.peer), chunk=chunk(r.chunk), run=r.run * run)
            for r in step.receives
        ),
    )


def ring_reduction_order(world_size: int, chunk: int) -> tuple[int, ...]:
    """Return the ranks in the order in which a ring adds up `chunk`: c + 1, c + 2, …, c.

    A transport that reads its peers in place (shared memory) adds in this order too.
    """
    return tuple((chunk + 1 + place) % world_size for place in range(world_size))


def chunk_bounds(count: int, chunks: int) -> list[int]:
    """Split `count` elements into `chunks` even parts; return the chunks + 1 boundaries.

    Boundaries are multiples of `CHUNK_ALIGNMENT` elements, but for the last; chunks of a
    small array may be empty, all but the last.
    """
    lines = -(-count // CHUNK_ALIGNMENT)
    return [min(count, lines * chunk // chunks * CHUNK_ALIGNMENT) for chunk in range(chunks)] + [
        count
    ]
