"""A line: the bytes on their way in one direction of a connection, and when they arrive. Pure.

TCP hides from its users what happens to packets, so a line shows what TCP makes of it. A packet is
1448 bytes, the payload of an Ethernet frame.
- A *lost* packet comes one retransmission later, and all behind it waits for it: a round trip (at
  least 5 ms) if something follows that makes the receiver ask for it, else 200 ms, Linux's shortest
  timeout, which doubles when the retransmission is lost as well. That TCP also sends less after a
  loss is not imitated.
- A packet that is *overtaken* (reordering) comes later by as much as the condition says, and all
  behind it waits, as a receiver does that hands out bytes in order.
- *Jitter* makes the distances uneven; it never reorders bytes.
- *Corruption* changes one byte of a packet: what slips through TCP's checksum.
"""

import math
import random
from collections import deque
from dataclasses import dataclass

from holdfast.fabric.condition import CLEAR, Condition

PACKET = 1448
TIMEOUT = 0.2
"""Seconds until a packet is sent again that nothing follows."""
SHORTEST = 0.005
"""Seconds until a packet is sent again at the earliest."""
CAPACITY = 16 << 20
"""Bytes that are on the way at most, a generous TCP window: the rest waits at the sender."""
_ENTRY = 256  # what an entry weighs beside its bytes
_TRIES = 15  # Linux gives a connection up then
_PARTS = 64


class Odds:
    """Which packets are hit, each with the same probability.

    The distance to the next one is drawn rather than every packet's lot, so a large read costs no
    more than a small one.
    """

    def __init__(self, rng: random.Random) -> None:
        self.p = 0.0
        self._rng = rng
        self._left = math.inf

    def change(self, p: float) -> None:
        """Let another probability hold."""
        if p != self.p:
            self.p = p
            self._left = self._gap()

    def among(self, packets: int) -> list[int]:
        """Return which of the next `packets` packets are hit, counted from 0."""
        hits = []
        while self._left < packets:
            hits.append(int(self._left))
            self._left += 1 + self._gap()
        self._left -= packets
        return hits

    def _gap(self) -> float:
        """Return how many packets go unharmed before the next hit."""
        if self.p <= 0:
            return math.inf
        if self.p >= 1:
            return 0
        return math.floor(math.log(1 - self._rng.random()) / math.log1p(-self.p))


@dataclass
class _Entry:
    """Bytes that nothing separates; those behind wait for them."""

    data: memoryview
    due: float


class Line:
    """What is on the way, in order; times are those of one clock, in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self.held = 0
        """Bytes on the way."""
        self._rng = rng
        self._condition = CLEAR
        self._round_trip = 0.0
        self._lost = Odds(rng)
        self._overtaken = Odds(rng)
        self._corrupt = Odds(rng)
        self._entries: deque[_Entry] = deque()
        self._unfollowed: _Entry | None = None

    @property
    def room(self) -> int:
        """How many more bytes may be put on the way."""
        return CAPACITY - self.held - _ENTRY * len(self._entries)

    @property
    def due(self) -> float:
        """When the next bytes arrive; infinity if none are on the way."""
        return self._entries[0].due if self._entries else math.inf

    def change(self, condition: Condition, round_trip: float, now: float) -> None:
        """Let another condition hold, `round_trip` being the latencies of both directions.

        What is on the way arrives no later than if it had left now.
        """
        self._condition = condition
        self._round_trip = round_trip
        self._lost.change(condition.loss)
        self._overtaken.change(condition.reordering)
        self._corrupt.change(condition.corruption)
        latest = now + condition.latency + condition.jitter + condition.overtaken
        for entry in self._entries:
            entry.due = min(entry.due, latest)

    def put(self, data: bytes, departs: float) -> None:
        """Put `data` on the way, which leaves at `departs`."""
        condition = self._condition
        packets = -(-len(data) // PACKET)
        arrives = departs + condition.latency
        if condition.jitter:
            arrives += self._rng.uniform(0, condition.jitter)
        again = max(self._round_trip, SHORTEST)
        if self._unfollowed is not None:  # now something follows it
            self._unfollowed.due = min(self._unfollowed.due, arrives + again)
            self._unfollowed = None
        dues = {0: arrives}
        for hit in self._overtaken.among(packets):
            dues[hit] = arrives + condition.overtaken
        unfollowed = False
        for hit in self._lost.among(packets):
            unfollowed = hit == packets - 1
            first = TIMEOUT + self._round_trip if unfollowed else again
            dues[hit] = max(dues.get(hit, 0.0), arrives + first + self._lost_again())
        whole = memoryview(self._corrupted(data, packets))
        starts = sorted(dues)
        for start, end in zip(starts, [*starts[1:], packets], strict=True):
            self._entries.append(_Entry(whole[start * PACKET : end * PACKET], dues[start]))
        if unfollowed:
            self._unfollowed = self._entries[-1]
        self.held += len(data)

    def arrived(self, now: float) -> list[memoryview]:
        """Return the next bytes that have arrived, if any; `take` then removes them."""
        parts: list[memoryview] = []
        for entry in self._entries:
            if entry.due > now or len(parts) == _PARTS:
                break
            parts.append(entry.data)
        return parts

    def take(self, count: int) -> None:
        """Remove the first `count` bytes."""
        self.held -= count
        while count:
            entry = self._entries[0]
            if count < len(entry.data):
                entry.data = entry.data[count:]
                return
            count -= len(entry.data)
            self._entries.popleft()

    def clear(self) -> None:
        """Forget what is on the way."""
        self._entries.clear()
        self._unfollowed = None
        self.held = 0

    def _lost_again(self) -> float:
        """Return how much longer it takes if retransmissions are lost, too."""
        more, timeout = 0.0, TIMEOUT
        for _ in range(_TRIES):
            if self._rng.random() >= self._condition.loss:
                break
            more += timeout
            timeout *= 2
        return more

    def _corrupted(self, data: bytes, packets: int) -> bytes | bytearray:
        hits = self._corrupt.among(packets)
        if not hits:
            return data
        changed = bytearray(data)
        for hit in hits:
            start = hit * PACKET
            place = self._rng.randrange(start, min(start + PACKET, len(data)))
            changed[place] ^= self._rng.randrange(1, 256)
        return changed
