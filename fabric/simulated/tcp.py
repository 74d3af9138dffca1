"""TCP connections as the applications at their two ends see them, over `simulated/wire.py`. Pure.

Bytes arrive in order, late rather than never. What is lost comes again: a round trip later if
something sent after it has come through, else at the next point of TCP's retransmission grid, whose
pauses double from `FIRST_TIMEOUT`. There is no congestion window: a connection takes what the lanes
give, up to `WINDOW`. The kernel at the other end takes all that comes, whether or not it is read.
Acknowledgements weigh nothing, but take their time, and may be lost.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence

from holdfast.fabric.simulated.wire import PACKET, PIECE, Path, Piece, Wires, packets_of

WINDOW = 4 << 20
"""The most bytes that are on their way or wait for it; more are not accepted."""
FIRST_TIMEOUT = 0.2
"""Seconds, beside a round trip, after which what nobody acknowledged is sent again."""
LAST_TIMEOUT = 120.0
TRIES = 15
"""How often something is sent again before the connection is given up, as Linux does."""
FIRST_KNOCK = 1.0
"""Seconds after which a connection that is not answered is asked for again."""

Report = Callable[..., None]
"""Takes note of an event: what, and its details."""


class Stream:
    """What one end sends the other: the sender's buffer, what is under way, and timers."""

    def __init__(self, connection: "Connection", sender: "End", receiver: "End") -> None:
        self._wires = connection.wires
        self._clock = connection.wires.clock
        self._connection = connection
        self._sender = sender
        self._receiver = receiver
        self._stopped = False
        self._accepted = 0
        self._acknowledged = 0
        self._unsent: deque[tuple[memoryview, bool]] = deque()  # and whether a piece ends there
        self._offset = 0  # of the first unsent byte
        self._flying: dict[int, Piece] = {}  # by offset: not known to have arrived
        self._again: deque[Piece] = deque()  # lost, about to leave once more
        self._order = 0
        self._leaving = False  # whether the network card is busy with a piece
        self._pumping = False
        self._losses = False  # whether a piece in flight may be lost
        self._timeouts = 0  # in a row, without an acknowledgement
        self._deadline = 0.0
        self._timed = False
        self._last: int | None = None  # the offset of a byte that is none: the stream's end
        # At the other end
        self._arrived = 0  # all bytes before this one have
        self._early: dict[int, Piece] = {}  # whole, but with a gap before them

    @property
    def queued(self) -> int:
        """How many accepted bytes the other end's kernel has not acknowledged."""
        return self._accepted - self._acknowledged

    def accept(self, buffers: Sequence[memoryview]) -> int:
        """Copy as many bytes as there is room for, and send them; return how many."""
        room = left = WINDOW - self.queued
        for buffer in buffers:
            part = bytes(buffer[:left])
            left -= len(part)
            if part:
                # Where a write or much of it ends a packet ends, lest it waits for what follows.
                ends = len(part) >= PACKET or not left or buffer is buffers[-1]
                self._unsent.append((memoryview(part), ends))
        self._accepted += room - left
        self._pump()
        return room - left

    def finish(self) -> None:
        """Have the other end told, behind all that was accepted, that nothing more will come."""
        self._last = self._accepted
        self._accepted += 1
        self._unsent.append((memoryview(bytes(1)), True))
        self._pump()

    def stop(self) -> None:
        """Send nothing any more; what has left may still arrive."""
        self._stopped = True
        self._unsent.clear()
        self._again.clear()
        self._flying.clear()

    # Leaving

    def _pump(self) -> None:
        """Let pieces leave, one after the other: lost ones first, new ones unless TCP waits."""
        if self._pumping or self._leaving:
            return
        self._pumping = True
        while not self._leaving and not self._stopped:
            if self._again:
                piece = self._again.popleft()
            elif self._unsent and not self._timeouts:
                piece = self._cut()
            else:
                break
            self._order += 1
            piece.order, piece.under_way = self._order, True
            self._leaving = True
            self._time()
            self._wires.send(piece, self._sender.path, self)
        self._pumping = False

    def _cut(self) -> Piece:
        """Return the next unsent bytes as a piece."""
        parts, size, ends = [], 0, False
        while self._unsent and size < PIECE and not ends:
            part, ends = self._unsent.popleft()
            if size + len(part) > PIECE:
                self._unsent.appendleft((part[PIECE - size :], ends))
                part = part[: PIECE - size]
            parts.append(part)
            size += len(part)
        if not self._flying:
            self._deadline = self._clock.now + self._timeout()
        piece = Piece(self._offset, b"".join(parts), missing=packets_of(size))
        self._offset += size
        self._flying[piece.offset] = piece
        return piece

    def departed(self, when: float) -> None:
        """Take note that another piece may leave at `when`."""

        def free() -> None:
            self._leaving = False
            self._pump()

        if when > self._clock.now:
            self._clock.at(when, free)
        else:
            free()

    # Arriving

    def dropped(self, piece: Piece) -> None:
        """Take note that nothing of a piece came through."""
        piece.under_way = False
        self._losses = True
        self._connection.report("piece lost", str(self._sender), piece.offset)

    def arrived(self, piece: Piece, packets: int) -> None:
        """Take in a piece, or what is left of it, and acknowledge it."""
        if self._connection.severed:
            piece.under_way = False
            return
        if self._receiver.gone:
            self._connection.signal(self._receiver, self._sender.reset)
            return
        piece.missing = max(0, piece.missing - packets)
        if not piece.missing and self._arrived <= piece.offset:
            self._early[piece.offset] = piece
            while (whole := self._early.pop(self._arrived, None)) is not None:
                self._arrived = whole.end
                if whole.offset == self._last:
                    self._receiver.finish()
                else:
                    self._receiver.take(_damaged(whole))
        arrived = self._arrived

        def acknowledge() -> None:
            self._acknowledge(piece, arrived)

        if not self._connection.signal(self._receiver, acknowledge):
            piece.under_way = False
            self._losses = True

    def _acknowledge(self, piece: Piece, arrived: int) -> None:
        """Take note, at the sender, that a piece has come through, and all before `arrived`."""
        if self._stopped:
            return
        while self._flying and (first := next(iter(self._flying.values()))).end <= arrived:
            del self._flying[first.offset]
        self._acknowledged = max(self._acknowledged, arrived)
        if piece.missing:
            self._again.append(piece)
        else:
            self._flying.pop(piece.offset, None)
        if self._losses:  # what left before this piece and is not there is known to be lost
            lost = [each for each in self._flying.values() if not each.under_way]
            self._losses = bool(lost)
            self._again.extend(
                each for each in lost if each.order < piece.order and each not in self._again
            )
        self._timeouts = 0
        self._deadline = self._clock.now + self._timeout()
        self._pump()
        self._sender.wake()

    # The retransmission timer

    def _timeout(self) -> float:
        there, back = (self._wires.condition(end.path) for end in (self._sender, self._receiver))
        trip = there.latency + there.jitter + back.latency + back.jitter
        return min((FIRST_TIMEOUT + trip) * 2.0**self._timeouts, LAST_TIMEOUT)

    def _time(self) -> None:
        """Have the timer run, if it does not yet."""
        if not self._timed:
            self._deadline = self._clock.now + self._timeout()
            self._timed = True
            self._clock.at(self._deadline, self._expire)

    def _expire(self) -> None:
        """Send the first piece in flight again if it is lost, and wait longer the next time."""
        self._timed = False
        if self._stopped or not self._flying:
            return
        if self._clock.now >= self._deadline:
            first = next(iter(self._flying.values()))
            if not first.under_way and first not in self._again:
                if self._timeouts == TRIES:
                    self._sender.fail(errno.ETIMEDOUT)
                    return
                self._timeouts += 1
                self._connection.report("retransmitted", str(self._sender), first.offset)
                self._again.appendleft(first)
            self._deadline = self._clock.now + self._timeout()
        self._timed = True
        self._clock.at(self._deadline, self._expire)
        self._pump()


