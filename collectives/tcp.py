"""Links over TCP: the sockets below `link.py`, and nothing that decides what is sent.

Of two ranks the higher one dials, the lower one listens. A connection that breaks, or on which
nothing has moved for a while, is closed and dialled again, for ever and with growing pauses; the
link above goes on where it was. One thread at a time calls in (see `work.py`).
"""

import contextlib
import errno
import fcntl
import logging
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from holdfast.collectives.door import Door
from holdfast.collectives.handshake import Hello
from holdfast.collectives.link import HEADER, CorruptFrame, Link, LinkConfig
from holdfast.collectives.redial import Redial
from holdfast.collectives.witness import Blind, Witness
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost, ProtocolError

SPINS = 40
"""How often a waiting rank looks at the socket before it sleeps until something moves."""

log = logging.getLogger("holdfast.link")

Address = tuple[str, int]


@dataclass
class _Peer:
    """What belongs to one peer: the link, which stays, and its connection, which comes and goes."""

    rank: int
    address: Address
    link: Link
    redial: Redial
    sock: socket.socket | None = None
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
    told: int = 0
    """The bytes, both ways, that the witness was told of."""


class TcpTransport:
    """Moves messages between the ranks of one epoch over TCP links that outlive connections.

    `listener` is this rank's listening socket, which the transport owns from now on; `addresses`
    are all ranks' (host, port). Thread safety: one thread at a time.
    """

    def __init__(
        self,
        rank: int,
        listener: socket.socket,
        addresses: list[Address],
        token: bytes,
        *,
        epoch: int = 0,
        source: str | None = None,
        timeout: float = 300.0,
        config: LinkConfig | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = len(addresses)
        self.reconnections = 0
        """How many connections were made in the place of broken ones."""
        self._config = config or LinkConfig()
        self._epoch = epoch
        self._timeout = timeout
        self._addresses = addresses
        self._poll = select.epoll()
        self._door = Door(
            listener, token, self._poll, self, seconds=self._config.handshake, source=source
        )
        self._witness = witness or Blind()
        self._peers: dict[int, _Peer] = {}
        self._by_fd: dict[int, _Peer] = {}
        self._next_care = 0.0
        self._closed = False
        self._aborted = False

    # The Transport protocol

    def send(self, peer: int, data: memoryview, tag: int = 0) -> None:
        """Queue `data` for `peer`; if it is large (`copy_limit`), it is borrowed until `flush`."""
        place = self._peer(peer)
        place.link.send(data, tag)
        if place.sock is not None:
            self._write(place)

    def receive(self, peer: int, into: memoryview, tag: int = 0) -> None:
        """Fill `into` with the next message of `peer`.

        Raises DeadlineExceeded when nothing has moved on any link for the timeout, ProtocolError or
        CollectiveMismatch when the peer sends something else.
        """
        place = self._peer(peer)
        number = place.link.expect(into, tag)
        if time.monotonic() >= self._next_care:  # also where no wait ever leaves time for it
            self._turn(0.0)
        if place.sock is not None:
            self._read(place)
            self._flush_soon(place)
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
            if place.sock is not None:
                place.link.leave(at_once=True)  # what lingering did not get through never will
                self._write(place)
        for place in self._peers.values():
            if place.sock is not None:
                place.sock.close()
        self._door.close()
        self._poll.close()

    def _linger(self) -> None:
        end = time.monotonic() + 2 * self._config.silence
        for place in self._peers.values():
            place.link.acknowledge_soon()  # so that the peer need not linger
            self._flush_soon(place)
        while time.monotonic() < end:
            if all(self._settled(place) for place in self._peers.values()):
                return
            self._turn(0.01)

    def _settled(self, place: _Peer) -> bool:
        """Return whether a peer has all that was sent to it, or is known to be gone."""
        link = place.link
        refused = place.sock is None and place.trouble == os.strerror(errno.ECONNREFUSED)
        return refused or link.left or link.acknowledged == link.numbered

    # Waiting

    def _wait(self, arrived: Callable[[], bool], place: _Peer, what: str) -> None:
        """Turn until `arrived`; give up when no byte has moved on any link for the timeout."""
        for _ in range(SPINS):
            if place.sock is None:
                break
            self._read(place)
            if arrived():
                self._flush_soon(place)
                return
            os.sched_yield()
        progress, since = self._progress(), time.monotonic()
        while not arrived():
            if self._aborted:
                raise CommunicationError(
                    f"closed while rank {self.rank} awaited {what} {place.rank}"
                )
            self._turn(self._config.heartbeat / 4)
            if place.link.left and not arrived():
                raise PeerLost(
                    f"rank {self.rank} awaited {what} rank {place.rank}, which has left the group "
                    f"(epoch {self._epoch}): its own output says why"
                )
            if (now_at := self._progress()) != progress:
                progress, since = now_at, time.monotonic()
            elif time.monotonic() - since > self._timeout:
                raise DeadlineExceeded(
                    f"rank {self.rank} waited {self._timeout:.1f} s for {what} rank {place.rank} "
                    f"at {place.address[0]}:{place.address[1]} (epoch {self._epoch}) and nothing "
                    f"moved on any link; the link "
                    f"{'stands' if place.sock else 'is broken: ' + place.trouble}. Is that rank "
                    "alive, and can the two hosts reach each other?"
                )
        self._flush_soon(place)

    def _progress(self) -> int:
        """Return a number that grows while anything gets further, on whatever link."""
        return sum(place.link.progress for place in self._peers.values())

    def _turn(self, timeout: float) -> None:
        """Let something happen, wait for it at most `timeout` seconds, and deal with it."""
        for place in self._peers.values():
            self._watch(place)
        for fd, event in self._poll.poll(timeout):
            if self._door.handle(fd) or fd not in self._by_fd:
                continue
            place = self._by_fd[fd]
            if event & ~select.EPOLLOUT:
                self._read(place, event)
            if place.sock is not None:
                self._write(place)
        now = time.monotonic()
        if now >= self._next_care:
            self._next_care = now + self._config.heartbeat / 4
            self._care(now)
        for place in self._peers.values():
            if place.sock is None:
                self._dial(place, now)

    def _care(self, now: float) -> None:
        """Heartbeats, silent connections, handshakes that lead nowhere."""
        for place in list(self._peers.values()):
            if place.sock is None:
                continue
            queued = _queued(place.sock)
            if queued < place.queued - HEADER.size:
                place.link.moved(now)  # a heartbeat that a kernel took says nothing of the peer
            place.queued = queued
            if place.told != place.sent + place.received:
                place.told = place.sent + place.received
                self._witness.traffic(place.rank, place.sent, place.received)
            if place.link.silent(now):
                self._break(place, f"nothing moved for {self._config.silence:.3g} s")
            else:
                self._write(place)
        self._door.expire(now)

    # Bytes

    def _read(self, place: _Peer, event: int = 0) -> None:
        link, sock = place.link, place.sock
        assert sock is not None
        while (into := link.wanted()) is not None:
            try:
                count = sock.recv_into(into)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(place, error.strerror or str(error))
                return
            if count == 0:
                self._break(place, "the peer closed it")
                return
            place.received += count
            try:
                link.filled(count, time.monotonic())
            except CorruptFrame as error:
                self._break(place, str(error))
                return
            except ProtocolError:
                self._break(place, "it broke the protocol")
                raise
            if count < len(into):
                return
        if event & (select.EPOLLHUP | select.EPOLLERR) and place.interest >= 0:
            # What it holds is not awaited yet; epoll would tell of its end without end.
            self._poll.unregister(sock.fileno())
            place.interest = -1

    def _write(self, place: _Peer) -> None:
        link, sock = place.link, place.sock
        assert sock is not None
        while buffers := link.gather(time.monotonic()):
            try:
                count = sock.sendmsg(buffers)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(place, error.strerror or str(error))
                return
            link.wrote(count)
            place.sent += count

    def _flush_soon(self, place: _Peer) -> None:
        """Let out what reading made due: an acknowledgement."""
        if place.sock is not None:
            self._write(place)

    def _watch(self, place: _Peer) -> None:
        """Tell the kernel what this link waits for."""
        if place.sock is None or place.interest < 0:
            return
        wanted = select.EPOLLIN if place.link.wanted() is not None else 0
        if place.link.gather(time.monotonic()):
            wanted |= select.EPOLLOUT
        if wanted != place.interest:
            self._poll.modify(place.sock.fileno(), wanted)
            place.interest = wanted

    # Connections

    def _peer(self, rank: int) -> _Peer:
        place = self._peers.get(rank)
        if place is None:
            link = Link(self.rank, rank, self._epoch, self._config)
            place = self._peers[rank] = _Peer(
                rank, self._addresses[rank], link, Redial(self._config)
            )
        return place

    def _break(self, place: _Peer, why: str) -> None:
        """Give up a link's connection; the link stays."""
        assert place.sock is not None
        log.info("%s: connection lost: %s", place.link, why)
        self._by_fd.pop(place.sock.fileno())
        if place.interest >= 0:
            self._poll.unregister(place.sock.fileno())
        place.sock.close()
        place.sock = None
        place.link.detach()
        useful = place.link.progress > place.progress
        place.lost_at = time.monotonic()
        place.redial.postpone(place.lost_at, useful=useful)
        place.trouble = why
        if not place.link.left and not self._closed:
            self._witness.link_lost(place.rank, why)

    def _dial(self, place: _Peer, now: float) -> None:
        """Begin a connection to a lower rank, if it is time to."""
        if place.link.left or place.dialing:
            return
        if place.rank < self.rank and now >= place.redial.due:
            place.dialing = True
            hello = Hello(self.rank, place.rank, self._epoch, place.link.received)
            self._door.dial(place.address, hello)

    # What the door asks and tells

    def admit(self, hello: Hello) -> int:
        """Return how many messages this side has of the rank that dials."""
        if hello.peer != self.rank or hello.epoch != self._epoch:
            raise ProtocolError(f"rank {hello.rank} of epoch {hello.epoch} wants rank {hello.peer}")
        if not self.rank < hello.rank < self.world_size:
            raise ProtocolError(f"rank {hello.rank} dials rank {self.rank}: the higher one dials")
        place = self._peer(hello.rank)
        place.link.check(hello.received)
        if place.sock is not None:  # the peer has given it up already
            self._break(place, "the peer dialled again")
        return place.link.received

    def check(self, peer: int, received: int) -> None:
        """Raise ProtocolError if the dialled peer cannot have `received` messages."""
        self._peers[peer].link.check(received)

    def settle(self, peer: int, sock: socket.socket, received: int) -> None:
        """Let the link to `peer` go on over `sock`."""
        place = self._peer(peer)
        place.dialing = False
        place.link.attach(received, time.monotonic())
        if place.connections:
            self.reconnections += 1
            log.info("%s: connected again after: %s", place.link, place.trouble)
            self._witness.link_restored(peer, time.monotonic() - place.lost_at)
        place.connections += 1
        place.progress = place.link.progress
        place.sock = sock
        place.queued = 0
        place.interest = select.EPOLLIN
        self._by_fd[sock.fileno()] = place
        self._poll.register(sock.fileno(), place.interest)
        self._write(place)

    def fail(self, peer: int, why: str) -> None:
        """Dial `peer` again later."""
        place = self._peers[peer]
        place.dialing = False
        place.redial.postpone(time.monotonic())
        place.trouble = why


def _flushed(place: _Peer) -> bool:
    return place.link.flushed


def _queued(sock: socket.socket) -> int:
    """Return how many bytes of ours the peer's host has not acknowledged."""
    raw = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
