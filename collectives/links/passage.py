"""Whether what a rail sends gets through, from what the kernel says of it now and then. Pure."""

from typing import NamedTuple

LEAST_ROUND_TRIPS = 4
"""Nothing is stuck before this many times the least round trip is over."""
ROUND_TRIPS = 2
"""Nor before this many of the round trips that the kernel has seen lately.

Not more: where only acknowledgements were lost, the kernel takes the outage for a round trip.
"""


class Flight(NamedTuple):
    """What the kernel knows of what was sent on a rail's connection; times in seconds.

    `in_flight`: whether bytes that the peer's host would take are not acknowledged by it;
    `acknowledged`: how many it has acknowledged.
    """

    in_flight: bool
    acknowledged: int
    round_trip: float
    least_round_trip: float


class Passage:
    """What is known of one rail's connection."""

    def __init__(self) -> None:
        self.in_flight = False
        """Whether anything was under way when it was last looked, or has been sent since."""
        self.round_trip = 0.0
        """Seconds, the least that the kernel has seen; 0: not known."""
        self._acknowledged = -1  # bytes, by the peer's host, when it was last looked
        self._stuck_since = 0.0
        self._patience = 0.0  # beside that of whoever asks

    def sent(self, now: float) -> None:
        """Take note that bytes are given to the connection."""
        if not self.in_flight:
            self.in_flight = True
            self._stuck_since = now

    def look(self, now: float, flight: Flight) -> bool:
        """Take note of what the kernel says; return whether what is under way gets further."""
        moved = not flight.in_flight or flight.acknowledged != self._acknowledged
        if moved:
            self._stuck_since = now
        self.in_flight = flight.in_flight
        self.round_trip = flight.least_round_trip
        self._acknowledged = flight.acknowledged
        self._patience = max(
            ROUND_TRIPS * flight.round_trip, LEAST_ROUND_TRIPS * flight.least_round_trip
        )
        return moved

    def stuck(self, now: float, patience: float) -> bool:
        """Return whether nothing has got further for `patience`, and a few round trips."""
        return self.in_flight and now - self._stuck_since > max(patience, self._patience)
