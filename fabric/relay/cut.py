"""A relay in front of one listener that cuts connections at a given byte.

Where a fault falls is given by connection, direction and number of bytes, not by time, so that a
test cuts the same place every time.
"""

from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Literal

from holdfast.fabric.relay.connection import Address, How, Route, Way
from holdfast.fabric.relay.relay import Relay
from holdfast.fabric.topology import Lane

Direction = Literal["up", "down"]
"""`up` is from the end that dialled to the end that listens."""

_LANES: dict[Direction, Lane] = {"up": Lane(0, True), "down": Lane(0, False)}


@dataclass(frozen=True)
class Cut:
    """Cut connection number `connection` when `after` bytes have gone through in `direction`.

    A `reset` tells both ends at once; after a `stall` nothing comes through and nobody is told.
    """

    connection: int
    direction: Direction
    after: int
    how: How


class CutRelay:
    """Relays connections from its own `address` to `target`; a context manager.

    `cuts` are carried out once each.
    """

    def __init__(self, target: Address, cuts: tuple[Cut, ...] = ()) -> None:
        self._target = target
        self._cuts = {(cut.connection, cut.direction): cut for cut in cuts}
        self._numbers = count()
        self._relay = Relay()
        self.address = self._relay.listen((target[0], 0), self._admit)

    @property
    def passed(self) -> dict[Direction, int]:
        """Bytes that went through, over all connections."""
        passed = self._relay.passed()
        return {direction: passed.get(lane, 0) for direction, lane in _LANES.items()}

    @property
    def cuts_made(self) -> int:
        """How many of the cuts have been carried out."""
        return self._relay.cuts_made

    def close(self) -> None:
        """End every connection and the thread; may be called again."""
        self._relay.close()

    def __enter__(self) -> "CutRelay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _admit(self, dialler: Address) -> Route:
        number = next(self._numbers)
        return Route(self._target, self._way(number, "up"), self._way(number, "down"))

    def _way(self, number: int, direction: Direction) -> Way:
        cut = self._cuts.get((number, direction))
        places = (_LANES[direction],)
        return Way(places) if cut is None else Way(places, cut.after, cut.how)
