"""Connections on their way to being a rail's: accepted or dialled, until both ends have proved
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.collectives.links import handshake
from holdfast.collectives.links.handshake import Hello
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.sockets import Connection, tune
from holdfast.collectives.links.tls import TlsSocket
from holdfast.errors import AuthenticationError, ProtocolError

PURPOSE = b"link"
MOST_STRANGERS = 64
"""Connections that have not proved themselves yet; the oldest makes room for a new one."""
OUT_OF_DESCRIPTORS_SECONDS = 0.25
"""For so long nobody is let in when there is no descriptor, or no memory, for a connection."""
_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when the peer is known

TOO_LONG = "the handshake took too long; do both ends use TLS, or neither?"

log = logging.getLogger("holdfast.link")

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BEGUN = frozenset({0, errno.EINPROGRESS, errno.EINTR})


class House(Protocol):
    """Who lives behind the door: what a transport tells it and is told by it."""

    def admit(self, hello: Hello) -> int:
        """Return how many messages this side has of the dialer; raise ProtocolError to refuse."""

    def check(self, peer: int, received: int) -> None:
        """Raise ProtocolError if the dialled peer cannot have `received` messages."""

    def settle(self, peer: int, rail: int, sock: Connection, received: int) -> None:
        """Take over a connection to `peer`, which has `received` messages of this side."""

    def fail(self, peer: int, rail: int, why: str) -> None:
        """Take note that the connection dialled to `peer` led nowhere."""


@dataclass
class _Visitor:
    """A connection and how far its handshake is."""

    sock: Connection
    fd: int
    """The socket's, also when TLS has closed it."""
    deadline: float
    need: int
    dialer: handshake.Dialer | None = None
    acceptor: handshake.Acceptor | None = None
    peer: int = -1
    rail: int = -1
    secured: bool = False
    """Whether TLS stands, or is not asked for."""
    got: bytearray = field(default_factory=bytearray)


