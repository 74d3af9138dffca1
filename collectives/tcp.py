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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from holdfast.collectives import handshake
from holdfast.collectives.link import HEADER, Link, LinkConfig
from holdfast.errors import (
    AuthenticationError,
    CommunicationError,
    DeadlineExceeded,
    ProtocolError,
)

PURPOSE = b"link"
MOST_STRANGERS = 64
"""Connections that have not proved themselves yet; the oldest makes room for a new one."""
SPINS = 40
"""How often a waiting rank looks at the socket before it sleeps until something moves."""

log = logging.getLogger("holdfast.link")

Address = tuple[str, int]
_WAITING = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS, errno.EINTR})


@dataclass
class _Connection:
    """A socket on its way to being a link's: the handshake's state."""

    sock: socket.socket
    deadline: float
    need: int
    dialer: handshake.Dialer | None = None
    acceptor: handshake.Acceptor | None = None
    got: bytearray = field(default_factory=bytearray)


@dataclass
class _Peer:
    """What belongs to one peer: the link, which stays, and its connection, which comes and goes."""

    rank: int
    address: Address
    link: Link
    sock: socket.socket | None = None
    interest: int = 0
    dialing: _Connection | None = None
    next_dial: float = 0.0
    pause: float = 0.0
    queued: int = 0
    trouble: str = "no connection was made yet"
    connections: int = 0


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
        timeout: float = 300.0,
        config: LinkConfig | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = len(addresses)
        self.reconnections = 0
        """How many connections were made in the place of broken ones."""
        self._config = config or LinkConfig()
        self._token = token
        self._epoch = epoch
        self._timeout = timeout
        self._addresses = addresses
        self._listener = listener
        listener.setblocking(False)
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}
        self._by_fd: dict[int, _Peer] = {}
        self._strangers: deque[_Connection] = deque()
        self._handshakes: dict[int, _Connection] = {}
        self._next_care = 0.0
        self._closed = False

    # The Transport protocol

    def send(self, peer: int, data: memoryview) -> None:
        """Queue `data` for `peer`; if it is large (`copy_limit`), it is borrowed until `flush`."""
        place = self._peer(peer)
        place.link.send(data)
        if place.sock is not None:
            self._write(place)

    def receive(self, peer: int, into: memoryview) -> None:
        """Fill `into` with the next message of `peer`.

        Raises DeadlineExceeded when nothing has moved on any link for the timeout, ProtocolError or
        CollectiveMismatch when the peer sends something else.
        """
        place = self._peer(peer)
        number = place.link.expect(into)
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

    def close(self) -> None:
        """Close every socket; may be called again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(CommunicationError):  # what broke the job is known already
            self._linger()
        for place in self._peers.values():
            if place.sock is not None:
                place.sock.close()
        for connection in self._handshakes.values():
            connection.sock.close()
        self._handshakes.clear()
        self._listener.close()
        self._poll.close()

    def _linger(self) -> None:
        """Give what small messages are still queued a moment to leave: a peer may need them."""
        end = time.monotonic() + self._config.silence
        while time.monotonic() < end:
            if all(p.link.acknowledged == p.link.numbered for p in self._peers.values()):
                return
            if not any(p.sock for p in self._peers.values()):
                return
            self._turn(0.01)

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
            self._turn(self._config.heartbeat / 4)
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
        """Return a number that grows with every payload byte that came and message that arrived."""
        return sum(p.link.bytes_received + p.link.acknowledged for p in self._peers.values())

    def _turn(self, timeout: float) -> None:
        """Let something happen, wait for it at most `timeout` seconds, and deal with it."""
        for place in self._peers.values():
            self._watch(place)
        for fd, event in self._poll.poll(timeout):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._handshakes:
                self._shake(self._handshakes[fd])
            elif fd in self._by_fd:
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
            if place.link.silent(now):
                self._break(place, f"nothing moved for {self._config.silence:.3g} s")
            else:
                self._write(place)
        for connection in list(self._handshakes.values()):
            if now > connection.deadline:
                self._give_up(connection, "the handshake took too long")

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
            try:
                link.filled(count, time.monotonic())
            except ProtocolError:
                self._break(place, "it broke the protocol")
                raise
            if count < len(into):
                return
        if event & (select.EPOLLHUP | select.EPOLLERR):
            self._break(place, "the peer closed it")

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

    def _flush_soon(self, place: _Peer) -> None:
        """Let out what reading made due: an acknowledgement."""
        if place.sock is not None:
            self._write(place)

    def _watch(self, place: _Peer) -> None:
        """Tell the kernel what this link waits for."""
        if place.sock is None:
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
            place = self._peers[rank] = _Peer(rank, self._addresses[rank], link)
        return place

    def _break(self, place: _Peer, why: str) -> None:
        """Give up a link's connection; the link stays."""
        assert place.sock is not None
        log.info("%s: connection lost: %s", place.link, why)
        place.trouble = why
        self._by_fd.pop(place.sock.fileno())
        self._poll.unregister(place.sock.fileno())
        place.sock.close()
        place.sock = None
        place.link.detach()
        place.next_dial = 0.0
        place.pause = self._config.first_retry

    def _attach(self, place: _Peer, sock: socket.socket, peer_received: int) -> None:
        place.link.attach(peer_received, time.monotonic())
        if place.connections:
            self.reconnections += 1
            log.info("%s: connected again after: %s", place.link, place.trouble)
        place.connections += 1
        place.sock = sock
        place.queued = 0
        place.interest = select.EPOLLIN
        self._by_fd[sock.fileno()] = place
        self._poll.modify(sock.fileno(), place.interest)
        self._write(place)

    def _dial(self, place: _Peer, now: float) -> None:
        """Begin a connection to a lower rank, if it is time to."""
        if place.rank > self.rank or place.dialing is not None or now < place.next_dial:
            return
        family = socket.AF_INET6 if ":" in place.address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(place.address)
        if code and code not in _WAITING:
            sock.close()
            self._postpone(place, os.strerror(code))
            return
        hello = handshake.Hello(self.rank, place.rank, self._epoch, place.link.received)
        place.dialing = _Connection(
            sock,
            now + self._config.handshake,
            handshake.CHALLENGE_SIZE,
            dialer=handshake.Dialer(self._token, PURPOSE, hello),
        )
        self._begin(place.dialing)

    def _postpone(self, place: _Peer, why: str) -> None:
        place.trouble = why
        place.pause = min(max(2 * place.pause, self._config.first_retry), self._config.last_retry)
        place.next_dial = time.monotonic() + place.pause

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it is gone already
        sock.setblocking(False)
        if len(self._strangers) >= MOST_STRANGERS:
            self._give_up(self._strangers[0], "too many strangers at the door")
        acceptor = handshake.Acceptor(self._token, PURPOSE)
        deadline = time.monotonic() + self._config.handshake
        connection = _Connection(sock, deadline, handshake.HELLO_SIZE, acceptor=acceptor)
        self._strangers.append(connection)
        self._begin(connection)
        self._say(connection, acceptor.challenge())

    def _begin(self, connection: _Connection) -> None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handshakes[connection.sock.fileno()] = connection
        self._poll.register(connection.sock.fileno(), select.EPOLLIN)

    def _say(self, connection: _Connection, message: bytes) -> bool:
        """Send a handshake's message, which always fits an empty socket; else give up."""
        try:
            if connection.sock.send(message) == len(message):
                return True
        except OSError as error:
            self._give_up(connection, error.strerror or str(error))
            return False
        self._give_up(connection, "a handshake of a hundred bytes did not fit the socket")
        return False

    def _shake(self, connection: _Connection) -> None:
        """Go on with a handshake on which something has happened."""
        try:
            part = connection.sock.recv(connection.need - len(connection.got))
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(connection, error.strerror or str(error))
            return
        if not part:
            self._give_up(connection, "closed in the handshake")
            return
        connection.got += part
        if len(connection.got) < connection.need:
            return
        message = bytes(connection.got)
        connection.got.clear()
        try:
            if connection.acceptor is not None:
                self._admit(connection, connection.acceptor, message)
            elif connection.dialer is not None:
                self._advance(connection, connection.dialer, message)
        except (AuthenticationError, ProtocolError) as error:
            log.warning("rank %d refused a connection: %s", self.rank, error)
            self._give_up(connection, str(error))

    def _admit(self, connection: _Connection, acceptor: handshake.Acceptor, message: bytes) -> None:
        hello = acceptor.check(message)
        if hello.peer != self.rank or hello.epoch != self._epoch:
            raise ProtocolError(f"rank {hello.rank} of epoch {hello.epoch} wants rank {hello.peer}")
        if not self.rank < hello.rank < self.world_size:
            raise ProtocolError(f"rank {hello.rank} dials rank {self.rank}: the higher one dials")
        place = self._peer(hello.rank)
        if place.sock is not None:  # the peer has given it up already
            self._break(place, "the peer dialled again")
        if self._say(connection, acceptor.welcome(place.link.received)):
            self._settle(connection)
            self._attach(place, connection.sock, hello.received)

    def _advance(self, connection: _Connection, dialer: handshake.Dialer, message: bytes) -> None:
        if connection.need == handshake.CHALLENGE_SIZE:
            if self._say(connection, dialer.answer(message)):
                connection.need = handshake.WELCOME_SIZE
            return
        received = dialer.admitted(message)
        (place,) = (p for p in self._peers.values() if p.dialing is connection)
        place.dialing = None
        self._settle(connection)
        self._attach(place, connection.sock, received)

    def _settle(self, connection: _Connection) -> None:
        """Take a connection out of the handshakes."""
        self._handshakes.pop(connection.sock.fileno())
        if connection in self._strangers:
            self._strangers.remove(connection)

    def _give_up(self, connection: _Connection, why: str) -> None:
        self._settle(connection)
        self._poll.unregister(connection.sock.fileno())
        connection.sock.close()
        for place in self._peers.values():
            if place.dialing is connection:
                place.dialing = None
                self._postpone(place, why)


def _flushed(place: _Peer) -> bool:
    return place.link.flushed


def _queued(sock: socket.socket) -> int:
    """Return how many bytes of ours the peer's host has not acknowledged."""
    raw = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
