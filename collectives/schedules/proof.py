"""Prove a schedule by executing it on symbols instead of numbers.

A chunk's value is an expression: a rank's contribution, or the sum of a left and a right one.
Equal expressions have one number (`Symbols`), so they are compared at once, with the order and the
association of their additions. A schedule is right if the ranks that must end with a chunk hold
one expression, with every contribution in it exactly once, and no transfer has only one side.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from holdfast.collectives.schedule import Receive, Schedule

NOTHING = 0
"""The value of a chunk that a rank does not have."""


class ScheduleError(AssertionError):
    """A schedule does not do what its kind promises."""


class Symbols:
    """The expressions of one proof, each with a number; 0 is nothing."""

    def __init__(self) -> None:
        self._sides: list[tuple[int, int] | int | None] = [None]
        self._ranks = [0]  # whose contributions are in each, as a set of bits
        self._numbers: dict[tuple[int, int] | int, int] = {}

    def contribution(self, rank: int) -> int:
        """Return the expression that is `rank`'s own."""
        return self._number(rank, 1 << rank)

    def sum(self, left: int, right: int) -> int:
        """Return the sum of two; raise ScheduleError where a contribution is in both, or neither.

        What is nothing cannot be added.
        """
        one, other = self._ranks[left], self._ranks[right]
        if one & other or not one or not other:
            raise ScheduleError(
                f"{self.text(left)} is added to {self.text(right)}: each contribution was "
                "expected once"
            )
        return self._number((left, right), one | other)

    def ranks(self, value: int) -> int:
        """Return whose contributions are in an expression, as a set of bits."""
        return self._ranks[value]

    def text(self, value: int) -> str:
        """Return an expression for people: `((1+2)+0)`."""
        sides = self._sides[value]
        if sides is None:
            return "nothing"
        if isinstance(sides, int):
            return str(sides)
        return f"({self.text(sides[0])}+{self.text(sides[1])})"

    def order(self, value: int) -> tuple[int, ...] | None:
        """Return the ranks in the order in which a sum from left to right adds them.

        None for a sum of another association.
        """
        ranks: list[int] = []
        while True:
            sides = self._sides[value]
            if not isinstance(sides, tuple):
                return (*([] if sides is None else [sides]), *reversed(ranks))
            value, last = sides
            rank = self._sides[last]
            if not isinstance(rank, int):
                return None
            ranks.append(rank)

    def _number(self, key: tuple[int, int] | int, ranks: int) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._sides)
            self._sides.append(key)
            self._ranks.append(ranks)
        return number


def start(schedule: Schedule, symbols: Symbols, root: int = 0) -> list[list[int]]:
    """Return what each rank holds of each chunk before the schedule's collective begins.

    What rank r has for rank d in an all-to-all is the contribution of "rank" r * n + d.
    """
    n, chunks = schedule.world_size, range(schedule.chunks)
    ranks = range(n)
    match schedule.collective:
        case "all-to-all":
            return [
                [*(symbols.contribution(rank * n + to) for to in ranks), *[NOTHING] * n]
                for rank in ranks
            ]
        case "all-gather" | "gather":
            return [
                [symbols.contribution(rank) if chunk == rank else NOTHING for chunk in chunks]
                for rank in ranks
            ]
        case "broadcast" | "scatter" | "send":
            return [
                [symbols.contribution(chunk) if rank == root else NOTHING for chunk in chunks]
                for rank in ranks
            ]
    return [[symbols.contribution(rank)] * schedule.chunks for rank in ranks]


def run(schedule: Schedule, symbols: Symbols, start: Sequence[Sequence[int]]) -> list[list[int]]:
    """Run `schedule` on `start[rank][chunk]` and return what each rank ends with.

    Raises ScheduleError as `rounds` does.
    """
    end = [list(chunks) for chunks in start]
    for after in rounds(schedule, symbols, start):
        end = after
    return end