class Door:
    """Owns `listeners` and every connection that has not been settled; watches them with `poll`."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        token: bytes,
        poll: select.epoll,
        house: House,
        *,
        config: LinkConfig,
        several: bool = False,
    ) -> None:
        """`several`: rails share a link."""
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._token = token
        self._poll = poll
        self._house = house
        self._config = config
        self._several = several
        self._visitors: dict[int, _Visitor] = {}
        self._strangers: deque[_Visitor] = deque()
        self._opens = 0.0  # when strangers are let in again
        self._open = False
        for listener in listeners:
            listener.setblocking(False)
        self._let_in()

    def handle(self, fd: int) -> bool:
        """Go on with what has happened on descriptor `fd`; return whether it is the door's."""
        if fd in self._listeners:
            self._accept(self._listeners[fd])
        elif fd in self._visitors:
            self._go_on(self._visitors[fd])
        else:
            return False
        return True

    def dial(self, address: tuple[str, int], hello: Hello, source: str | None = None) -> None:
        """Begin a connection from `source` to rank `hello.peer`; `settle` or `fail` follows."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # out of descriptors, say
            self._house.fail(hello.peer, hello.rail, error.strerror or str(error))
            return
        sock.setblocking(False)
        tune(sock, self._config, several=self._several)
        code = _connect(sock, address, source)
        if code not in _BEGUN:
            sock.close()
            self._house.fail(hello.peer, hello.rail, os.strerror(code))
            return
        dialer = handshake.Dialer(self._token, PURPOSE, hello)
        self._begin(
            _Visitor(
                sock,
                sock.fileno(),
                time.monotonic() + self._config.handshake,
                handshake.CHALLENGE_SIZE,
                dialer=dialer,
                peer=hello.peer,
                rail=hello.rail,
            )
        )

    def expire(self, now: float) -> None:
        """Give up the handshakes that took too long; call it now and then."""
        for visitor in list(self._visitors.values()):
            if now > visitor.deadline:
                if visitor.acceptor is not None:
                    log.warning("a connection was refused: %s", TOO_LONG)
                self._give_up(visitor, TOO_LONG)
        if not self._open and now >= self._opens:
            self._let_in()

    def close(self) -> None:
        """Close the listeners and every connection that has not been settled."""
        for visitor in self._visitors.values():
            visitor.sock.close()
        self._visitors.clear()
        self._strangers.clear()
        for listener in self._listeners.values():
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _SHORT:
                log.error("a connection cannot be accepted: %s; raise ulimit -n", error.strerror)
                self._shut()
            return
        sock.setblocking(False)
        tune(sock, self._config, several=self._several)
        if len(self._strangers) >= MOST_STRANGERS:
            self._give_up(self._strangers[0], "too many strangers at the door")
        deadline = time.monotonic() + self._config.handshake
        visitor = _Visitor(sock, sock.fileno(), deadline, handshake.HELLO_SIZE)
        visitor.acceptor = handshake.Acceptor(self._token, PURPOSE)
        self._strangers.append(visitor)
        self._begin(visitor)
        self._go_on(visitor)

    def _let_in(self) -> None:
        self._open = True
        for fd in self._listeners:
            self._poll.register(fd, select.EPOLLIN)

    def _shut(self) -> None:
        """Let nobody in for a while: the kernel would tell of those who wait without end."""
        if self._open:
            self._open = False
            self._opens = time.monotonic() + OUT_OF_DESCRIPTORS_SECONDS
            for fd in self._listeners:
                self._poll.unregister(fd)

    def _begin(self, visitor: _Visitor) -> None:
        self._visitors[visitor.fd] = visitor
        # With TLS it is the dialer who speaks first, as soon as the connection stands.
        first = visitor.dialer is not None and self._config.tls is not None
        self._poll.register(visitor.fd, select.EPOLLOUT if first else select.EPOLLIN)

    def _go_on(self, visitor: _Visitor) -> None:
        """Take the handshake as far as it goes now."""
        try:
            if not visitor.secured:
                self._secure(visitor)
                visitor.secured = True
                if visitor.acceptor is not None:
                    self._say(visitor, visitor.acceptor.challenge())
                    return
            self._shake(visitor)
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(visitor, error.strerror or str(error))
        except (AuthenticationError, ProtocolError) as error:
            log.warning("a connection was refused: %s", error)
            self._give_up(visitor, str(error))

    def _secure(self, visitor: _Visitor) -> None:
        """Put TLS over the connection, if it is asked for; BlockingIOError until it stands."""
        if self._config.tls is None:
            return
        if isinstance(visitor.sock, socket.socket):
            code = visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            listening = visitor.acceptor is not None
            visitor.sock = TlsSocket(visitor.sock, self._config.tls, listening=listening)
            self._poll.modify(visitor.fd, select.EPOLLIN)
        try:
            visitor.sock.shake()
        except BlockingIOError:
            raise
        except OSError as error:
            log.warning("a connection was refused: TLS: %s", error)
            raise

    def _say(self, visitor: _Visitor, message: bytes) -> None:
        """Send a handshake's message, which always fits an empty socket."""
        try:
            sent = visitor.sock.send(message)
        except BlockingIOError:
            sent = 0
        if sent != len(message):
            raise OSError(errno.ENOBUFS, "a handshake of a hundred bytes did not fit the socket")

    def _shake(self, visitor: _Visitor) -> None:
        part = visitor.sock.recv(visitor.need - len(visitor.got))
        if not part:
            raise OSError(errno.ECONNRESET, "closed in the handshake")
        visitor.got += part
        if len(visitor.got) < visitor.need:
            return
        message = bytes(visitor.got)
        visitor.got.clear()
        if visitor.acceptor is not None:
            self._admit(visitor, visitor.acceptor, message)
        elif visitor.dialer is not None:
            self._advance(visitor, visitor.dialer, message)

    def _admit(self, visitor: _Visitor, acceptor: handshake.Acceptor, message: bytes) -> None:
        hello = acceptor.check(message)
        received = self._house.admit(hello)
        self._say(visitor, acceptor.welcome(received))
        self._settle(visitor, hello.rank, hello.rail, hello.received)

    def _advance(self, visitor: _Visitor, dialer: handshake.Dialer, message: bytes) -> None:
        if visitor.need == handshake.CHALLENGE_SIZE:
            self._say(visitor, dialer.answer(message))
            visitor.need = handshake.WELCOME_SIZE
            return
        received = dialer.admitted(message)
        self._house.check(visitor.peer, received)
        self._settle(visitor, visitor.peer, visitor.rail, received)

    def _settle(self, visitor: _Visitor, peer: int, rail: int, received: int) -> None:
        self._forget(visitor)
        self._house.settle(peer, rail, visitor.sock, received)

    def _give_up(self, visitor: _Visitor, why: str) -> None:
        self._forget(visitor)
        visitor.sock.close()
        if visitor.dialer is not None:
            self._house.fail(visitor.peer, visitor.rail, why)

    def _forget(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.fd)
        if visitor.sock.fileno() == visitor.fd:  # else TLS has closed it, and the kernel knows
            self._poll.unregister(visitor.fd)
        if visitor.acceptor is not None:
            self._strangers.remove(visitor)


def _connect(sock: socket.socket, address: tuple[str, int], source: str | None) -> int:
    """Begin to connect; return an error number."""
    try:
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        return sock.connect_ex(address)
    except OSError as error:  # the address is gone with its network card, say
        return error.errno or errno.EIO
