"""A pipe: what one condition does to the packets that pass it, in virtual time. Pure.

Time and chance are arguments. Two pipes one behind the other are asked one after the other: when
a packet leaves the first is when it comes to the second.
"""

import math
import random

from holdfast.fabric.condition import Condition

QUEUE_SECONDS = 0.05
QUEUE_BYTES = 128 << 10
"""How much waits before a slow pipe: what arrives in `QUEUE_SECONDS`, and at least this much."""


def queue_bytes(rate: float) -> int:
    """Return how many bytes may wait for a pipe of `rate` bit/s before packets are dropped."""
    return max(QUEUE_BYTES, int(rate / 8 * QUEUE_SECONDS))


class Pipe:
    """One place's condition in force. Not thread-safe."""

    def __init__(self, condition: Condition, rng: random.Random) -> None:
        self.condition = condition
        self._rng = rng
        self._free = -math.inf  # when the last packet has been sent off
        self._last = -math.inf  # when the last packet comes out

    @property
    def counts_packets(self) -> bool:
        """Whether each packet meets its own fate, so that none may be joined with another."""
        condition = self.condition
        return bool(condition.loss or condition.reordering or condition.corruption)

    def admit(self, now: float, size: int) -> float | None:
        """Return when a packet of `size` bytes that comes `now` gets out; None if it never does.

        Packets stay in order, also with jitter, but for those that `reordering` has overtaken.
        """
        condition = self.condition
        if condition.blocked or self._rng.random() < condition.loss:
            return None
        out = now
        if condition.rate < math.inf:
            begins = max(self._free, now)
            if (begins - now) * condition.rate / 8 > queue_bytes(condition.rate):
                return None
            self._free = out = begins + size * 8 / condition.rate
        out += condition.latency + condition.jitter * self._rng.random()
        out = self._last = max(out, self._last)
        if self._rng.random() < condition.reordering:
            out += condition.overtaken
        return out

    def spoils(self) -> bool:
        """Return whether the packet that was just admitted is to be corrupted."""
        return self._rng.random() < self.condition.corruption
