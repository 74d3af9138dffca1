"""Plain sockets as a measured library: they move as many bytes as a collective has to, no more.

Ranks 0 and 1 exchange them, 2 and 3, and so on: both ways at once, or the lower sends, as the
collective does. The time for it is the limit of the wire for that collective.
"""

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.collectives.rendezvous import Rendezvous
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES, Asked
from holdfast.launch.bandwidth.wire import Meeting, Wire, dial


class PlainSockets:
    """One end of a wire; `interfaces` are this host's addresses, one for each stream."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rank: int = settings["rank"]
        self.world_size: int = settings["world_size"]
        self.version = "plain sockets"
        timeout = settings["timeout"]
        own = settings.get("interfaces") or [settings["address"]]
        meeting = Meeting(own, timeout)
        try:
            with Rendezvous(
                self.rank,
                self.world_size,
                settings["master_addr"],
                settings["master_port"],
                bytes.fromhex(settings["token"]),
                listen_fd=settings["listen_fd"],
                source=settings["address"],
                timeout=timeout,
            ) as table:
                offers = table.exchange(meeting.offer)
            self._wire: Wire | None = None
            if self.rank % 2:
                self._wire = dial(offers[self.rank - 1], own, timeout)
            elif self.rank + 1 < self.world_size:
                self._wire = meeting.accept()
        finally:
            meeting.close()

    def operation(self, asked: Asked) -> tuple[None, None, Callable[[], None]]:
        """Return what moves the bytes; there is nothing to look at."""
        wire = self._wire
        if wire is None:
            return None, None, lambda: None
        collective = COLLECTIVES[asked.collective]
        size = int(asked.size * collective.factor(self.world_size))
        out = size if collective.both_ways or not self.rank % 2 else 0
        into = size if collective.both_ways or self.rank % 2 else 0

        def run() -> None:
            wire.exchange(out, into)

        return None, None, run

    def barrier(self) -> None:
        """Return when both ends of the wire have come here."""
        if self._wire is not None:
            self._wire.exchange(1, 1)

    def close(self) -> None:
        """Close the wire."""
        if self._wire is not None:
            self._wire.close()


def open_group(settings: Mapping[str, Any]) -> PlainSockets:
    """Connect this rank to the other end of its wire."""
    return PlainSockets(settings)
