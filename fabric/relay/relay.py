"""A relay: TCP connections pass it, each on its own route, and meet there what is imposed.

Any number of listeners and connections share one thread. Whoever connects to a listener is taken
for who it is by its source address; a stranger is refused. For each direction of a connection the
conditions of all places on its way hold together, and change at any time:
- *blocked*: nothing passes, neither bytes nor the end of a stream nor a reset, and nobody is told.
  A new connection is taken by the kernel, as the dialler sees it, and goes no further. All goes on
  when the path is free again.
- *latency*, *jitter*, *loss*, *reordering*, *corruption*: see `relay/line.py`.
- *rate*: see `relay/gate.py`; all that pass a place share its rate.

A dialler whose listener refuses learns of it by a reset rather than at once: by then the relay has
taken its connection.
"""

import contextlib
import errno
import logging
import math
import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from holdfast.errors import FabricError
from holdfast.fabric.condition import CLEAR, Condition, Place
from holdfast.fabric.relay.connection import RESET, Address, Connection, Route
from holdfast.fabric.relay.flow import Pipes
from holdfast.fabric.relay.gate import Gate
from holdfast.fabric.relay.loop import Loop, Task

_BACKLOG = 4096
_AT_ONCE = 64  # connections that a listener takes in a row
_OUT_OF_DESCRIPTORS = 0.05  # seconds until a listener tries again

log = logging.getLogger("holdfast.relay")

Admit = Callable[[Address], Route | None]
"""Says where a connection from an address goes; None refuses it. Called in the relay's thread."""


class Relay:
    """Relays connections until it is closed; a context manager. Thread-safe.

    Chance is drawn from `seed`, the connection's number and its bytes.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.pipes = Pipes()
        self.refused = 0
        """Connections that no route was given to."""
        self.cuts_made = 0
        """Connections that came to a `Way`'s limit."""
        self._seed = seed
        self._total: Mapping[Place, Condition] = {}
        self._gates: dict[Place, Gate] = {}
        self._listeners: list[_Listener] = []
        self._connections: set[Connection] = set()
        self._number = 0
        self._loop = Loop("holdfast-relay")

    def listen(self, address: Address, admit: Admit) -> Address:
        """Take connections at `address` (port 0: any); return it with its port.

        Raises FabricError if the address is in use.
        """
        try:
            sock = socket.create_server(address, backlog=_BACKLOG)
        except OSError as error:
            raise FabricError(
                f"the relay cannot listen at {address[0]}:{address[1]}: {error.strerror}"
            ) from None
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        try:
            self._loop.call(lambda: self._open(sock, admit))
        except BaseException:
            sock.close()
            raise
        return host, port

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others; they do when this returns."""
        self._loop.call(lambda: self._impose(dict(total)))

    def reset(self, where: frozenset[Place], one_end: str | None = None) -> int:
        """Break the connections that pass there either way; return how many there were.

        Both ends are told, or only host `one_end`: to the other nothing happens any more.
        """
        return self._loop.call(lambda: self._reset(where, one_end))

    def passed(self) -> dict[Place, int]:
        """Return how many bytes have passed each place until now; may be asked after closing."""
        return self._counts() if self._loop.closed else self._loop.call(self._counts)

    @property
    def connections(self) -> int:
        """How many connections there are, silent ones included."""
        return len(self._connections)

    def close(self) -> None:
        """End every connection and the thread; may be called again."""
        self._loop.close(self._end)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # In the loop's thread

    def gate(self, place: Place) -> Gate:
        """Return the gate of a place."""
        if place not in self._gates:
            self._gates[place] = Gate(self._total.get(place, CLEAR).rate)
        return self._gates[place]

    def watch(self, sock: socket.socket, task: Task) -> None:
        """Tell `task` what happens to `sock`."""
        self._loop.watch(sock, task)

    def forget(self, fd: int) -> None:
        """Watch a socket no more."""
        self._loop.forget(fd)

    def ended(self, connection: Connection) -> None:
        """Take note that a connection has closed its sockets."""
        self._connections.discard(connection)

    def begin(self, sock: socket.socket, route: Route | None) -> None:
        """Relay a connection that has come, whose socket this takes over; None refuses it."""
        if route is None:
            self.refused += 1
            _refuse(sock)
            return
        try:
            far = socket.socket(sock.family, socket.SOCK_STREAM)
        except OSError as error:
            log.error("a connection is refused: %s; raise ulimit -n", error.strerror)
            _refuse(sock)
            return
        connection = Connection(sock, far, route, f"{self._seed}/{self._number}", self)
        self._number += 1
        self._connections.add(connection)
        connection.change(self._total, time.monotonic())
        self._loop.stir(connection)

    def _open(self, sock: socket.socket, admit: Admit) -> None:
        listener = _Listener(sock, admit, self, self._loop)
        self._listeners.append(listener)
        self._loop.watch(sock, listener)

    def _impose(self, total: Mapping[Place, Condition]) -> None:
        self._total = total
        now = time.monotonic()
        for place, gate in self._gates.items():
            gate.change(total.get(place, CLEAR).rate, now)
        for connection in self._connections:
            connection.change(total, now)
            self._loop.stir(connection)

    def _reset(self, where: frozenset[Place], one_end: str | None) -> int:
        hit = [
            each
            for each in self._connections
            if not where.isdisjoint(each.route.up.places + each.route.down.places)
        ]
        for connection in hit:
            connection.reset(one_end)
            self._loop.stir(connection)
        return len(hit)

    def _counts(self) -> dict[Place, int]:
        return {place: gate.passed for place, gate in self._gates.items()}

    def _end(self) -> None:
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.close()
        self.pipes.close()


class _Listener(Task):
    """A listening socket."""

    def __init__(self, sock: socket.socket, admit: Admit, relay: Relay, loop: Loop) -> None:
        self._sock = sock
        self._admit = admit
        self._relay = relay
        self._loop = loop

    def __str__(self) -> str:
        return f"the relay's listener at {self._sock.getsockname()}"

    def told(self, fd: int, event: int) -> None:
        """A turn follows, which is all that is needed."""

    def turn(self) -> float:
        """Take some of the connections that have come."""
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return math.inf
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # that connection has gone already
                log.error("a connection cannot be taken: %s; raise ulimit -n", error.strerror)
                return time.monotonic() + _OUT_OF_DESCRIPTORS
            try:
                route = self._admit(address[:2])
            except Exception:  # whatever is wrong with it, the others are not held up
                log.exception("whether to relay a connection from %s cannot be told", address)
                route = None
            self._relay.begin(sock, route)
        return -math.inf

    def abort(self) -> None:
        """Go on with the connections behind the one that failed."""
        self._loop.stir(self)

    def close(self) -> None:
        """Take no more connections."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()


def _refuse(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
