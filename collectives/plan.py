"""What one rank does to carry out a schedule, as a list of moves over elements. Pure.

A plan is made once for a schedule, a rank and the sizes of its chunks, and carried out as often as
there are arrays of that size (`execution.py`). It holds no array: a move names elements of the
caller's input and output, or of the plan's own scratch memory, by their place.

A chunk travels in segments. A segment is sent as soon as it is what the schedule wants sent, while
later ones are still coming: a ring runs as one stream. Places for what comes are given several
segments ahead, so that several can be on their way and be added while others come.

Rules:
- A rank's contribution is read from the input and everything else from the output, so an
  all-reduce that is broken off has not touched its input (unless they are the same array).
- What comes for a place in the output is sent only once all that depends on what is there has gone
  out (`proof.prove_in_place`), so such places may be given early.
- A sum in a wider type is made by one rank in one round, segment by segment, and rounded once.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from holdfast.collectives.schedule import Receive, Schedule, Send, Step

AHEAD = 4
"""Segments of each peer that have a place before they are awaited."""

SCRATCH_BYTES = 2 << 20
"""The most memory for segments that came and were not added yet; but there is room for two."""

X, OUT, CAME, WIDE, COPIES = range(5)
"""Where elements are: in the caller's input and output, among segments that came, in a sum of a
wider type, among copies of what is sent and overwritten at once."""


class Part(NamedTuple):
    """`length` elements from `start` on, in one of those places."""

    where: int
    start: int
    length: int


class Emit(NamedTuple):
    """Send elements to `peer`."""

    peer: int
    part: Part


class Give(NamedTuple):
    """Give the next message of `peer` that has no place yet a place."""

    peer: int
    part: Part


class Await(NamedTuple):
    """Wait until the oldest place given to `peer` and not awaited yet is filled."""

    peer: int


class Enter(NamedTuple):
    """The rank enters a phase of the collective: `reduce-scatter`, `all-gather`, `broadcast`."""

    phase: str


class Combine(NamedTuple):
    """Combine `left` and `right` into `into`."""

    left: Part
    right: Part
    into: Part


class Finish(NamedTuple):
    """Turn a whole sum into what the operation asks for."""

    part: Part


class Copy(NamedTuple):
    """Copy elements; between sums of different types, convert them."""

    source: Part
    into: Part


Move = Emit | Give | Await | Enter | Combine | Finish | Copy


@dataclass(frozen=True)
class Plan:
    """A rank's moves, and how many elements of scratch memory they take in each place.

    `issues` of the moves send something or give a place: after the last of them, all that is left
    is to await and add.
    """

    world_size: int
    moves: tuple[Move, ...]
    issues: int
    came: int
    wide: int
    copies: int


def plan(
    schedule: Schedule,
    rank: int,
    places: Sequence[tuple[int, int]],
    *,
    itemsize: int,
    segment: int,
    wide: bool = False,
    finish: bool = True,
    in_place: bool = False,
) -> Plan:
    """Work out what `rank` does; chunk i is elements places[i][0] to places[i][1] - 1.

    An element has `itemsize` bytes, a segment at most `segment`. `wide`: sums are made in a wider
    type. `finish`: the operation turns a whole sum into something else. `in_place`: input and
    output are the same array.

    An all-reduce has two phases, and is in the second when it first awaits a chunk that is summed
    up already; what it sent on early went out in the first. Other collectives are one phase.
    """
    draft = _Draft(places, max(1, segment // itemsize), wide, in_place, [X] * schedule.chunks)
    peers = 1
    for step in schedule.steps(rank):
        draft.add(step)
        peers = max(peers, len({receive.peer for receive in step.receives}))
    added = [each.length for each in draft.arrivals if each.receive.reduce]
    slot = max(added, default=0)
    slots = min(len(added), AHEAD * peers, max(2, SCRATCH_BYTES // max(1, slot * itemsize)))
    collective = schedule.collective
    moves: list[Move] = [Enter("reduce-scatter" if collective == "all-reduce" else collective)]
    moves += _in_order(draft, AHEAD * peers, slots, slot, two_phases=collective == "all-reduce")
    if schedule.world_size == 1 and not in_place:
        moves += [Copy(Part(X, a, b - a), Part(OUT, a, b - a)) for a, b in places]
    if not finish:
        moves = [move for move in moves if not isinstance(move, Finish)]
    issues = sum(isinstance(move, Emit | Give) for move in moves)
    return Plan(
        schedule.world_size, tuple(moves), issues, slots * slot, slot if wide else 0, draft.copies
    )


class _Arrival(NamedTuple):
    """A segment that comes; it is the term `term` of `terms` that are added to the rank's own.

    The rank's own is in `own`, behind the first `before` of them.
    """

    receive: Receive
    start: int
    length: int
    own: int
    term: int
    terms: int
    before: int


class _Landed(NamedTuple):
    """A run of chunks that came: its elements, and the last arrival of each of its segments."""

    start: int
    stop: int
    indices: list[int]


@dataclass
class _Draft:
    """All that comes, in the order in which it is awaited, and after what everything is sent."""

    places: Sequence[tuple[int, int]]
    length: int
    wide: bool
    in_place: bool
    held: list[int]
    """Where each chunk is now: in the input until it has been received."""
    arrivals: list[_Arrival] = field(default_factory=list)
    sends: defaultdict[int, list[Emit | Copy]] = field(default_factory=lambda: defaultdict(list))
    """By the index of the arrival after which they are due, -1: at once."""
    copies: int = 0
    _landed: dict[int, _Landed] = field(default_factory=dict)
    _due: dict[int, int] = field(default_factory=dict)
    """After which arrival the latest message to a peer is sent: messages keep their order."""

    def add(self, step: Step) -> None:
        """Add what the rank does in its next round."""
        summed = {
            chunk
            for receive in step.receives
            if receive.reduce
            for chunk in range(receive.chunk, receive.chunk + receive.run)
        }
        copied: dict[int, int] = {}
        for send in step.sends:
            overwritten = self.in_place and not summed.isdisjoint(_chunks(send))
            self._send(send, copied if overwritten else None)
        for group in _apart(step.receives):
            self._receive(group)

    def _extent(self, transfer: Send | Receive) -> tuple[int, int]:
        """Return the elements of a run of chunks, which lie one behind the other."""
        last = transfer.chunk + transfer.run - 1
        return self.places[transfer.chunk][0], self.places[last][1]

    def _send(self, send: Send, copied: dict[int, int] | None) -> None:
        start, stop = self._extent(send)
        wheres = {self.held[chunk] for chunk in _chunks(send)}
        assert len(wheres) == 1 or start == stop, f"{send}: its chunks are in different places"
        where = wheres.pop()
        landed = {id(each): each for c in _chunks(send) if (each := self._landed.get(c))}
        for at in range(start, stop, self.length):
            count = min(self.length, stop - at)
            due = self._due.get(send.peer, -1)
            for run in landed.values():
                if run.indices and run.start < at + count and at < run.stop:
                    last = (min(at + count, run.stop) - 1 - run.start) // self.length
                    due = max(due, run.indices[last])
            self._due[send.peer] = due
            part = Part(where, at, count)
            if copied is not None:
                if at not in copied:
                    copied[at] = self.copies
                    self.copies += count
                    self.sends[due].append(Copy(part, Part(COPIES, copied[at], count)))
                part = Part(COPIES, copied[at], count)
            self.sends[due].append(Emit(send.peer, part))

    def _receive(self, group: list[list[Receive]]) -> None:
        """Add what comes of several runs of chunks at a time, segment by segment."""
        landed = [_Landed(*self._extent(fold[0]), []) for fold in group]
        for turn in range(-(-max(run.stop - run.start for run in landed) // self.length)):
            for fold, run in zip(group, landed, strict=True):
                at = run.start + turn * self.length
                if at < run.stop:
                    self._arrive(fold, at, min(self.length, run.stop - at))
                    run.indices.append(len(self.arrivals) - 1)
        for fold, run in zip(group, landed, strict=True):
            for chunk in _chunks(fold[0]):
                self._landed[chunk] = run
                self.held[chunk] = OUT

    def _arrive(self, fold: list[Receive], start: int, count: int) -> None:
        """Add one segment's arrivals, of all that is added up together."""
        first, own = fold[0], self.held[fold[0].chunk]
        before = sum(receive.before for receive in fold)
        assert all(receive.before for receive in fold[:before]), f"{fold}: not from left to right"
        assert first.whole or not (self.wide and first.reduce), f"{fold}: would be rounded twice"
        self.arrivals += [
            _Arrival(receive, start, count, own, term, len(fold), before)
            for term, receive in enumerate(fold)
        ]