def rounds(
    schedule: Schedule, symbols: Symbols, start: Sequence[Sequence[int]]
) -> Iterator[list[list[int]]]:
    """Run `schedule` on `start[rank][chunk]`; yield what each rank holds after each round.

    It is one list, which changes from round to round. Raises ScheduleError where a send has no
    receive, a receive no send, they differ in chunks, a contribution is added twice, or a sum is
    called whole that isn't, or isn't though it is.
    """
    n, held = schedule.world_size, [list(chunks) for chunks in start]
    shifted = schedule.collective == "all-to-all"  # a chunk has another number at the receiver
    for number in range(schedule.rounds):
        steps = [schedule.program(rank, number) for rank in range(n)]
        messages: dict[int, list[tuple[int, list[int]]]] = {}  # by sender * n + receiver
        for rank, step in enumerate(steps):
            mine = held[rank]
            for peer, chunk, count in step.sends:
                message = (chunk, mine[chunk : chunk + count])
                messages.setdefault(rank * n + peer, []).append(message)
        for rank, step in enumerate(steps):
            arrived = []
            for receive in step.receives:
                sent = messages.get(receive.peer * n + rank)
                if not sent:
                    raise _trouble(schedule, number, f"{receive} of rank {rank} is never sent")
                chunk, values = sent.pop(0)
                if (chunk != receive.chunk and not shifted) or len(values) != receive.run:
                    raise _trouble(
                        schedule, number, f"{receive} of rank {rank} is sent chunk {chunk}"
                    )
                arrived.append((receive, values))
            if arrived:
                try:
                    _take(symbols, held[rank], arrived, (1 << n) - 1)
                except ScheduleError as error:
                    raise _trouble(schedule, number, f"rank {rank}: {error}") from error
        for key, sent in messages.items():
            if sent:
                raise _trouble(schedule, number, f"rank {key % n} awaits nothing of {key // n}")
        yield held


def _trouble(schedule: Schedule, number: int, what: str) -> ScheduleError:
    return ScheduleError(f"{schedule.name} of {schedule.world_size} ranks, round {number}: {what}")


def _take(
    symbols: Symbols, held: list[int], arrived: list[tuple[Receive, list[int]]], everyone: int
) -> None:
    """Put into `held` what a rank received in one round."""
    folds: dict[int, list[tuple[Receive, list[int]]]] = {}
    for each in arrived:
        folds.setdefault(each[0].chunk, []).append(each)
    for fold in folds.values():
        _, first, reduce, _, whole, count = fold[0][0]
        if not reduce:
            if len(fold) > 1:
                raise ScheduleError(f"chunk {first} comes twice")
            held[first : first + count] = fold[0][1]
            continue
        for chunk in range(first, first + count):
            terms = [values[chunk - first] for receive, values in fold if receive.before]
            terms.append(held[chunk])
            terms += [values[chunk - first] for receive, values in fold if not receive.before]
            total = terms[0]
            for term in terms[1:]:
                total = symbols.sum(total, term)
            held[chunk] = total
            if whole != (symbols.ranks(total) == everyone):
                raise ScheduleError(f"chunk {chunk} is called whole wrongly: {symbols.text(total)}")


def _whole(
    schedule: Schedule, symbols: Symbols, end: list[list[int]], rank: int, chunk: int
) -> int:
    value = end[rank][chunk]
    if symbols.ranks(value) != (1 << schedule.world_size) - 1:
        raise ScheduleError(
            f"{schedule.name} of {schedule.world_size} ranks: rank {rank} ends chunk {chunk} with "
            f"{symbols.text(value)}; each of 0 to {schedule.world_size - 1} was expected once"
        )
    return value


def prove_all_reduce(schedule: Schedule) -> list[tuple[int, ...] | None]:
    """Prove that every rank ends with the same whole sum; return each chunk's order of addition.

    The order is None where a sum isn't added from left to right.
    """
    symbols = Symbols()
    end = run(schedule, symbols, start(schedule, symbols))
    for chunk in range(schedule.chunks):
        _whole(schedule, symbols, end, 0, chunk)
    for rank, chunks in enumerate(end):
        if chunks != end[0]:
            raise ScheduleError(f"{schedule.name}: ranks 0 and {rank} add in two orders")
    return [symbols.order(value) for value in end[0]]


def prove_reduce_scatter(schedule: Schedule) -> list[tuple[int, ...] | None]:
    """Prove that rank r ends with the whole sum of chunk r; return the orders of addition."""
    symbols = Symbols()
    end = run(schedule, symbols, start(schedule, symbols))
    ranks = range(schedule.world_size)
    return [symbols.order(_whole(schedule, symbols, end, rank, rank)) for rank in ranks]


def prove_reduce(schedule: Schedule, root: int) -> list[tuple[int, ...] | None]:
    """Prove that `root` ends with the whole sum; return each chunk's order of addition."""
    symbols = Symbols()
    end = run(schedule, symbols, start(schedule, symbols))
    chunks = range(schedule.chunks)
    return [symbols.order(_whole(schedule, symbols, end, root, chunk)) for chunk in chunks]


