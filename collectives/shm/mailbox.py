"""Messages between two ranks of one host: a ring of slots in shared memory for each direction.

Rules:
- The sender counts the slots it has filled, the receiver those it has emptied: each counter has one
  writer, and is waited for by the other (`Meetings.wait`).
- A slot says of which array it holds a part, so that ranks that disagree are told.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from holdfast.collectives.shm.call import dtype_name
from holdfast.collectives.shm.meeting import LINE, Counter, Meetings
from holdfast.collectives.shm.memory import Segment
from holdfast.errors import CollectiveMismatch

SLOT: Final = 64 << 10
"""Bytes of an array in a slot."""
SLOTS: Final = 4
_COUNTERS = 4 * LINE  # slots filled, slots emptied, and beside each whether the other sleeps
_CHANNEL = _COUNTERS + SLOTS * (LINE + SLOT)

Bytes = NDArray[np.uint8]


class _Channel:
    """What one rank sends another, as either of the two sees it."""

    def __init__(self, outbox: Segment, receiver: int) -> None:
        start = receiver * _CHANNEL
        self.words = outbox.bytes[start : start + _CHANNEL].data.cast("B").cast("q")
        self.bytes = outbox.bytes[start : start + _CHANNEL]
        self.filled, self.emptied = (
            Counter(
                self.words,
                line * LINE // 8,
                (line + 1) * LINE // 8,
                outbox.address + start + line * LINE,
            )
            for line in (0, 2)
        )
        self.slots = 0
        """How many this rank has filled or emptied."""

    def slot(self) -> tuple[int, Bytes]:
        """Return where in `words` the turn's slot begins, and its memory."""
        at = _COUNTERS + self.slots % SLOTS * (LINE + SLOT)
        return at // 8, self.bytes[at + LINE : at + LINE + SLOT]


class Mailbox:
    """One rank's messages to and from each other rank. One thread at a time."""

    def __init__(self, meetings: Meetings, outboxes: list[Segment]) -> None:
        """`outboxes` are all ranks' segments, of `Mailbox.size` bytes each."""
        self._meetings = meetings
        own = outboxes[meetings.rank]
        self._out = [_Channel(own, peer) for peer in range(len(outboxes))]
        self._in = [_Channel(outbox, meetings.rank) for outbox in outboxes]

    @staticmethod
    def size(world_size: int) -> int:
        """Return the bytes of each rank's outbox; they are taken up as they are used."""
        return world_size * _CHANNEL

    def send(self, data: Bytes, kind: int, peer: int) -> None:
        """Send `data` to `peer`; return when all of it is in its ring. `kind` tells its dtype."""
        channel, meetings = self._out[peer], self._meetings
        for start in range(0, max(1, data.size), SLOT):
            meetings.wait(channel.emptied, channel.slots - SLOTS + 1, peer, "send")
            at, slot = channel.slot()
            part = data[start : start + SLOT]
            channel.words[at], channel.words[at + 1] = data.size, kind
            slot[: part.size] = part
            channel.slots += 1
            meetings.count(channel.filled, channel.slots)

    def receive(self, into: Bytes, kind: int, peer: int) -> None:
        """Fill `into` with the next message of `peer`, which must be of its size and kind."""
        channel, meetings = self._in[peer], self._meetings
        for start in range(0, max(1, into.size), SLOT):
            meetings.wait(channel.filled, channel.slots + 1, peer, "recv")
            at, slot = channel.slot()
            size, came = channel.words[at : at + 2]
            if (size, came) != (into.size, kind):
                raise CollectiveMismatch(
                    f"rank {meetings.rank} awaits {into.size} bytes of dtype {dtype_name(kind)} "
                    f"from rank {peer}, which sent {size} bytes of dtype {dtype_name(came)}: both "
                    "must name arrays of one size and dtype, in the same order"
                )
            part = into[start : start + SLOT]
            part[...] = slot[: part.size]
            channel.slots += 1
            meetings.count(channel.emptied, channel.slots)
