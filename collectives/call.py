"""A collective on its way: a plan carried out over a transport.

What a plan does before it first awaits something waits for nobody. So a call may be begun while the
calls before it wait for their peers, and the wire is not idle between one and the next.

Rule: a call is begun only once those before it have nothing more to send and have named all their
places. So the messages of two ranks keep the order of the calls, whenever each of them begins.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from holdfast.collectives.communicator import Array, Op, Transport
from holdfast.collectives.execution import (
    Instruction,
    Outgoing,
    Place,
    Scratch,
    execute,
    scratch_bytes,
)
from holdfast.collectives.plan import Await, Plan
from holdfast.collectives.witness import Witness
from holdfast.collectives.work import Staged

T = TypeVar("T")

BEGUN_AHEAD = 8
"""Calls at the most that are on their way at a time."""
BEGUN_BYTES = 4 << 20
"""Bytes of scratch memory from which on a call is not begun before those ahead of it have ended."""

_NOTHING = np.empty(0, np.uint8)


@dataclass
class Planned:
    """A plan for arrays of one size and type, which the calls on such arrays carry out."""

    plan: Plan
    dtype: np.dtype[Any]
    tag: int
    scratch: Scratch | None = None
    """Of the last such call."""


class Sending:
    """What the calls of a communicator use in turn: the wire, and memory."""

    def __init__(self, wire: Transport, witness: Witness) -> None:
        self.wire = wire
        self.witness = witness
        self.sent = 0
        """How many messages were given to the wire."""
        self._spare: list[Array] = []
        self._lent = 0
        self._lent_bytes = 0

    def lend(self, nbytes: int, *, ahead: bool) -> Array | None:
        """Return at least `nbytes` bytes; None if the call is `ahead` of its turn and may wait."""
        if ahead and (self._lent >= BEGUN_AHEAD or self._lent_bytes + nbytes > BEGUN_BYTES):
            return None
        memory = self._spare.pop() if self._spare else _NOTHING
        if memory.size < nbytes:
            memory = np.empty(nbytes, np.uint8)
        self._lent += 1
        self._lent_bytes += memory.size
        return memory

    def give_back(self, memory: Array) -> None:
        """Take back what was lent."""
        self._lent -= 1
        self._lent_bytes -= memory.size
        if self._lent_bytes + sum(spare.size for spare in self._spare) <= BEGUN_BYTES:
            self._spare.append(memory)


class Call(Staged[T]):
    """One collective on its arrays; `result` makes of them what the caller gets.

    Its beginning is all that its plan does before it first awaits something: the first messages
    and places, which of a direct schedule are all. What is left of it then must not give the wire
    anything more before the next call may begin, since the messages of two ranks have an order.
    """

    def __init__(
        self,
        sending: Sending,
        ready: Planned,
        x: Array,
        out: Array,
        op: Op,
        result: Callable[[], T],
    ) -> None:
        self._sending = sending
        self._ready = ready
        self._arrays = x, out
        self._op: Op = op
        self._result = result
        self._left = ready.plan.issues
        self._sent = 0  # messages of all calls, when this one had last sent one
        self._memory: Array | None = None
        self._steps: Iterator[Instruction] = iter(())
        self._awaited = -1  # the peer of which it awaits something before it goes on

    def begin(self) -> None:
        """Give the wire what waits for nobody, unless there is no memory for one more call."""
        if self._memory is None:
            self._start(ahead=True)

    def __call__(self) -> T:
        """Carry it out; return what the caller gets."""
        if self._memory is None:
            self._start(ahead=False)
        wire = self._sending.wire
        while self._awaited >= 0:
            wire.wait(self._awaited)
            self._go_on()
        wire.flush(self._sent)
        assert self._memory is not None
        self._sending.give_back(self._memory)
        return self._result()

    def _start(self, *, ahead: bool) -> None:
        ready, (x, out) = self._ready, self._arrays
        needed = scratch_bytes(ready.plan, ready.dtype)
        self._memory = self._sending.lend(needed, ahead=ahead)
        if self._memory is None:
            return
        scratch = ready.scratch
        if scratch is None or scratch.memory is not self._memory:
            scratch = ready.scratch = Scratch(ready.plan, ready.dtype, self._memory)
        self._steps = execute(ready.plan, x, out, scratch, self._op)
        self._go_on()

    def _go_on(self) -> None:
        """Carry out its instructions until it awaits something, or has ended."""
        sending, tag = self._sending, self._ready.tag
        wire = sending.wire
        self._awaited = -1
        each: Any  # of type `kind`, as in `execute`
        for each in self._steps:
            kind = type(each)
            if kind is Await:
                self._awaited = each.peer
                break
            if kind is Outgoing:
                wire.send(each.peer, each.data, tag)
                sending.sent += 1
                self._sent = sending.sent
                self._left -= 1
            elif kind is Place:
                wire.post(each.peer, each.into, tag)
                self._left -= 1
            else:
                sending.witness.phase(each.phase)
        self.issued = self._left == 0
