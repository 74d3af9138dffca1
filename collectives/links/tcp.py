"""The transport over TCP links: it waits for what the links bring, and gives up after a while.

`link.py` decides what is sent, `connections.py` has the sockets. One thread at a time calls in (see
`work.py`), but for what another may `send` and `post` while that one sleeps.
"""

import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from holdfast.collectives.links.connections import Address, Connections, Peer
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.witness import Blind, Witness
from holdfast.collectives.work import Rest
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost

SPINS = 40
"""How often a waiting rank looks at the sockets before it sleeps until something moves."""


class RailFigures(NamedTuple):
    """What went over one rail so far: payload and frames, in bytes."""

    rail: int
    address: Address
    sent: int
    received: int
    connected: bool


class TcpTransport:
    """Moves messages between the ranks of one epoch over TCP links that outlive connections.

    `listeners` are this rank's listening sockets, one for each of its interfaces, which the
    transport owns from now on; `addresses` are all ranks' (host, port), one for each interface.
    `sources` are the addresses that this rank's interfaces dial from (None: any). Between two ranks
    there are `config.rails` connections for each interface of the one that has more; rail k uses
    each side's interface number k, counted around. Thread safety: one thread at a time.

    Raises UsageError for a congestion control that this kernel does not have or allow.
    """

    def __init__(
        self,
        rank: int,
        listeners: Sequence[socket.socket],
        addresses: Sequence[Sequence[Address]],
        token: bytes,
        *,
        epoch: int = 0,
        sources: Sequence[str | None] = (None,),
        timeout: float = 300.0,
        config: LinkConfig | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = len(addresses)
        self._config = config or LinkConfig()
        self._epoch = epoch
        self._timeout = timeout
        self._connections = Connections(
            rank,
            listeners,
            addresses,
            token,
            epoch=epoch,
            sources=sources,
            config=self._config,
            witness=witness or Blind(),
        )
        self._messages = 0  # that were given to `send`
        # Those that are borrowed: how many were sent with each, its link and its number there.
        self._lent: deque[tuple[int, Peer, int]] = deque()
        self._closed = False
        self._aborted = False
        self._gave_up = False

    # The Transport protocol

    @property
    def asleep(self) -> Rest:
        """See `Transport`."""
        return self._connections.asleep

    @asleep.setter
    def asleep(self, context: Rest) -> None:
        self._connections.asleep = context

    def send(self, peer: int, data: memoryview, tag: int = 0) -> None:
        """Queue `data` for `peer`; if it is large (`copy_limit`), it is borrowed until `flush`."""
        place = self._connections.peer(peer)
        place.link.send(data, tag)
        self._messages += 1
        if len(data) > self._config.copy_limit:
            self._lent.append((self._messages, place, place.link.numbered))
        self._connections.write(place)
        self._connections.stir(place)

    def post(self, peer: int, into: memoryview, tag: int = 0) -> None:
        """Let the next message of `peer` that has no place yet go to `into`."""
        place = self._connections.peer(peer)
        place.link.expect(into, tag)
        self._connections.stir(place)

    def wait(self, peer: int) -> None:
        """Return when the oldest place posted for `peer` is filled.

        Raises DeadlineExceeded when nothing has moved on any link for the timeout, ProtocolError or
        CollectiveMismatch when the peer sends something else.
        """
        place = self._connections.peer(peer)
        number = place.taken
        place.taken += 1
        if self._connections.care_is_due:  # also where no wait ever leaves time for it
            self._connections.turn(0.0)
        if place.link.received <= number:
            self._connections.read(place)
            self._connections.write(place)
            if place.link.received <= number:
                self._wait(lambda: place.link.received > number, place, "a message of")

    def flush(self, count: int | None = None) -> None:
        """Return when no buffer of the first `count` messages (None: of all) is borrowed."""
        while self._lent and (count is None or self._lent[0][0] <= count):
            _, place, number = self._lent.popleft()
            if place.link.acknowledged < number:
                place.link.flushing = True
                try:
                    has = partial(_has_acknowledged, place.link, number)
                    self._wait(has, place, "an acknowledgement of")
                finally:
                    place.link.flushing = False

    def service(self) -> None:
        """Answer what has come, without waiting."""
        if not self._closed:
            self._connections.turn(0.0)

    def abort(self) -> None:
        """Make a wait in another thread end with an error."""
        self._aborted = True

    def close(self, *, graceful: bool = True) -> None:
        """Close every socket; may be called again.

        If graceful, wait at most `LinkConfig.linger` until the peers have the small messages that
        were sent last, over a new connection if need be; not where a wait has given up already.
        Peers are told either way, if their sockets take it.
        """
        if self._closed:
            return
        self._closed = self._connections.closing = True
        if graceful and not self._aborted and not self._gave_up:
            with contextlib.suppress(CommunicationError):  # what broke the job is known already
                self._linger()
        for place in self._connections.peers.values():
            place.link.leave(at_once=True)  # what lingering did not get through never will
            self._connections.write(place)
        self._connections.close()

    def rails(self, peer: int) -> list[RailFigures]:
        """Return what went over each rail of the link to `peer`."""
        return [
            RailFigures(c.rail.number, c.address, c.sent, c.received, c.sock is not None)
            for c in self._connections.peer(peer).carriers
        ]

    def _linger(self) -> None:
        end = time.monotonic() + self._config.linger
        for place in self._connections.peers.values():
            place.link.acknowledge_soon()  # so that the peer need not linger
            self._connections.write(place)
        while time.monotonic() < end:
            if all(self._settled(place) for place in self._connections.peers.values()):
                return
            self._connections.turn(0.01)

    def _settled(self, place: Peer) -> bool:
        """Return whether a peer has all that was sent to it, or is known to be gone."""
        link = place.link
        refused = os.strerror(errno.ECONNREFUSED)
        gone = all(c.sock is None and c.trouble == refused for c in place.carriers)
        return gone or link.left or link.acknowledged == link.numbered

    # Waiting

    def _wait(self, arrived: Callable[[], bool], place: Peer, what: str) -> None:
        """Turn until `arrived`; give up when no byte has moved on any link for the timeout."""
        for _ in range(SPINS if self.asleep.hurried else 0):
            if not place.stands:
                break
            self._connections.read(place)
            if arrived():
                self._connections.write(place)
                return
            os.sched_yield()
        progress, since = self._progress(), time.monotonic()
        while not arrived():
            if self._aborted:
                raise CommunicationError(
                    f"closed while rank {self.rank} awaited {what} {place.rank}"
                )
            self._connections.turn()
            if place.link.left and not arrived():
                raise PeerLost(
                    f"rank {self.rank} awaited {what} rank {place.rank}, which has left the group "
                    f"(epoch {self._epoch}): its own output says why"
                )
            if (now_at := self._progress()) != progress:
                progress, since = now_at, time.monotonic()
            elif time.monotonic() - since > self._timeout:
                self._gave_up = True
                where = " and ".join(f"{c.address[0]}:{c.address[1]}" for c in place.carriers)
                raise DeadlineExceeded(
                    f"rank {self.rank} waited {self._timeout:.1f} s for {what} rank {place.rank} "
                    f"at {where} (epoch {self._epoch}) and nothing moved on any link; the link "
                    f"{'stands' if place.stands else 'is broken: ' + place.trouble}. Is that rank "
                    "alive, and can the two hosts reach each other?"
                )
        self._connections.write(place)

    def _progress(self) -> int:
        """Return a number that grows while anything gets further, on whatever link."""
        return sum(place.link.progress for place in self._connections.peers.values())


def _has_acknowledged(link: Link, number: int) -> bool:
    return link.acknowledged >= number
