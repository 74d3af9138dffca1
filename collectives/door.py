"""Connections on their way to being a link's: accepted or dialled, until both ends have proved
that they hold the job's token.

What comes through the handshake is handed to the transport; strangers are refused and logged. No
stranger holds anything up: handshakes run side by side, each has a deadline, and there are only so
many.
"""

import errno
import logging
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.collectives import handshake
from holdfast.collectives.handshake import Hello
from holdfast.errors import AuthenticationError, ProtocolError

PURPOSE = b"link"
MOST_STRANGERS = 64
"""Connections that have not proved themselves yet; the oldest makes room for a new one."""
OUT_OF_DESCRIPTORS_SECONDS = 0.05
_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when the peer is known

log = logging.getLogger("holdfast.link")

_BEGUN = frozenset({0, errno.EINPROGRESS, errno.EINTR})


class House(Protocol):
    """Who lives behind the door: what a transport tells it and is told by it."""

    def admit(self, hello: Hello) -> int:
        """Return how many messages this side has of the dialer; raise ProtocolError to refuse."""

    def check(self, peer: int, received: int) -> None:
        """Raise ProtocolError if the dialled peer cannot have `received` messages."""

    def settle(self, peer: int, sock: socket.socket, received: int) -> None:
        """Take over a connection to `peer`, which has `received` messages of this side."""

    def fail(self, peer: int, why: str) -> None:
        """Take note that the connection dialled to `peer` led nowhere."""


@dataclass
class _Visitor:
    """A connection and how far its handshake is."""

    sock: socket.socket
    deadline: float
    need: int
    dialer: handshake.Dialer | None = None
    acceptor: handshake.Acceptor | None = None
    peer: int = -1
    got: bytearray = field(default_factory=bytearray)


class Door:
    """Owns `listener` and every connection that has not been settled; watches them with `poll`."""

    def __init__(
        self,
        listener: socket.socket,
        token: bytes,
        poll: select.epoll,
        house: House,
        *,
        seconds: float,
        source: str | None = None,
    ) -> None:
        """`seconds` is how long a handshake may take, `source` the address to dial from."""
        listener.setblocking(False)
        self._listener = listener
        self._token = token
        self._poll = poll
        self._house = house
        self._seconds = seconds
        self._source = source
        self._visitors: dict[int, _Visitor] = {}
        self._strangers: deque[_Visitor] = deque()
        poll.register(listener.fileno(), select.EPOLLIN)

    def handle(self, fd: int) -> bool:
        """Go on with what has happened on descriptor `fd`; return whether it is the door's."""
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self._visitors:
            self._shake(self._visitors[fd])
        else:
            return False
        return True

    def dial(self, address: tuple[str, int], hello: Hello) -> None:
        """Begin a connection to rank `hello.peer`; `settle` or `fail` follows."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = self._connect(sock, address)
        if code not in _BEGUN:
            sock.close()
            self._house.fail(hello.peer, os.strerror(code))
            return
        deadline = time.monotonic() + self._seconds
        visitor = _Visitor(sock, deadline, handshake.CHALLENGE_SIZE, peer=hello.peer)
        visitor.dialer = handshake.Dialer(self._token, PURPOSE, hello)
        self._begin(visitor)

    def _connect(self, sock: socket.socket, address: tuple[str, int]) -> int:
        """Begin to connect; return an error number."""
        try:
            if self._source is not None:
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self._source, 0))
            return sock.connect_ex(address)
        except OSError as error:  # the address is gone with its network card, say
            return error.errno or errno.EIO

    def expire(self, now: float) -> None:
        """Give up the handshakes that took too long."""
        for visitor in list(self._visitors.values()):
            if now > visitor.deadline:
                self._give_up(visitor, "the handshake took too long")

    def close(self) -> None:
        """Close the listener and every connection that has not been settled."""
        for visitor in self._visitors.values():
            visitor.sock.close()
        self._visitors.clear()
        self._strangers.clear()
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                log.error("a connection cannot be accepted: %s; raise ulimit -n", error.strerror)
                time.sleep(OUT_OF_DESCRIPTORS_SECONDS)
            return
        sock.setblocking(False)
        if len(self._strangers) >= MOST_STRANGERS:
            self._give_up(self._strangers[0], "too many strangers at the door")
        deadline = time.monotonic() + self._seconds
        visitor = _Visitor(sock, deadline, handshake.HELLO_SIZE)
        visitor.acceptor = handshake.Acceptor(self._token, PURPOSE)
        self._strangers.append(visitor)
        self._begin(visitor)
        self._say(visitor, visitor.acceptor.challenge())

    def _begin(self, visitor: _Visitor) -> None:
        visitor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._visitors[visitor.sock.fileno()] = visitor
        self._poll.register(visitor.sock.fileno(), select.EPOLLIN)

    def _say(self, visitor: _Visitor, message: bytes) -> bool:
        """Send a handshake's message, which always fits an empty socket; else give up."""
        try:
            if visitor.sock.send(message) == len(message):
                return True
        except OSError as error:
            self._give_up(visitor, error.strerror or str(error))
            return False
        self._give_up(visitor, "a handshake of a hundred bytes did not fit the socket")
        return False

    def _shake(self, visitor: _Visitor) -> None:
        try:
            part = visitor.sock.recv(visitor.need - len(visitor.got))
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(visitor, error.strerror or str(error))
            return
        if not part:
            self._give_up(visitor, "closed in the handshake")
            return
        visitor.got += part
        if len(visitor.got) < visitor.need:
            return
        message = bytes(visitor.got)
        visitor.got.clear()
        try:
            if visitor.acceptor is not None:
                self._admit(visitor, visitor.acceptor, message)
            elif visitor.dialer is not None:
                self._advance(visitor, visitor.dialer, message)
        except (AuthenticationError, ProtocolError) as error:
            log.warning("a connection was refused: %s", error)
            self._give_up(visitor, str(error))

    def _admit(self, visitor: _Visitor, acceptor: handshake.Acceptor, message: bytes) -> None:
        hello = acceptor.check(message)
        received = self._house.admit(hello)
        if self._say(visitor, acceptor.welcome(received)):
            self._settle(visitor, hello.rank, hello.received)

    def _advance(self, visitor: _Visitor, dialer: handshake.Dialer, message: bytes) -> None:
        if visitor.need == handshake.CHALLENGE_SIZE:
            if self._say(visitor, dialer.answer(message)):
                visitor.need = handshake.WELCOME_SIZE
            return
        received = dialer.admitted(message)
        self._house.check(visitor.peer, received)
        self._settle(visitor, visitor.peer, received)

    def _settle(self, visitor: _Visitor, peer: int, received: int) -> None:
        self._forget(visitor)
        self._house.settle(peer, visitor.sock, received)

    def _give_up(self, visitor: _Visitor, why: str) -> None:
        self._forget(visitor)
        visitor.sock.close()
        if visitor.dialer is not None:
            self._house.fail(visitor.peer, why)

    def _forget(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.sock.fileno())
        self._poll.unregister(visitor.sock.fileno())
        if visitor.acceptor is not None:
            self._strangers.remove(visitor)
