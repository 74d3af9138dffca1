"""Links over TCP: the sockets below `link.py`, and nothing that decides what is sent.

Of two ranks the higher one dials each rail, the lower one listens. A connection that breaks, or on
which nothing has moved for a while, is closed and dialled again, for ever and with growing pauses;
the link above goes on over the other rails, or where it was. One thread at a time calls in (see
`work.py`).
"""

import contextlib
import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from holdfast.collectives.links.door import Door
from holdfast.collectives.links.frame import HEADER_SIZE, CorruptFrame
from holdfast.collectives.links.handshake import Hello
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.links.rail import Rail
from holdfast.collectives.links.redial import Redial
from holdfast.collectives.links.resolver import Resolver
from holdfast.collectives.links.sockets import Connection, flight, queued, tune
from holdfast.collectives.links.tls import TlsSocket
from holdfast.collectives.witness import Blind, Witness
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost, ProtocolError

SPINS = 40
"""How often a waiting rank looks at the sockets before it sleeps until something moves."""

log = logging.getLogger("holdfast.link")

Address = tuple[str, int]


class RailFigures(NamedTuple):
    """What went over one rail so far: payload and frames, in bytes."""

    rail: int
    address: Address
    sent: int
    received: int
    connected: bool


@dataclass(eq=False)
class _Carrier:
    """What carries one rail: a connection, which comes and goes."""

    place: "_Peer"
    rail: Rail
    address: Address
    source: str | None
    redial: Redial
    sock: Connection | None = None
    interest: int = 0
    """What epoll watches the socket for; -1: it hung up, and only reading tells more."""
    dialing: bool = False
    progress: int = 0
    """The link's when the connection was made: one that brings nothing is redialled slowly."""
    queued: int = 0
    trouble: str = "no connection was made yet"
    connections: int = 0
    lost_at: float = 0.0
    sent: int = 0
    received: int = 0


