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
from holdfast.collectives.execution import Instruction, Outgoing, Place, Scratch, execute
from holdfast.collectives.plan import Await, Plan
from holdfast.collectives.witness import Witness
from holdfast.collectives.work import Staged

T = TypeVar("T")
Arrays = tuple[Array, Array]
"""What a plan reads and what it writes, flat; may be the same."""

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
    needed: int
    """Bytes of scratch memory."""
    scratch: Scratch | None = None
    """Of the last such call."""


class Sending:
    """What the calls of a communicator use in turn: the wire, and memory."""

    def __init__(self, wire: Transport, witness: Witness) -> None:
        self.wire = wire
        self.witness = witness
        self.sent = 0
        """How many messages were given to the wire."""
        self.calls: list[Call[Any]] = []
        """Those that have begun and not ended."""
        self._spare: list[Array] = []
        self._spare_bytes = 0
        self._lent = 0
        self._lent_bytes = 0

    def lend(self, nbytes: int, *, ahead: bool) -> Array | None:
        """Return at least `nbytes` bytes; None if the call is `ahead` of its turn and may wait."""
        if ahead and (self._lent >= BEGUN_AHEAD or self._lent_bytes + nbytes > BEGUN_BYTES):
            return None
        memory = _NOTHING
        if self._spare:
            memory = self._spare.pop()
            self._spare_bytes -= memory.size
        if memory.size < nbytes:
            memory = np.empty(nbytes, np.uint8)
        self._lent += 1
        self._lent_bytes += memory.size
        return memory

    def give_back(self, memory: Array) -> None:
        """Take back what was lent."""
        self._lent -= 1
        self._lent_bytes -= memory.size
        if self._lent_bytes + self._spare_bytes <= BEGUN_BYTES:
            self._spare.append(memory)
            self._spare_bytes += memory.size


class Call(Staged[T]):
    """One collective: `arrays` makes what its plan reads and writes, `result` what the caller gets.

    `reads` and `writes` are the caller's own arrays. Both functions are called when it is the
    call's turn to use those, so a call may be given what one before it is still to write.

    Its beginning is all that its plan does before it first awaits something: the first messages
    and places, which of a direct schedule are all.
    """

    def __init__(
        self,
        sending: Sending,
        planned: Planned,
        arrays: Callable[[], Arrays],
        result: Callable[[Array], T],
        op: Op = "sum",
        reads: Array | None = None,
        writes: Array | None = None,
    ) -> None:
        self.reads = reads
        self.writes = writes
        self._sending = sending
        self._planned = planned
        self._arrays = arrays
        self._op: Op = op
        self._result = result
        self._left = planned.plan.issues
        self._sent = 0  # messages of all calls, when this one had last sent one
        self._memory: Array | None = None
        self._out = _NOTHING
        self._steps: Iterator[Instruction] = iter(())
        self._awaited = -1  # the peer of which it awaits something before it goes on

    def begin(self) -> None:
        """Give the wire what waits for nobody.

        Unless there is no memory for one more call, or one on its way is to have its array first.
        """
        if self._memory is None and not any(map(self._is_behind, self._sending.calls)):
            self._start(ahead=True)

    def __call__(self) -> T:
        """Carry it out; return what the caller gets."""
        if self._memory is None:
            self._start(ahead=False)
        sending = self._sending
        while self._awaited >= 0:
            sending.wire.wait(self._awaited)
            self._go_on()
        sending.wire.flush(self._sent)
        assert self._memory is not None
        sending.give_back(self._memory)
        sending.calls.remove(self)
        return self._result(self._out)

    def _is_behind(self, other: "Call[Any]") -> bool:
        """Return whether an array of this call's is written by `other`, or the other way round."""
        return (
            _overlap(self.reads, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.writes, other.writes)
        )

    def _start(self, *, ahead: bool) -> None:
        planned, sending = self._planned, self._sending
        self._memory = sending.lend(planned.needed, ahead=ahead)
        if self._memory is None:
            return
        scratch = planned.scratch
        if scratch is None or scratch.memory is not self._memory:
            scratch = planned.scratch = Scratch(planned.plan, planned.dtype, self._memory)
        x, self._out = self._arrays()
        sending.calls.append(self)
        self._steps = execute(planned.plan, x, self._out, scratch, self._op)
        self._go_on()

    def _go_on(self) -> None:
        """Carry out its instructions until it awaits something, or has ended."""
        sending, tag = self._sending, self._planned.tag
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


def _overlap(a: Array | None, b: Array | None) -> bool:
    return a is not None and b is not None and np.may_share_memory(a, b)
