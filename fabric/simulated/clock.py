"""A virtual clock: things happen in the order of their times, and of being asked for. Pure."""

import heapq
from collections.abc import Callable

_Call = Callable[[], None]


class _Due:
    """What is to be called, until it is called off."""

    __slots__ = ("call",)

    def __init__(self, call: _Call) -> None:
        self.call: _Call | None = call

    def cancel(self) -> None:
        """Call it off; may be called again, also when it is over."""
        self.call = None


class Clock:
    """The time of a simulation, in seconds from 0; it stands still while something happens."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, _Due]] = []
        self._count = 0

    def at(self, time: float, call: _Call) -> _Call:
        """Have `call` called at `time`, or now if that is over; return what cancels it."""
        due = _Due(call)
        self._count += 1
        heapq.heappush(self._due, (max(time, self.now), self._count, due))
        return due.cancel

    def later(self, delay: float, call: _Call) -> _Call:
        """Have `call` called in `delay` seconds; return what cancels it."""
        return self.at(self.now + delay, call)

    def step(self) -> bool:
        """Let the next thing happen; return whether there was one."""
        while self._due:
            time, _, due = heapq.heappop(self._due)
            if due.call is not None:
                self.now = time
                due.call()
                return True
        return False

    def clear(self) -> None:
        """Forget what was to come."""
        self._due.clear()
