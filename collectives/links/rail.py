"""A rail of a link: what is on one connection, in both directions. Pure.

A rail takes messages from its link while it stands and puts them into frames; it reads the peer's
frames and fills the places that the link names. When its connection breaks, `detach` gives back
what it carried, and `attach` starts it on the next one.

A rail carries no more than its path takes in a moment: what waits on a slow rail would hold up what
is behind it on the others. And it carries no message that another rail would have there sooner.

A rail is *suspected* when the peer's host has taken nothing that was in flight for a while: what it
carries goes over the others, acknowledgements too, and it gets no more until the other end has all
that it carries. That it moves again is not enough: TCP takes its time until it has sent again what
was lost. It is not given up: slow is not dead. A rail that comes back is *warmed up* beside others:
it carries one message at a time until some have arrived.

Rule: a rail never decides what is delivered; it asks its link by the message's number.
"""

from collections import deque
from typing import TYPE_CHECKING

from holdfast.collectives.links.frame import HEADER_SIZE, CorruptFrame, Header, Kind
from holdfast.collectives.links.pace import Pace
from holdfast.collectives.links.passage import Flight, Passage
from holdfast.errors import ProtocolError

if TYPE_CHECKING:
    from holdfast.collectives.links.link import Link

SMALL_BEFORE_ACK = 32
"""Small messages are acknowledged with whatever flows back, or after this many.

Or after so many bytes that all rails' together are a quarter of the window.
"""
WARM_AFTER = 4
"""Messages that a rail which came back, beside others, carries one by one."""
MOMENT = 0.032
"""Seconds, beside a round trip, of what its path takes that one of several rails carries."""
MOMENT_OF_SLOW = 0.008
"""The same of a rail less than half as fast as another: the others' messages wait for it."""
NOWHERE = 64 << 10
"""Bytes at a time that are read only to be dropped."""

_NOTHING = memoryview(b"")