def _chunks(transfer: Send | Receive) -> range:
    return range(transfer.chunk, transfer.chunk + transfer.run)


def _apart(receives: Sequence[Receive]) -> Iterator[list[list[Receive]]]:
    """Yield receives in groups of folds: a fold is added up together, a group comes at a time.

    No two folds of a group are of the same peer, whose messages have an order.
    """
    group: list[list[Receive]] = []
    peers: set[int] = set()
    for _, together in groupby(receives, key=lambda receive: (receive.chunk, receive.run)):
        fold = list(together)
        senders = {receive.peer for receive in fold}
        if not peers.isdisjoint(senders):
            yield group
            group, peers = [], set()
        group.append(fold)
        peers |= senders
    if group:
        yield group


def _in_order(
    draft: _Draft, window: int, slots: int, slot: int, *, two_phases: bool
) -> Iterator[Move]:
    """Yield all moves; places are given to no more than `window` arrivals that aren't there yet.

    There are `slots` places of `slot` elements for what is added up.
    """
    arrivals, given = draft.arrivals, 0
    free = list(range(slots - 1, -1, -1))
    taken: dict[int, int] = {}  # by arrival
    gathering = not two_phases

    def give() -> Iterator[Move]:
        nonlocal given
        while given < min(len(arrivals), done + window):
            coming = arrivals[given]
            if not coming.receive.reduce:
                part = Part(OUT, coming.start, coming.length)
            elif free:
                taken[given] = free.pop()
                part = Part(CAME, taken[given] * slot, coming.length)
            else:
                return
            yield Give(coming.receive.peer, part)
            given += 1

    done = 0
    yield from give()
    yield from draft.sends[-1]
    for done, arrival in enumerate(arrivals, 1):
        index = done - 1
        if not gathering and not arrival.receive.reduce:
            gathering = True
            yield Enter("all-gather")
        yield Await(arrival.receive.peer)
        if arrival.receive.reduce:
            first = Part(CAME, taken[index - arrival.term] * slot, arrival.length)
            came = Part(CAME, taken[index] * slot, arrival.length)
            yield from (_add_wide if draft.wide else _add)(arrival, first, came)
            if arrival.term or arrival.before <= 1:
                free.append(taken[index])
            if arrival.term and arrival.term == arrival.before - 1:
                free.append(taken[index - arrival.term])
        yield from draft.sends[index]
        yield from give()
    if not gathering:
        yield Enter("all-gather")


def _add(arrival: _Arrival, first: Part, came: Part) -> Iterator[Move]:
    """Yield the additions for a segment that came; those before the rank's own are in `first`."""
    own = Part(arrival.own, arrival.start, arrival.length)
    out = Part(OUT, arrival.start, arrival.length)
    if arrival.term >= arrival.before:
        yield Combine(out if arrival.term else own, came, out)
    else:
        if arrival.term:
            yield Combine(first, came, first)
        if arrival.term == arrival.before - 1:
            yield Combine(first, own, out)
    if arrival.receive.whole and arrival.term == arrival.terms - 1:
        yield Finish(out)


def _add_wide(arrival: _Arrival, first: Part, came: Part) -> Iterator[Move]:
    """Yield the same for a sum in a wider type."""
    own = Part(arrival.own, arrival.start, arrival.length)
    total = Part(WIDE, 0, arrival.length)
    if arrival.term == 0:
        yield Copy(came if arrival.before else own, total)
    if arrival.term or not arrival.before:
        yield Combine(total, came, total)
    if arrival.term == arrival.before - 1:
        yield Combine(total, own, total)
    if arrival.term == arrival.terms - 1:
        yield Finish(total)
        yield Copy(total, Part(OUT, arrival.start, arrival.length))