def _damaged(piece: Piece) -> memoryview:
    """Return the bytes that come through of a piece."""
    if not piece.damage:
        return memoryview(piece.data)
    data = bytearray(piece.data)
    for position, bits in piece.damage.items():
        data[position] ^= bits
    return memoryview(data)


class End:
    """One end of a connection, with the words of a socket that does not block."""

    def __init__(self, host: str, path: Path, name: str, wake: Callable[[], None]) -> None:
        """`path` is that of what it sends; `wake` is called when there is something to be done."""
        self.host = host
        self.path = path
        self.wake = wake
        self.closed = False
        self._name = name
        self._inbox: deque[memoryview] = deque()
        self._error = 0
        self._finished = False
        self._connection: Connection | None = None
        self._out: Stream | None = None

    def connect(self, connection: "Connection", out: Stream) -> None:
        """Become an end of `connection`; called by it, once."""
        self._connection = connection
        self._out = out

    @property
    def gone(self) -> bool:
        """Whether nothing can arrive here any more."""
        return self.closed or self._error != 0

    @property
    def readable(self) -> bool:
        """Whether `recv_into` has something to say."""
        return bool(self._inbox) or self._finished or self._error != 0

    @property
    def queued(self) -> int:
        """How many bytes of ours the peer's host has not acknowledged."""
        return 0 if self._out is None else self._out.queued

    def recv_into(self, into: memoryview) -> int:
        """Fill `into` with what has arrived; return how many bytes that is, 0 at the end of all.

        Raises BlockingIOError if nothing has, OSError when the connection is broken.
        """
        count = 0
        while self._inbox and count < len(into):
            part = self._inbox[0]
            size = min(len(part), len(into) - count)
            into[count : count + size] = part[:size]
            count += size
            if size == len(part):
                self._inbox.popleft()
            else:
                self._inbox[0] = part[size:]
        if not count:
            self._raise()
            if not self._finished:
                raise BlockingIOError
        return count

    def sendmsg(self, buffers: Sequence[memoryview]) -> int:
        """Send what there is room for of `buffers`; return how many bytes that is.

        Raises BlockingIOError if there is no room, OSError when the connection is broken.
        """
        assert self._out is not None
        self._raise()
        count = self._out.accept(buffers)
        if not count:
            raise BlockingIOError
        return count

    def take(self, data: memoryview) -> None:
        """Take in what has arrived."""
        self._inbox.append(data)
        self.wake()

    def finish(self) -> None:
        """Take note that nothing more will arrive."""
        self._finished = True
        self.wake()

    def fail(self, error: int) -> None:
        """Let the application find the connection broken, once it has read what came before."""
        self._stop()
        if not self.gone:
            self._error = error
            self.wake()

    def reset(self) -> None:
        """Take note that the other end knows of no connection any more."""
        self.fail(errno.ECONNRESET)

    def close(self) -> None:
        """Close it; may be called again. The kernel still delivers what was sent, and says so.

        With bytes that were not read it breaks the connection instead, as Linux does.
        """
        if self.closed:
            return
        standing, unread = self._error == 0, bool(self._inbox)
        self.closed = True
        self._inbox.clear()
        if self._connection is None or self._out is None or not standing:
            return
        if unread or not self._connection.stands:
            self._stop()
            self._connection.signal(self, self._connection.other(self).reset)
        else:
            self._out.finish()

    def _stop(self) -> None:
        if self._out is not None:
            self._out.stop()

    def _raise(self) -> None:
        if self._error:
            raise OSError(self._error, os.strerror(self._error))

    def __str__(self) -> str:
        return self._name


