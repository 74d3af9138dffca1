"""A relay between two ends of TCP connections that can cut what passes through it, at a given byte.

Where a fault falls is given by connection, direction and number of bytes, not by time, so that a
test cuts the same place every time. A cut is a `reset` (both ends get an error at once) or a
`stall` (nothing more comes through and nobody is told: a silent drop).
"""

import contextlib
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

Direction = Literal["up", "down"]
"""`up` is from the end that dialled to the end that listens."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close sends a reset
_READ = 1 << 18


@dataclass(frozen=True)
class Cut:
    """Cut connection number `connection` when `after` bytes have gone through in `direction`."""

    connection: int
    direction: Direction
    after: int
    how: Literal["reset", "stall"]


class _Flow:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        self.source = source
        self.target = target
        self.limit = limit
        self.passed = 0
        self.waiting = memoryview(b"")
        self.ended = False

    def room(self) -> int:
        """Return how many bytes may be read now."""
        if self.waiting or self.ended:
            return 0
        return _READ if self.limit is None else min(_READ, self.limit - self.passed)


class Relay:
    """Relays connections from its own `address` to `target`; use it as a context manager.

    `cuts` are carried out once each. A thread moves the bytes; `close` ends it and all it relays.
    """

    def __init__(self, target: tuple[str, int], cuts: tuple[Cut, ...] = ()) -> None:
        self.passed = {"up": 0, "down": 0}
        """Bytes that went through, over all connections."""
        self.cuts_made = 0
        self._target = target
        self._cuts = {(cut.connection, cut.direction): cut for cut in cuts}
        self._pairs: dict[int, dict[Direction, _Flow]] = {}
        self._stalled: set[int] = set()
        self._connections = 0
        self._listener = socket.create_server((target[0], 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._wake_read, self._wake_write = os.pipe()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="holdfast-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection and the thread; may be called again."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._listener.close()
        for number in list(self._pairs):
            self._end(number, reset=False)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closed:
            readers: dict[int, tuple[int, Direction]] = {}
            writers: dict[int, tuple[int, Direction]] = {}
            for number, flows in self._pairs.items():
                if number in self._stalled:
                    continue
                for direction, flow in flows.items():
                    if flow.room():
                        readers[flow.source.fileno()] = (number, direction)
                    if flow.waiting:
                        writers[flow.target.fileno()] = (number, direction)
            own = [self._wake_read, self._listener.fileno()]
            readable, writable, _ = select.select([*own, *readers], list(writers), [])
            if self._listener.fileno() in readable:
                self._accept()
            for fd in readable:
                if fd in readers:
                    self._move(*readers[fd])
            for fd in writable:
                if fd in writers:
                    self._move(*writers[fd])

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5.0)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = self._connections
        self._connections += 1
        up, down = self._cuts.get((number, "up")), self._cuts.get((number, "down"))
        self._pairs[number] = {
            "up": _Flow(near, far, up.after if up else None),
            "down": _Flow(far, near, down.after if down else None),
        }
        for direction in ("up", "down"):
            self._cut_if_due(number, direction)

    def _move(self, number: int, direction: Direction) -> None:
        if number not in self._pairs or number in self._stalled:
            return  # the other direction has just ended it
        flow = self._pairs[number][direction]
        try:
            if not flow.waiting:
                data = flow.source.recv(flow.room())
                if not data:
                    flow.ended = True
                    flow.target.shutdown(socket.SHUT_WR)
                    if all(f.ended for f in self._pairs[number].values()):
                        self._end(number, reset=False)
                    return
                flow.waiting = memoryview(data)
            sent = flow.target.send(flow.waiting)
        except BlockingIOError:
            return
        except OSError:
            self._end(number, reset=True)
            return
        flow.waiting = flow.waiting[sent:]
        flow.passed += sent
        self.passed[direction] += sent
        self._cut_if_due(number, direction)

    def _cut_if_due(self, number: int, direction: Direction) -> None:
        cut = self._cuts.get((number, direction))
        if cut is None or number not in self._pairs:
            return
        if self._pairs[number][direction].passed < cut.after:
            return
        del self._cuts[(number, direction)]
        self.cuts_made += 1
        if cut.how == "reset":
            self._end(number, reset=True)
        else:
            self._stalled.add(number)

    def _end(self, number: int, *, reset: bool) -> None:
        for flow in self._pairs.pop(number).values():
            if reset:
                with contextlib.suppress(OSError):
                    flow.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            flow.source.close()
        self._stalled.discard(number)
