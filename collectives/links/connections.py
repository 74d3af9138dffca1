"""The connections that carry the links of a rank: dialled, let in, read, written, dialled again.

Of two ranks the higher one dials each rail, the lower one listens. A connection that breaks, or on
which nothing has moved for a while, is closed and dialled again, for ever and with growing pauses;
the link above goes on over the other rails, or where it was.
"""

import logging
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.collectives.links.door import Door
from holdfast.collectives.links.frame import HEADER_SIZE, CorruptFrame
from holdfast.collectives.links.handshake import Hello
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.links.rail import Rail
from holdfast.collectives.links.redial import Redial
from holdfast.collectives.links.resolver import Resolver
from holdfast.collectives.links.sockets import Connection, flight, queued, tune
from holdfast.collectives.links.tls import TlsSocket
from holdfast.collectives.witness import Witness
from holdfast.collectives.work import Rest
from holdfast.errors import ProtocolError

WORTH_WAKING = 256 << 10
"""Bytes of a message for which a thread is woken beside a computation, which each time costs."""

log = logging.getLogger("holdfast.link")

Address = tuple[str, int]


@dataclass(eq=False)
class Carrier:
    """What carries one rail: a connection, which comes and goes."""

    place: "Peer"
    rail: Rail
    address: Address
    source: str | None
    redial: Redial
    sock: Connection | None = None
    interest: int = 0
    """What epoll watches the socket for; -1: it hung up, and only reading tells more."""
    dialing: bool = False
    queued: int = 0
    trouble: str = "no connection was made yet"
    worth_waking: int = 1
    """Bytes that have to be there before the kernel tells of them."""
    connections: int = 0
    lost_at: float = 0.0
    sent: int = 0
    received: int = 0


@dataclass(eq=False)
class Peer:
    """What belongs to one peer: the link, which stays, and what carries its rails."""

    rank: int
    link: Link
    carriers: list[Carrier] = field(default_factory=list)
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