class Connection:
    """Two ends and the streams between them."""

    def __init__(self, wires: Wires, dialer: End, acceptor: End, report: Report) -> None:
        self.wires = wires
        self.dialer = dialer
        self.acceptor = acceptor
        self.report = report
        self.severed = False
        """Whether nothing passes any more and nobody is told: half open at best."""
        self.stands = False
        """Whether both ends have heard of each other."""
        self._knocks = 0
        dialer.connect(self, Stream(self, dialer, acceptor))
        acceptor.connect(self, Stream(self, acceptor, dialer))

    @property
    def over(self) -> bool:
        """Whether both ends are closed, or there never was another."""
        return self.dialer.closed and (self.acceptor.closed or not self.stands)

    def other(self, end: End) -> End:
        """Return the other end."""
        return self.acceptor if end is self.dialer else self.dialer

    def dial(self, listens: Callable[[], bool], accept: Callable[[End], None]) -> None:
        """Ask for the connection until it stands, or the dialer's end is closed.

        `listens` says whether anybody does at the other host: if not, the dialer is refused.
        `accept` is given the acceptor's end when the connection stands.
        """
        if self.stands or self.dialer.gone:
            return

        def arrive() -> None:
            if not self.stands:
                self.signal(self.acceptor, answer if listens() else refuse)

        def refuse() -> None:
            self.dialer.fail(errno.ECONNREFUSED)

        def answer() -> None:
            if not self.dialer.gone:
                self.signal(self.dialer, stand)

        def stand() -> None:
            if not self.stands:
                self.stands = True
                accept(self.acceptor)

        self.signal(self.dialer, arrive)
        clock = self.wires.clock
        clock.later(FIRST_KNOCK * 2**self._knocks, lambda: self.dial(listens, accept))
        self._knocks += 1

    def signal(self, source: End, call: Callable[[], None]) -> bool:
        """Send a packet without content from `source`; return whether it comes through."""
        delay = self.wires.signal(source.path)
        if delay is None or self.severed:
            return False
        self.wires.clock.later(delay, call)
        return True