@dataclass(eq=False)
class _Peer:
    """What belongs to one peer: the link, which stays, and what carries its rails."""

    rank: int
    link: Link
    carriers: list[_Carrier] = field(default_factory=list)
    taken: int = 0
    """Messages that `wait` has returned for."""
    told: int = 0
    """The bytes, both ways, that the witness was told of."""

    @property
    def stands(self) -> bool:
        """Whether any rail has a connection."""
        return any(carrier.sock is not None for carrier in self.carriers)

    @property
    def trouble(self) -> str:
        """What ended the last connections."""
        return "; ".join(dict.fromkeys(carrier.trouble for carrier in self.carriers))


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
        self._addresses = addresses
        self._sources = sources
        with socket.socket() as trial:
            tune(trial, self._config, several=False)  # what the kernel lacks is told here
        self._poll = select.epoll()
        several = max(self._rails(peer) for peer in range(self.world_size)) > 1
        self._door = Door(listeners, token, self._poll, self, config=self._config, several=several)
        self._witness = witness or Blind()
        self._resolver = Resolver()
        self._peers: dict[int, _Peer] = {}
        self._by_fd: dict[int, _Carrier] = {}
        self._pause = self._config.patience / 4 if several else self._config.heartbeat / 4
        self._next_care = 0.0
        self._next_look = 0.0 if several else float("inf")
        self._closed = False
        self._aborted = False

    # The Transport protocol

    def send(self, peer: int, data: memoryview, tag: int = 0) -> None:
        """Queue `data` for `peer`; if it is large (`copy_limit`), it is borrowed until `flush`."""
        place = self._peer(peer)
        place.link.send(data, tag)
        self._write(place)

    def post(self, peer: int, into: memoryview, tag: int = 0) -> None:
        """Let the next message of `peer` that has no place yet go to `into`."""
        self._peer(peer).link.expect(into, tag)

    def wait(self, peer: int) -> None:
        """Return when the oldest place posted for `peer` is filled.

        Raises DeadlineExceeded when nothing has moved on any link for the timeout, ProtocolError or
        CollectiveMismatch when the peer sends something else.
        """
        place = self._peer(peer)
        number = place.taken
        place.taken += 1
        if time.monotonic() >= self._next_care:  # also where no wait ever leaves time for it
            self._turn(0.0)
        if place.link.received <= number:
            self._read(place)
            self._write(place)
            if place.link.received <= number:
                self._wait(lambda: place.link.received > number, place, "a message of")

    def flush(self) -> None:
        """Return when no buffer is borrowed any more."""
        for place in list(self._peers.values()):
            if not place.link.flushed:
                self._wait(partial(_flushed, place), place, "an acknowledgement of")

    def service(self) -> None:
        """Answer what has come, without waiting."""
        if not self._closed:
            self._turn(0.0)

    def abort(self) -> None:
        """Make a wait in another thread end with an error."""
        self._aborted = True

    def close(self, *, graceful: bool = True) -> None:
        """Close every socket; may be called again.

        If graceful, wait a few seconds at most until the peers have the small messages that were
        sent last, over a new connection if need be. Peers are told either way, if
        their sockets take it.
        """
        if self._closed:
            return
        self._closed = True
        if graceful and not self._aborted:
            with contextlib.suppress(CommunicationError):  # what broke the job is known already
                self._linger()
        for place in self._peers.values():
            place.link.leave(at_once=True)  # what lingering did not get through never will
            self._write(place)
        for carrier in list(self._by_fd.values()):
            if carrier.sock is not None:
                carrier.sock.close()
        self._door.close()
        self._poll.close()

    def rails(self, peer: int) -> list[RailFigures]:
        """Return what went over each rail of the link to `peer`."""
        return [
            RailFigures(c.rail.number, c.address, c.sent, c.received, c.sock is not None)
            for c in self._peer(peer).carriers
        ]

    def _linger(self) -> None:
        end = time.monotonic() + 2 * self._config.silence
        for place in self._peers.values():
            place.link.acknowledge_soon()  # so that the peer need not linger
            self._write(place)
        while time.monotonic() < end:
            if all(self._settled(place) for place in self._peers.values()):
                return
            self._turn(0.01)

    def _settled(self, place: _Peer) -> bool:
        """Return whether a peer has all that was sent to it, or is known to be gone."""
        link = place.link
        refused = os.strerror(errno.ECONNREFUSED)
        gone = all(c.sock is None and c.trouble == refused for c in place.carriers)
        return gone or link.left or link.acknowledged == link.numbered

    # Waiting

    def _wait(self, arrived: Callable[[], bool], place: _Peer, what: str) -> None:
        """Turn until `arrived`; give up when no byte has moved on any link for the timeout."""
        for _ in range(SPINS):
            if not place.stands:
                break
            self._read(place)
            if arrived():
                self._write(place)
                return
            os.sched_yield()
        progress, since = self._progress(), time.monotonic()
        while not arrived():
            if self._aborted:
                raise CommunicationError(
                    f"closed while rank {self.rank} awaited {what} {place.rank}"
                )
            self._turn(self._pause)
            if place.link.left and not arrived():
                raise PeerLost(
                    f"rank {self.rank} awaited {what} rank {place.rank}, which has left the group "
                    f"(epoch {self._epoch}): its own output says why"
                )
            if (now_at := self._progress()) != progress:
                progress, since = now_at, time.monotonic()
            elif time.monotonic() - since > self._timeout:
                where = " and ".join(f"{c.address[0]}:{c.address[1]}" for c in place.carriers)
                raise DeadlineExceeded(
                    f"rank {self.rank} waited {self._timeout:.1f} s for {what} rank {place.rank} "
                    f"at {where} (epoch {self._epoch}) and nothing moved on any link; the link "
                    f"{'stands' if place.stands else 'is broken: ' + place.trouble}. Is that rank "
                    "alive, and can the two hosts reach each other?"
                )
        self._write(place)

    def _progress(self) -> int:
        """Return a number that grows while anything gets further, on whatever link."""
        return sum(place.link.progress for place in self._peers.values())

    def _turn(self, timeout: float) -> None:
        """Let something happen, wait for it at most `timeout` seconds, and deal with it."""
        for carrier in list(self._by_fd.values()):
            if self._watch(carrier):
                timeout = 0.0
        for fd, event in self._poll.poll(timeout):
            if self._door.handle(fd) or fd not in self._by_fd:
                continue
            carrier = self._by_fd[fd]
            if event & ~select.EPOLLOUT:
                self._read_rail(carrier, event)
            self._write(carrier.place)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._pause
            self._look(now)
        if now >= self._next_care:
            self._next_care = now + self._config.heartbeat / 4
            self._care(now)
        for place in self._peers.values():
            for carrier in place.carriers:
                if carrier.sock is None:
                    self._dial(carrier, now)

    def _look(self, now: float) -> None:
        """Let each rail that waits for its peer's host know how that stands."""
        for place in self._peers.values():
            if not place.stands:
                continue
            for carrier in place.carriers:
                if carrier.sock is not None and (carrier.rail.busy or carrier.rail.suspected):
                    carrier.rail.observe(now, flight(carrier.sock))
            self._write(place)  # what a suspected rail lent, another may send

    def _care(self, now: float) -> None:
        """Heartbeats, silent connections, handshakes that lead nowhere."""
        for carrier in list(self._by_fd.values()):
            if carrier.sock is None:
                continue
            waiting = queued(carrier.sock)
            if waiting < carrier.queued - HEADER_SIZE:
                carrier.rail.moved(now)  # a heartbeat that a kernel took says nothing of the peer
            carrier.queued = waiting
            if carrier.rail.silent(now):
                self._break(carrier, f"nothing moved for {self._config.silence:.3g} s")
        for place in self._peers.values():
            self._write(place)
            sent = sum(carrier.sent for carrier in place.carriers)
            received = sum(carrier.received for carrier in place.carriers)
            if place.told != sent + received:
                place.told = sent + received
                self._witness.traffic(place.rank, sent, received)
        self._door.expire(now)

    # Bytes

    def _read(self, place: _Peer) -> None:
        for carrier in place.carriers:
            if carrier.sock is not None:
                self._read_rail(carrier)

    def _read_rail(self, carrier: _Carrier, event: int = 0) -> None:
        rail, sock = carrier.rail, carrier.sock
        assert sock is not None
        buffered = isinstance(sock, TlsSocket)
        now = time.monotonic()
        while (into := rail.wanted(now)) is not None:
            try:
                count = sock.recv_into(into)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(carrier, error.strerror or str(error))
                return
            if count == 0:
                self._break(carrier, "the peer closed it")
                return
            carrier.received += count
            now = time.monotonic()
            try:
                rail.filled(count, now)
            except CorruptFrame as error:
                self._break(carrier, str(error))
                return
            except ProtocolError:
                self._break(carrier, "it broke the protocol")
                raise
            if count < len(into) and not buffered:
                return
        if event & (select.EPOLLHUP | select.EPOLLERR) and carrier.interest >= 0:
            # What it holds is not awaited yet; epoll would tell of its end without end.
            self._poll.unregister(sock.fileno())
            carrier.interest = -1

    def _write(self, place: _Peer) -> None:
        """Let out what is due on every rail of a link in turn, as far as the sockets take it."""
        ready = [carrier for carrier in place.carriers if carrier.sock is not None]
        while ready:
            ready = [carrier for carrier in ready if self._write_rail(carrier)]

    def _write_rail(self, carrier: _Carrier) -> bool:
        """Write what a rail has next; return whether it may go on."""
        rail, sock = carrier.rail, carrier.sock
        if sock is None or not (buffers := rail.gather(time.monotonic())):
            return False
        try:
            count = sock.sendmsg(buffers)
        except BlockingIOError:
            return False
        except OSError as error:
            self._break(carrier, error.strerror or str(error))
            return False
        rail.wrote(count)
        carrier.sent += count
        return True

    def _watch(self, carrier: _Carrier) -> bool:
        """Tell the kernel what this rail waits for; return whether it can go on at once."""
        sock = carrier.sock
        if sock is None or carrier.interest < 0:
            return False
        now = time.monotonic()
        wanted = select.EPOLLIN if carrier.rail.wanted(now) is not None else 0
        if wanted and isinstance(sock, TlsSocket) and sock.pending():
            self._read_rail(carrier)  # the kernel does not tell of what is decrypted already
            return True
        if carrier.rail.gather(now):
            wanted |= select.EPOLLOUT
        if wanted != carrier.interest:
            self._poll.modify(sock.fileno(), wanted)
            carrier.interest = wanted
        return False

    # Connections

    def _rails(self, peer: int) -> int:
        """Return how many rails the link to `peer` has."""
        more = max(len(self._addresses[self.rank]), len(self._addresses[peer]))
        return more * self._config.rails

    def _peer(self, rank: int) -> _Peer:
        place = self._peers.get(rank)
        if place is None:
            link = Link(self.rank, rank, self._epoch, self._config, self._rails(rank))
            place = self._peers[rank] = _Peer(rank, link)
            there = self._addresses[rank]
            place.carriers = [
                _Carrier(
                    place,
                    rail,
                    there[rail.number % len(there)],
                    self._sources[rail.number % len(self._sources)],
                    Redial(self._config),
                )
                for rail in link.rails
            ]
        return place

    def _break(self, carrier: _Carrier, why: str) -> None:
        """Give up a rail's connection; the link stays."""
        assert carrier.sock is not None
        place = carrier.place
        log.info("%s, rail %d: connection lost: %s", place.link, carrier.rail.number, why)
        self._by_fd.pop(carrier.sock.fileno())
        if carrier.interest >= 0:
            self._poll.unregister(carrier.sock.fileno())
        carrier.sock.close()
        carrier.sock = None
        carrier.rail.detach()
        useful = place.link.progress > carrier.progress
        carrier.lost_at = time.monotonic()
        carrier.redial.postpone(carrier.lost_at, useful=useful)
        carrier.trouble = why
        if not place.link.left and not self._closed:
            self._witness.link_lost(place.rank, why)
        self._write(place)  # what it carried, other rails may

    def _dial(self, carrier: _Carrier, now: float) -> None:
        """Begin a connection to a lower rank, if it is time to."""
        peer = carrier.place.rank
        if peer > self.rank or carrier.dialing or carrier.place.link.left:
            return
        if now >= carrier.redial.due:
            address = self._resolver.resolve(carrier.address)
            if isinstance(address, OSError):
                carrier.redial.postpone(now)
                carrier.trouble = str(address)
            elif address is not None:
                carrier.dialing = True
                received = carrier.place.link.received
                hello = Hello(self.rank, peer, self._epoch, carrier.rail.number, received)
                self._door.dial(address, hello, carrier.source)

    # What the door asks and tells

    def admit(self, hello: Hello) -> int:
        """Return how many messages this side has of the rank that dials."""
        if hello.peer != self.rank or hello.epoch != self._epoch:
            raise ProtocolError(f"rank {hello.rank} of epoch {hello.epoch} wants rank {hello.peer}")
        if not self.rank < hello.rank < self.world_size:
            raise ProtocolError(f"rank {hello.rank} dials rank {self.rank}: the higher one dials")
        place = self._peer(hello.rank)
        if hello.rail >= len(place.carriers):
            raise ProtocolError(
                f"rank {hello.rank} dials rail {hello.rail} of a link of {len(place.carriers)}"
            )
        place.link.check(hello.received)
        carrier = place.carriers[hello.rail]
        if carrier.sock is not None:  # the peer has given it up already
            self._break(carrier, "the peer dialled again")
        return place.link.received

    def check(self, peer: int, received: int) -> None:
        """Raise ProtocolError if the dialled peer cannot have `received` messages."""
        self._peers[peer].link.check(received)

    def settle(self, peer: int, rail: int, sock: Connection, received: int) -> None:
        """Let a rail of the link to `peer` go on over `sock`."""
        place = self._peer(peer)
        carrier = place.carriers[rail]
        carrier.dialing = False
        carrier.rail.attach(received, time.monotonic())
        if carrier.connections:
            log.info("%s, rail %d: connected again after: %s", place.link, rail, carrier.trouble)
            self._witness.link_restored(peer, time.monotonic() - carrier.lost_at)
        carrier.connections += 1
        carrier.progress = place.link.progress
        carrier.sock = sock
        carrier.queued = 0
        carrier.interest = select.EPOLLIN
        self._by_fd[sock.fileno()] = carrier
        self._poll.register(sock.fileno(), carrier.interest)
        self._write(place)

    def fail(self, peer: int, rail: int, why: str) -> None:
        """Dial a rail to `peer` again later."""
        carrier = self._peers[peer].carriers[rail]
        carrier.dialing = False
        carrier.redial.postpone(time.monotonic())
        carrier.trouble = why


def _flushed(place: _Peer) -> bool:
    return place.link.flushed
