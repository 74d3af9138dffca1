"""How fast a rail's path is, from when the peer has read what was put on it. Pure.

What was measured grows old where a rail has nothing large to carry: the rate is then taken to be
higher and higher, up to the fastest rail's, until the rail is given a message again and shows what
it does now. So one that was slow for a while is tried again soon, and one that is very slow seldom.
"""

OVER = 0.02
"""Seconds with messages on their way over which a rate is measured."""
LASTS = 1.0
"""Seconds after which what was measured is old, and is doubled."""


class Pace:
    """The rate of one rail's connection."""

    def __init__(self) -> None:
        self.rate = 0.0
        """Bytes/s of large messages that the peer read lately; 0: not known."""
        self._known = 0.0  # when the rate was measured, or doubled
        self._old = False  # whether it was doubled since
        self._read = 0.0  # when the peer was last known to have read a message
        self._seconds = 0.0  # with messages on their way, since the rate was measured
        self._bytes = 0  # that the peer has read in that time

    def heard(self, now: float) -> None:
        """Take note that the peer has read small messages; it says so when that comes in handy."""
        self._read = now

    def measure(self, length: int, begun: float, now: float) -> None:
        """Take note that the peer has read messages of `length` bytes, put on the rail at `begun`.

        The last of them was large: such ones are acknowledged at once.
        """
        self._seconds += max(0.0, now - max(begun, self._read))
        self._bytes += length
        self._read = self._known = now
        if self._seconds > OVER:
            lately = self._bytes / self._seconds
            self.rate = (self.rate + lately) / 2 if self.rate and not self._old else lately
            self._forget()

    def age(self, now: float, fastest: float) -> None:
        """Take note that no large message is on the rail; `fastest` is the fastest rail's rate."""
        doublings = (now - self._known) // LASTS
        if self.rate and doublings >= 1:
            self.rate = max(self.rate, min(self.rate * 2.0 ** min(doublings, 60.0), fastest))
            self._known = now
            self._forget()
            self._old = True

    def _forget(self) -> None:
        self._seconds, self._bytes, self._old = 0.0, 0, False