def prove_all_gather(schedule: Schedule) -> None:
    """Prove that rank r's chunk r reaches every rank."""
    symbols, ranks = Symbols(), range(schedule.world_size)
    end = run(schedule, symbols, start(schedule, symbols))
    _expect(schedule, end, [[symbols.contribution(chunk) for chunk in ranks]] * len(ranks))


def prove_broadcast(schedule: Schedule, root: int) -> None:
    """Prove that the root's chunk reaches every rank."""
    symbols = Symbols()
    end = run(schedule, symbols, start(schedule, symbols, root))
    _expect(schedule, end, [[symbols.contribution(0)]] * schedule.world_size)


def prove_gather(schedule: Schedule, root: int) -> None:
    """Prove that rank r's chunk r reaches the root."""
    symbols = Symbols()
    end = run(schedule, symbols, start(schedule, symbols))
    chunks = [symbols.contribution(rank) for rank in range(schedule.world_size)]
    _expect(schedule, [end[root]], [chunks])


def prove_scatter(schedule: Schedule, root: int) -> None:
    """Prove that the root's chunk r reaches rank r."""
    symbols, ranks = Symbols(), range(schedule.world_size)
    end = run(schedule, symbols, start(schedule, symbols, root))
    _expect(
        schedule,
        [[end[rank][rank]] for rank in ranks],
        [[symbols.contribution(rank)] for rank in ranks],
    )


def prove_all_to_all(schedule: Schedule) -> None:
    """Prove that rank r's chunk d becomes rank d's chunk n + r; its own needs no schedule."""
    symbols, n = Symbols(), schedule.world_size
    end = run(schedule, symbols, start(schedule, symbols))
    for rank in range(n):
        end[rank][n + rank] = symbols.contribution(rank * n + rank)
    _expect(
        schedule,
        [chunks[n:] for chunks in end],
        [[symbols.contribution(source * n + rank) for source in range(n)] for rank in range(n)],
    )


def prove_barrier(schedule: Schedule) -> None:
    """Prove that no rank can end before every rank has begun."""
    heard = [1 << rank for rank in range(schedule.world_size)]
    for number in range(schedule.rounds):
        steps = [schedule.program(rank, number) for rank in range(schedule.world_size)]
        before = list(heard)
        for rank, step in enumerate(steps):
            for receive in step.receives:
                if not any(send.peer == rank for send in steps[receive.peer].sends):
                    raise _trouble(schedule, number, f"{receive} of rank {rank} is never sent")
                heard[rank] |= before[receive.peer]
    for rank, ranks in enumerate(heard):
        if ranks != (1 << schedule.world_size) - 1:
            raise ScheduleError(f"{schedule.name}: rank {rank} ends without having heard from all")


def prove_in_place(schedule: Schedule) -> None:
    """Prove that nothing overwrites a chunk that may still have to be sent.

    A rank may overwrite what it has sent when what comes could not exist had that message not
    come. A sum in the very round of the sending is excepted: a copy is sent then (`plan.py`).
    Raises ScheduleError.
    """
    Message = tuple[int, int, int, int]  # round, from, to, chunk
    ranks, nothing = range(schedule.world_size), frozenset[Message]()
    needed = [[nothing] * schedule.chunks for _ in ranks]  # what had to come for what is held
    sent = [[nothing] * schedule.chunks for _ in ranks]
    for number in range(schedule.rounds):
        steps = [schedule.program(rank, number) for rank in ranks]
        before = [list(chunks) for chunks in needed]
        for rank, step in enumerate(steps):
            for peer, first, count in step.sends:
                for chunk in range(first, first + count):
                    sent[rank][chunk] |= {(number, rank, peer, chunk)}
            came: dict[int, frozenset[Message]] = defaultdict(frozenset)
            for receive in step.receives:
                for chunk in range(receive.chunk, receive.chunk + receive.run):
                    came[chunk] |= before[receive.peer][chunk]
                    needed[rank][chunk] |= came[chunk] | {(number, receive.peer, rank, chunk)}
            summed = {receive.chunk for receive in step.receives if receive.reduce}
            for chunk, known in came.items():
                left = sent[rank][chunk] - known
                if any(when < number or chunk not in summed for when, *_ in left):
                    raise _trouble(
                        schedule, number, f"rank {rank} overwrites chunk {chunk}, sent in {left}"
                    )


def _expect(
    schedule: Schedule, end: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> None:
    for rank, (found, wanted) in enumerate(zip(end, expected, strict=True)):
        if list(found) != list(wanted):
            raise ScheduleError(f"{schedule.name}: rank {rank} ends with {found}, not {wanted}")
