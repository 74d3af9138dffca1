"""A gate: a place that traffic passes; its rate is shared by all, and it counts them. Pure.

The rate is kept by a virtual clock (Zhang, 1990), which is a token bucket without stored tokens: a
gate is free again when what it let in last has passed at its rate. An idle gate saves nothing up.
"""

import math


class Gate:
    """`rate` is in bit/s, `passed` counts bytes, all connections' together."""

    def __init__(self, rate: float = math.inf) -> None:
        self.rate = rate
        self.passed = 0
        self._free = -math.inf

    def change(self, rate: float, now: float) -> None:
        """Let another rate hold; what was let in before holds nobody up any more."""
        if rate != self.rate:
            self.rate = rate
            self._free = now

    def reserve(self, count: int, now: float) -> float:
        """Let in `count` bytes that came at `now`; return when their last one is through."""
        self._free = max(self._free, now) + 8 * count / self.rate
        return self._free
