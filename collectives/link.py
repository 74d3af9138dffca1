"""A link between two ranks, which outlives its connections. Pure: no socket, no clock, no thread.

Messages are numbered. The sender keeps each until the receiver is known to have it whole; the
receiver counts those that it has. When a connection breaks, both ends `detach`; when the next one
stands, each tells the other its count and `attach` goes on from there: what was cut off in the
middle is sent again from its start, what had arrived is not. So nothing is lost, and nothing is
delivered twice.

Rule: a message is delivered when its last byte has been read, never before.

A frame is a header and, for DATA, the payload. All integers are little-endian:

    kind u8 | a zero byte | tag u16 | epoch u32 | number u64 | received u64 | length u64
    | checksum of the payload u32 | CRC-32 of what stands before it u32

`number` is the message's number, `received` how many messages the writer of the frame has; `tag`
says of which call a message is part, so that ranks that call different things are told. A frame
whose checksum is wrong raises `CorruptFrame`: the connection is given up for another, as if broken.
LEAVE is an end's last frame: it will send nothing more and not come back.
Messages of at most `copy_limit` bytes are copied; larger ones are borrowed until acknowledged.
"""

import struct
import zlib
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from holdfast.collectives.checksum import checksum
from holdfast.errors import CollectiveMismatch, ProtocolError, UsageError

HEADER = struct.Struct("<BxHIQQQII")
_FIELDS = struct.Struct("<BxHIQQQI")
_CRC = struct.Struct("<I")

_NOTHING = memoryview(b"")

SMALL_BEFORE_ACK = 32
"""Small messages are acknowledged with whatever flows back, or after this many."""


class Kind(IntEnum):
    """What a frame is."""

    DATA = 1
    ACK = 2
    BEAT = 3
    LEAVE = 4


class CorruptFrame(Exception):
    """Bytes changed on their way: give the connection up, the link goes on over another one."""


@dataclass(frozen=True)
class LinkConfig:
    """The knobs of a link; times in seconds, sizes in bytes.

    A connection on which nothing has moved for `silence` is given up for a new one: that costs a
    reconnection, never the job. `heartbeat` is how often an end that has nothing to say says so.
    """

    segment: int = 512 << 10
    copy_limit: int = 64 << 10
    heartbeat: float = 0.5
    silence: float = 2.0
    handshake: float = 5.0
    first_retry: float = 0.01
    last_retry: float = 1.0

    def __post_init__(self) -> None:
        if self.segment < 64 or self.copy_limit < 0:
            raise UsageError(
                f"a segment of at least 64 bytes and a copy limit from 0 were expected, found "
                f"{self.segment} and {self.copy_limit}"
            )
        if not 0 < self.heartbeat < self.silence:
            raise UsageError(
                f"heartbeats every {self.heartbeat} s cannot keep a connection that is given up "
                f"after {self.silence} s of silence: make the first much shorter"
            )