class Connections:
    """All connections of one rank, and the one place where it waits for them.

    `listeners`, `addresses` and `sources` are those of `TcpTransport`. While `turn` sleeps it is in
    the context `asleep`; another thread may `write` and `stir` then.
    """

    def __init__(
        self,
        rank: int,
        listeners: Sequence[socket.socket],
        addresses: Sequence[Sequence[Address]],
        token: bytes,
        *,
        epoch: int,
        sources: Sequence[str | None],
        config: LinkConfig,
        witness: Witness,
    ) -> None:
        self.rank = rank
        self.peers: dict[int, Peer] = {}
        self.asleep: Rest = Rest()
        self._sleeping = False
        self._config = config
        self._epoch = epoch
        self._addresses = addresses
        self._sources = sources
        with socket.socket() as trial:
            tune(trial, config, several=False)  # what the kernel lacks is told here
        self._poll = select.epoll()
        several = max(self._rails(peer) for peer in range(len(addresses))) > 1
        self._door = Door(listeners, token, self._poll, self, config=config, several=several)
        self._witness = witness
        self._resolver = Resolver()
        self._by_fd: dict[int, Carrier] = {}
        self._pause = config.patience / 4 if several else config.heartbeat / 4
        self._next_care = 0.0
        self._next_look = 0.0 if several else float("inf")
        self.closing = False
        """Whether a connection that is lost is no news any more."""

    @property
    def care_is_due(self) -> bool:
        """Whether `turn` has more to look after than what the kernel tells of."""
        return time.monotonic() >= self._next_care

    def turn(self, timeout: float | None = None) -> None:
        """Let something happen, wait for it at most `timeout` seconds, and deal with it.

        None: as long as nothing has to be looked after.
        """
        timeout = self._pause if timeout is None else timeout
        for carrier in list(self._by_fd.values()):
            if self._watch(carrier):
                timeout = 0.0
        for fd, event in self._sleep(timeout) if timeout else self._poll.poll(0.0):
            if self._door.handle(fd) or fd not in self._by_fd:
                continue
            carrier = self._by_fd[fd]
            if event & ~select.EPOLLOUT:
                self._read_rail(carrier, event)
            self.write(carrier.place)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._pause
            self._look(now)
        if now >= self._next_care:
            self._next_care = now + self._config.heartbeat / 4
            self._care(now)
        for place in self.peers.values():
            for carrier in place.carriers:
                if carrier.sock is None:
                    self._dial(carrier, now)

    def _sleep(self, timeout: float) -> list[tuple[int, int]]:
        """Wait until something moves; others may send and post meanwhile."""
        self._sleeping = True
        try:
            with self.asleep:
                return self._poll.poll(timeout)
        finally:
            self._sleeping = False

    def stir(self, place: Peer) -> None:
        """Have the thread that sleeps be told of what a link can do now that it could not then."""
        if self._sleeping:
            for carrier in place.carriers:
                while self._watch(carrier):
                    pass

    def _look(self, now: float) -> None:
        """Let each rail that waits for its peer's host know how that stands."""
        for place in self.peers.values():
            if not place.stands:
                continue
            for carrier in place.carriers:
                if carrier.sock is not None and (carrier.rail.busy or carrier.rail.suspected):
                    carrier.rail.observe(now, flight(carrier.sock))
            self.write(place)  # what a suspected rail lent, another may send

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
        for place in self.peers.values():
            self.read(place)  # a slow path's bytes may not be worth waking for
            self.write(place)
            sent = sum(carrier.sent for carrier in place.carriers)
            received = sum(carrier.received for carrier in place.carriers)
            if place.told != sent + received:
                place.told = sent + received
                self._witness.traffic(place.rank, sent, received)
        self._door.expire(now)

    # Bytes

    def read(self, place: Peer) -> None:
        """Read what has come on every rail of a link, as far as it is awaited."""
        for carrier in place.carriers:
            if carrier.sock is not None:
                self._read_rail(carrier)

    def _read_rail(self, carrier: Carrier, event: int = 0) -> None:
        try:
            self._take(carrier)
        except (CorruptFrame, ProtocolError) as error:
            self._spoilt(carrier, error)
        hung_up = event & (select.EPOLLHUP | select.EPOLLERR)
        if hung_up and carrier.sock is not None and carrier.interest >= 0:
            # What it holds is not awaited yet; epoll would tell of its end without end.
            self._poll.unregister(carrier.sock.fileno())
            carrier.interest = -1

    def _take(self, carrier: Carrier) -> None:
        """Read what has come and is awaited; raise CorruptFrame or ProtocolError."""
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
            rail.filled(count, now)
            if count < len(into) and not buffered:
                return

    def _spoilt(self, carrier: Carrier, error: CorruptFrame | ProtocolError) -> None:
        """Give up a connection over which something came that was not sent, or is never sent.

        Raises the latter.
        """
        if isinstance(error, CorruptFrame):
            self._break(carrier, str(error))
            return
        self._break(carrier, "it broke the protocol")
        raise error

    def write(self, place: Peer) -> None:
        """Let out what is due on every rail of a link in turn, as far as the sockets take it."""
        ready = [carrier for carrier in place.carriers if carrier.sock is not None]
        while ready:
            ready = [carrier for carrier in ready if self._write_rail(carrier)]

    def _write_rail(self, carrier: Carrier) -> bool:
        """Write what a rail has next; return whether it may go on."""
        rail, sock = carrier.rail, carrier.sock
        if sock is None or not (buffers := rail.gather(time.monotonic())):
            return False
        try:
            count = sock.sendmsg(buffers)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._sleeping:  # else the kernel wakes who sleeps, and that one is told, too
                self._break(carrier, error.strerror or str(error))
            return False
        rail.wrote(count)
        carrier.sent += count
        return True

    def _watch(self, carrier: Carrier) -> bool:
        """Tell the kernel what this rail waits for; return whether it can go on at once."""
        sock, now = carrier.sock, time.monotonic()
        if sock is None:
            return False
        try:
            into = carrier.rail.wanted(now)
        except (CorruptFrame, ProtocolError) as error:  # of a message without bytes
            self._spoilt(carrier, error)
            return True
        wanted = 0 if into is None else select.EPOLLIN
        # The kernel tells neither of what is decrypted already, nor of a hung up one.
        silent = carrier.interest < 0 or (isinstance(sock, TlsSocket) and sock.pending() > 0)
        if wanted and silent:
            self._read_rail(carrier)
            return True
        if carrier.interest < 0:
            return False
        if into is not None and not isinstance(sock, TlsSocket):
            worth = 1 if self.asleep.hurried else min(len(into), WORTH_WAKING)
            if worth != carrier.worth_waking:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, worth)
                carrier.worth_waking = worth
        if carrier.rail.gather(now):
            wanted |= select.EPOLLOUT
        if wanted != carrier.interest:
            self._poll.modify(sock.fileno(), wanted)
            carrier.interest = wanted
        return False

    def close(self) -> None:
        """Close every socket."""
        for carrier in self._by_fd.values():
            if carrier.sock is not None:
                carrier.sock.close()
        self._door.close()
        self._poll.close()

    # Making and losing them

    def _rails(self, peer: int) -> int:
        """Return how many rails the link to `peer` has."""
        more = max(len(self._addresses[self.rank]), len(self._addresses[peer]))
        return more * self._config.rails

    def peer(self, rank: int) -> Peer:
        """Return what belongs to a peer."""
        place = self.peers.get(rank)
        if place is None:
            link = Link(self.rank, rank, self._epoch, self._config, self._rails(rank))
            place = self.peers[rank] = Peer(rank, link)
            there = self._addresses[rank]
            place.carriers = [
                Carrier(
                    place,
                    rail,
                    there[rail.number % len(there)],
                    self._sources[rail.number % len(self._sources)],
                    Redial(self._config),
                )
                for rail in link.rails
            ]
        return place

    def _break(self, carrier: Carrier, why: str) -> None:
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
        carrier.lost_at = time.monotonic()
        carrier.redial.postpone(carrier.lost_at, useful=carrier.rail.brought > 0)
        carrier.trouble = why
        if not place.link.left and not self.closing:
            self._witness.link_lost(place.rank, why)
        self.write(place)  # what it carried, other rails may

    def _dial(self, carrier: Carrier, now: float) -> None:
        """Begin a connection to a lower rank, if it is time to."""
        peer = carrier.place.rank
        if peer > self.rank or carrier.dialing or carrier.place.link.left:
            return
        if now >= carrier.redial.due:
            address = self._resolver.resolve(carrier.address, carrier.redial.failures)
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
        if not self.rank < hello.rank < len(self._addresses):
            raise ProtocolError(f"rank {hello.rank} dials rank {self.rank}: the higher one dials")
        place = self.peer(hello.rank)
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
        self.peers[peer].link.check(received)

    def settle(self, peer: int, rail: int, sock: Connection, received: int) -> None:
        """Let a rail of the link to `peer` go on over `sock`."""
        place = self.peer(peer)
        carrier = place.carriers[rail]
        carrier.dialing = False
        carrier.rail.attach(received, time.monotonic())
        if carrier.connections:
            log.info("%s, rail %d: connected again after: %s", place.link, rail, carrier.trouble)
            self._witness.link_restored(peer, time.monotonic() - carrier.lost_at)
        carrier.connections += 1
        carrier.sock = sock
        carrier.queued = 0
        carrier.worth_waking = 1
        carrier.interest = select.EPOLLIN
        self._by_fd[sock.fileno()] = carrier
        self._poll.register(sock.fileno(), carrier.interest)
        self.write(place)

    def fail(self, peer: int, rail: int, why: str) -> None:
        """Dial a rail to `peer` again later."""
        carrier = self.peers[peer].carriers[rail]
        carrier.dialing = False
        carrier.redial.postpone(time.monotonic())
        carrier.trouble = why
