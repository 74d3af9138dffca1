"""Prove a schedule by executing it on symbols instead of numbers.

A chunk's value is the sequence of ranks whose contributions are in it, in the order in which they
were added. A schedule is right if the ranks that must end with a chunk hold every contribution in
it exactly once, all in the same order, and no transfer has only one side.
"""

from collections.abc import Iterable

from holdfast.collectives.schedule import Schedule, Step

Value = tuple[int, ...]
"""The ranks whose contributions a chunk holds, in the order of addition."""


class ScheduleError(AssertionError):
    """A schedule does not do what its kind promises."""


def execute(schedule: Schedule, start: list[list[Value]]) -> list[list[Value]]:
    """Run `schedule` on `start[rank][chunk]` and return what each rank ends with.

    Raises ScheduleError where a send has no receive, a receive no send, or they differ in chunk.
    """
    held = [list(chunks) for chunks in start]
    for number in range(schedule.rounds):
        steps = [schedule.program(rank, number) for rank in range(schedule.world_size)]
        _match(schedule, number, steps)
        before = [list(chunks) for chunks in held]
        for rank, step in enumerate(steps):
            if receive := step.receive:
                arrived = before[receive.peer][receive.chunk]
                own = before[rank][receive.chunk]
                held[rank][receive.chunk] = arrived + own if receive.reduce else arrived
    return held


def _match(schedule: Schedule, number: int, steps: list[Step]) -> None:
    sends = {(r, s.send.peer, s.send.chunk) for r, s in enumerate(steps) if s.send}
    receives = {(s.receive.peer, r, s.receive.chunk) for r, s in enumerate(steps) if s.receive}
    if sends != receives:
        raise ScheduleError(
            f"{schedule.name} of {schedule.world_size} ranks, round {number}: "
            f"(from, to, chunk) sent {sorted(sends - receives)} with nobody to receive, "
            f"awaited {sorted(receives - sends)} with nobody to send"
        )


def contributions(schedule: Schedule) -> list[list[Value]]:
    """Return the start in which each rank holds its own contribution to every chunk."""
    return [[(rank,)] * schedule.chunks for rank in range(schedule.world_size)]


def _whole(schedule: Schedule, rank: int, chunk: int, value: Value) -> None:
    if sorted(value) != list(range(schedule.world_size)):
        raise ScheduleError(
            f"{schedule.name} of {schedule.world_size} ranks: rank {rank} ends chunk {chunk} with "
            f"the contributions {value}; each of 0 to {schedule.world_size - 1} was expected once"
        )


def prove_all_reduce(schedule: Schedule) -> list[Value]:
    """Prove that every rank ends with the same whole sum; return each chunk's order of addition."""
    end = execute(schedule, contributions(schedule))
    for chunk in range(schedule.chunks):
        for rank in range(schedule.world_size):
            _whole(schedule, rank, chunk, end[rank][chunk])
            if end[rank][chunk] != end[0][chunk]:
                raise ScheduleError(f"{schedule.name}: chunk {chunk} is added in two orders")
    return end[0]


def prove_reduce_scatter(schedule: Schedule) -> list[Value]:
    """Prove that rank r ends with the whole sum of chunk r; return the orders of addition."""
    end = execute(schedule, contributions(schedule))
    for rank in range(schedule.world_size):
        _whole(schedule, rank, rank, end[rank][rank])
    return [end[rank][rank] for rank in range(schedule.world_size)]


def prove_all_gather(schedule: Schedule) -> None:
    """Prove that rank r's chunk r reaches every rank."""
    ranks = range(schedule.world_size)
    start: list[list[Value]] = [[(r,) if r == chunk else () for chunk in ranks] for r in ranks]
    _expect(schedule, execute(schedule, start), [[(chunk,) for chunk in ranks] for _ in ranks])


def prove_broadcast(schedule: Schedule, root: int) -> None:
    """Prove that the root's chunk reaches every rank."""
    ranks = range(schedule.world_size)
    start: list[list[Value]] = [[(root,) if r == root else ()] for r in ranks]
    _expect(schedule, execute(schedule, start), [[(root,)] for _ in ranks])


def _expect(
    schedule: Schedule, end: list[list[Value]], expected: Iterable[Iterable[Value]]
) -> None:
    for rank, (found, wanted) in enumerate(zip(end, expected, strict=True)):
        if found != list(wanted):
            raise ScheduleError(f"{schedule.name}: rank {rank} ends with {found}, not {wanted}")
