"""A flow: one direction of a relayed connection, from the socket of one end to that of the other.

While nothing is to be done to the bytes but to let them wait, they go from socket to socket through
a pipe inside the kernel (splice); else through a `Line` in this process. Order is kept across a
change: what is in the one is through before the other is filled.
"""

import fcntl
import math
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from holdfast.fabric.condition import CLEAR, Condition
from holdfast.fabric.relay.gate import Gate
from holdfast.fabric.relay.line import PACKET, Line

READ = 1 << 19
"""Bytes that are read at once at most."""
_PASSES = 4  # reads and writes in a row before it is another connection's turn
_PIPE_SIZE = 1 << 20
_SPARE_PIPES = 16
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_QUANTUM = 0.002  # seconds' worth of bytes that a limited flow lets in at once
_LATE = 0.02  # seconds that the loop may be late without the rate suffering

End = Literal["finished", "reset"]


class Socket:
    """One of a connection's two sockets, and what is known about it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.readable = True
        self.writable = True
        self.hung_up = False
        """It sends no more."""
        self.broken = False
        """It takes no more."""


class Pipe:
    """A pipe in the kernel, and how many bytes are in it."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        # Over a user's limit for pipes it stays at 64 KiB, and all works, a little slower.
        with suppress(PermissionError):
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def close(self) -> None:
        """Close both of its ends."""
        os.close(self.read)
        os.close(self.write)


class Pipes:
    """Pipes that are empty, to be used again: a flow needs one only while bytes are in it."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def take(self) -> Pipe:
        """Return an empty pipe."""
        return self._spare.pop() if self._spare else Pipe()

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back; one with bytes left in it is closed."""
        if pipe.held or len(self._spare) == _SPARE_PIPES:
            pipe.close()
        else:
            self._spare.append(pipe)

    def close(self) -> None:
        """Close those that were given back."""
        while self._spare:
            self._spare.pop().close()


class Flow:
    """Moves bytes from `source` to `target`, `limit` of them at most, and counts them at `gates`.

    The sockets are the connection's, to close and to watch.
    """

    def __init__(
        self,
        source: Socket,
        target: Socket,
        gates: Sequence[Gate],
        limit: int | None,
        line: Line,
        pipes: Pipes,
    ) -> None:
        self.source = source
        self.target = target
        self.passed = 0
        """Bytes that the target's kernel has taken."""
        self.ended: End | None = None
        """How the source's stream ended, once that is known here."""
        self.blocked = False
        self.latency = 0.0
        self._gates = gates
        self._limiting: list[Gate] = []
        self._limit = limit
        self._line = line
        self._pipes = pipes
        self._pipe: Pipe | None = None
        self._condition = CLEAR
        self._round_trip = 0.0
        self._shaped = False
        self._quantum = READ
        self._departs = -math.inf  # when the last bytes that were read are through all gates
        self._drained = True  # there was nothing to read, the last time
        self._end_due = math.inf

    def change(self, condition: Condition, round_trip: float, now: float) -> None:
        """Let another condition hold from `now` on; the gates know their rates already."""
        self._limiting = [gate for gate in self._gates if gate.rate < math.inf]
        if (condition, round_trip) == (self._condition, self._round_trip):
            return
        self.blocked = condition.blocked or condition.loss >= 1
        self.latency = condition.latency
        if condition.rate != self._condition.rate:
            quantum = condition.rate / 8 * _QUANTUM
            self._quantum = READ if quantum > READ else max(int(quantum), PACKET)
            self._departs = min(self._departs, now)
        self._condition = condition
        self._round_trip = round_trip
        self._shaped = bool(
            condition.latency
            or condition.jitter
            or condition.loss
            or condition.reordering
            or condition.corruption
        )
        self._line.change(condition, round_trip, now)
        if self.ended:
            self._end_due = min(self._end_due, now + condition.latency)

    def end(self, how: End, now: float) -> None:
        """Let the stream end so, behind what is on the way."""
        self.ended = how
        self._end_due = now + self.latency

    def ended_for_target(self) -> bool:
        """Return whether the target is to be told now that the stream has ended."""
        if self.ended is None or self.blocked or self._pipe is not None or self._line.held:
            return False
        return self._end_due <= time.monotonic()

    def at_limit(self) -> bool:
        """Return whether all bytes have passed that may."""
        return self.passed == self._limit

    def move(self) -> float:
        """Move bytes; return when to go on, infinity when a socket calls."""
        if self.blocked or self.target.broken:
            return math.inf
        for _ in range(_PASSES):
            now = time.monotonic()
            wrote = self._write(now)
            if not self._read(now) and not wrote:
                return self._next(now)
        return -math.inf

    def clear(self) -> None:
        """Drop what is on the way."""
        if self._pipe is not None:
            self._pipes.give(self._pipe)
            self._pipe = None
        self._line.clear()

    def _next(self, now: float) -> float:
        """Return the next time at which something can be done that cannot be done now."""
        times = [math.inf]
        if self._pipe is not None or self.source.readable:
            times.append(self._departs)
        times.append(self._line.due)
        if self.ended:
            times.append(self._end_due)
        return min(time for time in times if time > now)

    def _write(self, now: float) -> bool:
        """Write what has arrived; return whether there was any."""
        if not self.target.writable:
            return False
        try:
            if self._pipe is not None:
                count = self._write_from(self._pipe, now)
            else:
                parts = self._line.arrived(now)
                count = self.target.sock.sendmsg(parts) if parts else 0
                self._line.take(count)
        except BlockingIOError:
            self.target.writable = False
            return False
        except OSError:
            self.target.broken = True
            self.clear()
            return False
        self.passed += count
        for gate in self._gates:
            gate.passed += count
        return count > 0

    def _write_from(self, pipe: Pipe, now: float) -> int:
        if self._departs > now:
            return 0
        count = os.splice(pipe.read, self.target.fd, pipe.held, flags=_SPLICE)
        pipe.held -= count
        if not pipe.held:
            self._pipes.give(pipe)
            self._pipe = None
        return count

    def _read(self, now: float) -> bool:
        """Read what there is room for; return whether anything came, be it the end."""
        if self.ended or not self.source.readable or self._departs > now:
            return False
        if self._pipe is not None or (self._line.held and not self._shaped):
            return False
        room = min(self._quantum, self._line.room)
        if self._limit is not None:
            room = min(room, self._limit - self.passed - self._line.held)
        if room <= 0:
            return False
        try:
            count = self._read_to_line(room, now) if self._shaped else self._read_to_pipe(room, now)
        except BlockingIOError:
            self.source.readable = False
            self._drained = True
            return False
        except OSError:
            self.end("reset", now)
            return True
        if not count:
            self.end("reset" if self.source.broken else "finished", now)
        return True

    def _read_to_line(self, room: int, now: float) -> int:
        data = self.source.sock.recv(room)
        if data:
            self._line.put(data, self._depart(len(data), now))
        return len(data)

    def _read_to_pipe(self, room: int, now: float) -> int:
        pipe = self._pipes.take()
        try:
            pipe.held = os.splice(self.source.fd, pipe.write, room, flags=_SPLICE)
        finally:
            if pipe.held:
                self._pipe = pipe
            else:
                self._pipes.give(pipe)
        if pipe.held:
            self._depart(pipe.held, now)
        return pipe.held

    def _depart(self, count: int, now: float) -> float:
        """Return when `count` bytes that were read now are through all gates."""
        # What waited to be read is not held up by the loop's being late.
        since = now if self._drained else max(self._departs, now - _LATE)
        self._drained = False
        self._departs = max((gate.reserve(count, since) for gate in self._limiting), default=now)
        return self._departs