class Rail:
    """One rail of `link`; `number` is the same at both ends."""

    def __init__(self, link: "Link", number: int) -> None:
        self.number = number
        self.attached = False
        self.suspected = False
        self._link = link
        self._wire: deque[memoryview] = deque()  # bytes committed to the connection
        self._header = memoryview(bytearray(HEADER_SIZE))
        self._filled = 0  # bytes of the header, or of the payload, that are read
        self._coming: Header | None = None  # of the DATA frame whose payload comes
        self._payload: memoryview | None = None  # where it goes; None: not known yet
        self._stashed: memoryview | None = None  # the payload's memory if its place is not known
        self._dropping = False  # what comes is dropped
        self._nowhere: memoryview | None = None
        self._furthest: tuple[int, int] = (-1, 0)  # bytes that were ever read of a message
        self._blocked_since: float | None = None
        self._ack_due = False
        self._small = 0  # messages received and not acknowledged yet
        self._small_bytes = 0
        self._beat_due = False
        self._leave_due = False
        self._heard = 0.0
        self._spoke = 0.0
        self._stood = False  # whether it was attached before: then it has to prove itself
        self._warming = 0
        self._passage = Passage()
        # Number and bytes of each message that the peer has not read yet, and when it was sent.
        self._unread: deque[tuple[int, int, float]] = deque()
        self.load = 0
        """Bytes of messages on this connection that the peer has not read."""
        self._large = 0  # of those, of large ones: the others' reading is told late
        self.brought = 0
        """What this connection has brought: new bytes of payload, and messages that were read."""
        self.pace = Pace()
        """How fast the path is."""
        self._read_here = 0  # messages read from this connection
        self._acknowledged_here = 0  # messages on it that the peer has read

    @property
    def trusted(self) -> bool:
        """Whether it stands and is not suspected."""
        return self.attached and not self.suspected

    # Sending

    def gather(self, now: float) -> list[memoryview]:
        """Return the buffers to be written next, in order; empty if there is nothing to write."""
        if not self.attached:
            return []
        if len(self._wire) < 3:
            self._commit(now)
        return list(self._wire)

    @property
    def busy(self) -> bool:
        """Whether bytes wait to be written, or what was written to be acknowledged."""
        return bool(self._wire) or self._passage.in_flight or bool(self._unread)

    def _commit(self, now: float) -> None:
        limit, length = self._link.config.copy_limit, 0
        # One large message, so that another rail may be the one that has room for the next.
        while length <= limit and len(self._wire) < 16 and self.open:
            taken = self._link.take(self)
            if taken is None:
                break
            number, payload, tag = taken
            self.suspected = False  # there is no other: it is on trial again
            self._frame(Kind.DATA, number, payload, now, tag)
            if payload:
                self._wire.append(payload)
            self._unread.append((number, len(payload), now))
            self.load += len(payload)
            self._large += len(payload) if len(payload) > limit else 0
            length += len(payload) + HEADER_SIZE
        if self._ack_due:
            self._frame(Kind.ACK, 0, _NOTHING, now)
        elif self._beat_due and not self._wire:
            self._frame(Kind.BEAT, 0, _NOTHING, now)
        if self._leave_due and (ended := self._link.ended) is not None:
            self._leave_due = False
            self._frame(Kind.LEAVE, ended, _NOTHING, now)

    @property
    def open(self) -> bool:
        """Whether it stands and may carry another message."""
        if not self.attached or not self._link.has_other(self):
            return self.attached
        return not (self.suspected or (self._warming and self._unread))

    @property
    def has_room(self) -> bool:
        """Whether the path takes what it carries in a moment, so that more may be put behind it."""
        rate = self.pace.rate
        if not rate:
            return self.load <= self._link.config.segment
        slow = 2 * rate < self._link.fastest
        moment = MOMENT_OF_SLOW if slow else MOMENT
        return self.load <= rate * (moment + self._passage.round_trip)

    @property
    def delay(self) -> float:
        """Seconds after which something small that is put on this rail is known to be there."""
        behind = self._large / self.pace.rate if self.pace.rate else 0.0
        return behind + self._passage.round_trip

    def _frame(
        self, kind: Kind, number: int, payload: memoryview, now: float, tag: int = 0
    ) -> None:
        link = self._link
        header = Header(
            kind,
            tag,
            link.epoch,
            number,
            link.received,
            self._read_here,
            len(payload),
            link.checksum(payload),
        )
        self._wire.append(header.pack())
        self._ack_due = self._beat_due = False  # every frame acknowledges and is a sign
        self._small = self._small_bytes = 0
        self._spoke = now
        self._passage.sent(now)

    def wrote(self, count: int) -> None:
        """Take note that the connection accepted `count` bytes of what `gather` returned."""
        while count:
            first = self._wire[0]
            if count < len(first):
                self._wire[0] = first[count:]
                return
            count -= len(first)
            self._wire.popleft()

    def acknowledge_soon(self) -> None:
        """Let the peer know at the next `gather` what has arrived, unless others had better."""
        if self.trusted or not self._link.has_other(self):
            self._ack_due = self.attached

    def _owe(self) -> None:
        """Acknowledge soon; over all rails if it is doubtful whether this one gets that through."""
        self._ack_due = True
        if self.suspected:
            self._link.acknowledge_soon()

    def leave(self) -> None:
        """Tell the peer, when all has been sent, that nothing more will come."""
        self._leave_due = self.attached

    # Receiving

    def wanted(self, now: float) -> memoryview | None:
        """Return where the next bytes that are read go.

        None: the peer's next message is not awaited yet, or nothing is attached; leave its bytes in
        the connection and ask again later. A message without bytes is delivered here: raises what
        `filled` raises.
        """
        if not self.attached:
            return None
        while self._coming is not None:
            if self._payload is not None:
                return self._payload[self._filled :]
            if self._dropping:
                return self._hole()
            if not self._begin(self._coming, now):
                return None
        return self._header[self._filled :]

    def _begin(self, coming: Header, now: float) -> bool:
        """Find the place for the message whose header is read; return whether there is one."""
        link = self._link
        if link.has(coming.number):  # it may have come over another rail while this one waited
            link.dropped += 1
            self._drop(coming)
            return True
        place = link.place(coming.number, coming.length, coming.tag, self)
        if place is None:
            if self._blocked_since is None:
                self._blocked_since = now
            if now - self._blocked_since < link.patience:
                return False
            place = self._stashed = link.stash(coming.number, coming.length, self)
            if place is None:
                return False
        else:
            self._blocked_since = None
        self._payload = place
        if not coming.length:
            self._deliver(coming)
        return True

    @property
    def blocked(self) -> bool:
        """Whether bytes are left in the connection because their place is not known yet."""
        return self._coming is not None and self._payload is None and not self._dropping

    def _drop(self, coming: Header) -> None:
        self._owe()  # the peer does not know that it is here
        if coming.length:
            self._dropping = True
        else:
            self._end()

    def _hole(self) -> memoryview:
        assert self._coming is not None
        if self._nowhere is None:
            self._nowhere = memoryview(bytearray(NOWHERE))
        return self._nowhere[: self._coming.length - self._filled]

    def divert(self) -> None:
        """Let what still comes of the current message go nowhere: another rail brings it."""
        if self._stashed is not None:
            self._link.unstash(len(self._stashed))
            self._stashed = None
        self._payload = None
        self._dropping = True

    def filled(self, count: int, now: float) -> None:
        """Take note that `count` bytes were read into what `wanted` returned.

        Raises CorruptFrame for bytes that are not those sent, ProtocolError for what no peer sends.
        """
        self._heard = now
        self._filled += count
        coming = self._coming
        if coming is None:
            if self._filled == HEADER_SIZE:
                self._filled = 0
                self._take(Header.parse(self._header), now)
            return
        if not self._dropping:
            before = self._furthest[1] if self._furthest[0] == coming.number else 0
            if self._filled > before:
                self._link.progress += self._filled - before
                self.brought += self._filled - before
                self._furthest = coming.number, self._filled
        if self._filled == coming.length:
            if self._dropping:
                self._owe()  # another rail's may be in time, but this one carries no more either
                self._end()
            else:
                self._deliver(coming)

    def _take(self, header: Header, now: float) -> None:
        link, kind = self._link, header.kind
        if header.epoch != link.epoch:
            raise ProtocolError(
                f"{link}: a frame of epoch {header.epoch} came on a link of {link.epoch}"
            )
        link.acknowledge(header.received)
        self._was_read(header.read, now)
        if kind == Kind.DATA:
            link.has(header.number)  # raises for a number that cannot be
            self._coming = header
            if not link.keeps:
                self._blocked_since = None  # what this rail waited for has its place by now
        elif kind == Kind.LEAVE and not header.length:
            link.departed(header.number)
        elif kind not in (Kind.ACK, Kind.BEAT) or header.length or header.number:
            raise ProtocolError(
                f"{link}: a frame of a known kind, without number and payload but of messages, was "
                f"expected, found kind {kind}, number {header.number}, length {header.length}"
            )

    def _was_read(self, count: int, now: float) -> None:
        """Take note that the peer has read the first `count` messages of this connection."""
        if not self._acknowledged_here <= count <= self._acknowledged_here + len(self._unread):
            raise ProtocolError(
                f"{self._link}: rank {self._link.peer} says it read {count} messages of a "
                f"connection on which {self._acknowledged_here + len(self._unread)} were sent"
            )
        if count == self._acknowledged_here:
            return
        limit, begun, length, size = self._link.config.copy_limit, now, 0, 0
        while self._acknowledged_here < count:
            _, size, sent = self._unread.popleft()
            self.load -= size
            self._large -= size if size > limit else 0
            begun, length = min(begun, sent), length + size
            self._acknowledged_here += 1
            self._warming = max(0, self._warming - 1)
            self.brought += 1
        if size > limit:
            self.pace.measure(length, begun, now)
        else:
            self.pace.heard(now)

    def _deliver(self, coming: Header) -> None:
        assert self._payload is not None
        if self._link.checksum(self._payload) != coming.checksum:
            raise CorruptFrame("a corrupt message came")
        link = self._link
        self._small += 1
        self._small_bytes += coming.length
        if (
            coming.length > link.config.copy_limit
            or self._small >= SMALL_BEFORE_ACK
            or self._small_bytes * 4 * len(link.rails) > link.config.window
        ):
            self._owe()
        stashed, self._stashed = self._stashed, None
        link.complete(coming.number, stashed, coming.tag)
        self._end()

    def _end(self) -> None:
        self._read_here += 1
        self._coming = None
        self._payload = None
        self._dropping = False
        self._filled = 0

    # The connection below

    def attach(self, peer_received: int, now: float) -> None:
        """Go on over a new connection; the peer has `peer_received` messages."""
        assert not self.attached
        self._link.acknowledge(peer_received)
        self._warming = WARM_AFTER if self._stood and self._link.has_other(self) else 0
        self._stood = True
        self.attached = True
        self.suspected = False
        self._heard = self._spoke = now
        self.brought = 0

    def detach(self) -> None:
        """Take note that the connection is gone, with all that was in it."""
        self.attached = False
        self._wire.clear()
        if self._stashed is not None:
            self._link.unstash(len(self._stashed))
            self._stashed = None
        if self._coming is not None:
            self._link.abandon(self._coming.number, self)
        self._end()
        lost = [number for number, *_ in self._unread]
        self._read_here = self._acknowledged_here = self.load = self._large = 0
        self._unread.clear()
        self.pace = Pace()
        self._passage = Passage()
        self._blocked_since = None
        self._ack_due = self._beat_due = False
        self._small = self._small_bytes = 0
        self._link.requeue(lost)

    def moved(self, now: float) -> None:
        """Take note that the peer's host took bytes of ours: slow is not dead."""
        self._heard = now

    def silent(self, now: float) -> bool:
        """Do what is due at `now`; return whether the connection must be given up as silent."""
        if not self.attached:
            return False
        if self.blocked:
            self._heard = now  # it is we who do not read
        if now - self._spoke >= self._link.config.heartbeat:
            self._beat_due = True
        if not self._large:
            self.pace.age(now, self._link.fastest)
        return now - self._heard > self._link.config.silence

    def observe(self, now: float, flight: Flight) -> None:
        """Take note of what the kernel says, now and then while messages are on this rail."""
        link = self._link
        if self._passage.look(now, flight):
            if not flight.in_flight or not self._unread:
                self.suspected = False
        elif (
            not self.suspected
            and link.has_other(self)
            and self._passage.stuck(now, link.config.patience)
        ):
            self.suspected = True
            link.requeue([number for number, *_ in self._unread])
            link.acknowledge_soon()  # what was said over this rail may be lost as well