class Link:
    """One end of a link: what is yet to be acknowledged, and what is awaited."""

    def __init__(self, rank: int, peer: int, epoch: int, config: LinkConfig) -> None:
        self.rank = rank
        self.peer = peer
        self.epoch = epoch
        self.config = config
        self.attached = False
        self.received = 0
        """How many messages of the peer have arrived whole."""
        self.acknowledged = 0
        """How many of our messages the peer is known to have."""
        self.progress = 0
        """Payload bytes read for the first time, and messages acknowledged: grows, or is stuck."""
        self._furthest = 0  # bytes of the current message that were ever read
        self.resent = 0
        """How many messages were put on a wire a second time."""
        self.left = False
        """Whether the peer has left: whatever it had to send has arrived."""
        self._leaving = False
        self.numbered = 0
        """How many messages were given to `send`."""
        self._borrowed = 0  # messages up to and including the last borrowed one
        # Messages `acknowledged` to `numbered` - 1, with their tags.
        self._kept: deque[tuple[memoryview, int]] = deque()
        self._next = 0  # the message to be put on the wire next
        self._reached = 0  # the furthest message ever put on a wire
        self._wire: deque[memoryview] = deque()  # bytes committed to the connection
        self._awaited: deque[tuple[memoryview, int]] = deque()  # where they go, and their tags
        self._header = memoryview(bytearray(HEADER.size))
        self._filled = 0  # bytes of the header, or of the payload, that are read
        self._payload: memoryview | None = None
        self._length = -1  # of the payload whose header is read; -1: none is
        self._tag = 0
        self._checksum = 0
        self._ack_due = False
        self._small = 0  # small messages received and not acknowledged yet
        self._beat_due = False
        self._heard = 0.0
        self._spoke = 0.0

    # Sending

    def send(self, message: memoryview, tag: int = 0) -> None:
        """Number `message` (bytes) and keep it until the peer has it."""
        self.numbered += 1
        if len(message) <= self.config.copy_limit:
            self._kept.append((memoryview(bytes(message)), tag))
        else:
            self._borrowed = self.numbered
            self._kept.append((message, tag))

    @property
    def flushed(self) -> bool:
        """Whether no borrowed message is still needed."""
        return self.acknowledged >= self._borrowed

    def gather(self, now: float) -> list[memoryview]:
        """Return the buffers to be written next, in order; empty if there is nothing to write."""
        if not self.attached:
            return []
        if len(self._wire) < 3:
            self._commit(now)
        return list(self._wire)

    def _commit(self, now: float) -> None:
        for _ in range(2):
            if self._next == self.numbered:
                break
            payload, tag = self._kept[self._next - self.acknowledged]
            self._frame(Kind.DATA, self._next, payload, now, tag)
            if payload:
                self._wire.append(payload)
            self._next += 1
            self.resent += self._next <= self._reached
            self._reached = max(self._reached, self._next)
        if self._ack_due:
            self._frame(Kind.ACK, 0, _NOTHING, now)
        elif self._beat_due and not self._wire:
            self._frame(Kind.BEAT, 0, _NOTHING, now)
        if self._leaving and self._next == self.numbered:
            self._leaving = False
            self._frame(Kind.LEAVE, 0, _NOTHING, now)

    def _frame(
        self, kind: Kind, number: int, payload: memoryview, now: float, tag: int = 0
    ) -> None:
        fields = _FIELDS.pack(
            kind, tag, self.epoch, number, self.received, len(payload), checksum(payload)
        )
        self._wire.append(memoryview(fields + _CRC.pack(zlib.crc32(fields))))
        self._ack_due = self._beat_due = False  # every frame carries `received` and is a sign
        self._small = 0
        self._spoke = now

    def wrote(self, count: int) -> None:
        """Take note that the connection accepted `count` bytes of what `gather` returned."""
        while count:
            first = self._wire[0]
            if count < len(first):
                self._wire[0] = first[count:]
                return
            count -= len(first)
            self._wire.popleft()

    # Receiving

    def expect(self, into: memoryview, tag: int = 0) -> int:
        """Let the next message that is not awaited yet go to `into`; return its number."""
        self._awaited.append((into, tag))
        return self.received + len(self._awaited) - 1

    def wanted(self) -> memoryview | None:
        """Return where the next bytes that are read go.

        None: the peer's next message is not awaited yet, or nothing is attached; leave its bytes in
        the connection.
        """
        if not self.attached:
            return None
        while self._length >= 0:
            if self._payload is not None:
                return self._payload[self._filled :]
            if not self._awaited:
                return None
            self._begin_payload()
        return self._header[self._filled :]

    def filled(self, count: int, now: float) -> None:
        """Take note that `count` bytes were read into what `wanted` returned.

        Raises CorruptFrame for bytes that are not those sent, ProtocolError for what no peer sends.
        """
        self._heard = now
        self._filled += count
        if self._length < 0:
            if self._filled == HEADER.size:
                self._filled = 0
                self._take_header()
        else:
            if self._filled > self._furthest:
                self.progress += self._filled - self._furthest
                self._furthest = self._filled
            if self._filled == self._length:
                self._deliver()

    def _take_header(self) -> None:
        kind, tag, epoch, number, received, length, payload_sum, crc = HEADER.unpack(self._header)
        if crc != zlib.crc32(self._header[: _FIELDS.size]):
            raise CorruptFrame("a corrupt frame came")
        if epoch != self.epoch:
            raise ProtocolError(f"{self}: a frame of epoch {epoch} came on a link of {self.epoch}")
        self._acknowledge(received)
        if kind == Kind.DATA:
            if number != self.received:
                raise ProtocolError(
                    f"{self}: message {self.received} was expected, found message {number}"
                )
            self._length, self._tag, self._checksum = length, tag, payload_sum
        elif kind not in (Kind.ACK, Kind.BEAT, Kind.LEAVE) or length or number:
            raise ProtocolError(f"{self}: found a frame of kind {kind} and length {length}")
        self.left |= kind == Kind.LEAVE

    def _begin_payload(self) -> None:
        """Open the awaited buffer for the message whose header is read."""
        into, tag = self._awaited[0]
        if len(into) != self._length or tag != self._tag:
            raise CollectiveMismatch(
                f"{self}: a message of {len(into)} bytes of call {tag:04x} was expected, rank "
                f"{self.peer} sends {self._length} of call {self._tag:04x}: the ranks called "
                "different collectives, or the same one with another operation, dtype or size"
            )
        self._payload = into
        if not self._length:
            self._deliver()

    def _deliver(self) -> None:
        if self._payload is not None and checksum(self._payload) != self._checksum:
            raise CorruptFrame("a corrupt message came")
        self._awaited.popleft()
        self._furthest = 0
        self.received += 1
        self._small += 1
        if self._length > self.config.copy_limit or self._small >= SMALL_BEFORE_ACK:
            self._ack_due = True
        self._payload = None
        self._length = -1
        self._filled = 0

    def check(self, received: int) -> None:
        """Raise ProtocolError if the peer cannot have `received` messages."""
        if not self.acknowledged <= received <= self._reached:
            raise ProtocolError(
                f"{self}: rank {self.peer} says it has {received} messages; between "
                f"{self.acknowledged} and {self._reached} were expected"
            )

    def _acknowledge(self, received: int) -> None:
        self.check(received)
        while self.acknowledged < received:
            self._kept.popleft()
            self.acknowledged += 1
            self.progress += 1

    # The connection below

    def attach(self, peer_received: int, now: float) -> None:
        """Go on over a new connection; the peer has `peer_received` messages."""
        assert not self.attached
        self._acknowledge(peer_received)
        self._next = self.acknowledged
        self.attached = True
        self._heard = self._spoke = now

    def detach(self) -> None:
        """Take note that the connection is gone, with all that was in it."""
        self.attached = False
        self._wire.clear()
        self._payload = None
        self._length = -1
        self._filled = 0
        self._ack_due = self._beat_due = False

    def acknowledge_soon(self) -> None:
        """Let the peer know at the next `gather` what has arrived."""
        self._ack_due = self.attached

    def leave(self, *, at_once: bool = False) -> None:
        """Tell the peer, behind all that was sent, that nothing more will come.

        With `at_once`, only what is on the wire goes before; the rest is never sent.
        """
        self._leaving = self.attached
        if at_once and self.attached:
            self._next = self.numbered

    def moved(self, now: float) -> None:
        """Take note that the peer's host took bytes of ours: slow is not dead."""
        self._heard = now

    def silent(self, now: float) -> bool:
        """Do what is due at `now`; return whether the connection must be given up as silent."""
        if not self.attached:
            return False
        if self._length >= 0 and self._payload is None:
            self._heard = now  # it is we who do not read
        if now - self._spoke >= self.config.heartbeat:
            self._beat_due = True
        return now - self._heard > self.config.silence

    def __str__(self) -> str:
        return f"link of rank {self.rank} to rank {self.peer}"
