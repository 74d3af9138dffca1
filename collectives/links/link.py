"""A link between two ranks, which outlives its connections. Pure: no socket, no clock, no thread.

Messages are numbered. The sender keeps each until the receiver is known to have it; the receiver
knows which it has. A message travels whole over one of the link's rails (`rail.py`), and each rail
takes the next one when it is free: a slow rail carries less, a dead one nothing. What was on a rail
that broke, or that no longer gets anything through, goes over another; what comes twice is dropped
by its number. So nothing is lost, and nothing is delivered twice.

Rules:
- A message is delivered when its last byte has been read and its checksum is right, never before.
- Messages are delivered in their order, whatever rails they came over.
- At most `window` bytes are sent ahead of what is acknowledged; that is also the most that a
  receiver ever keeps of what came before its place was known.

Messages of at most `copy_limit` bytes are copied; larger ones are borrowed until acknowledged.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from holdfast.collectives.links.checksum import ChecksumName, checksum
from holdfast.collectives.links.rail import Rail
from holdfast.collectives.links.tls import Tls
from holdfast.errors import CollectiveMismatch, ProtocolError, UsageError

FURTHEST_AHEAD = 1 << 16
"""Messages by whose number a peer may be ahead of what has arrived."""
MUCH_SOONER = 1.5
NOT_SOONER = 0.0005
"""A rail that brings a small message so many times as late as another, and so many seconds, leaves
it to that one: what is less is chance, and messages that change rails overtake each other."""


@dataclass(frozen=True)
class LinkConfig:
    """The knobs of a link; times in seconds, sizes in bytes.

    Arrays travel in messages of `segment` bytes, half of it where a link has several rails: then a
    slow one is not awaited long. `rails` connections are made between each pair of interfaces. A
    connection on which nothing has moved for `silence` is given up for a new one: that costs a
    reconnection, never the job.
    `heartbeat` is how often an end that has nothing to say says so. Where there are several rails,
    one that gets nothing through for `patience` (and a few round trips) lends its messages to the
    others; it is used again as soon as the peer has all that it carried. An end that leaves waits
    up to `linger` until the peers have what it sent last.

    `checksum` is of each message's payload, behind TCP's weak one: `fold` or `crc32c` cost a fifth
    of the rate where processors are the limit, nothing to speak of where the wire is. `congestion`
    names the kernel's congestion control for these sockets (empty: the system's). `tls` encrypts
    every rail.
    """

    segment: int = 512 << 10
    copy_limit: int = 64 << 10
    window: int = 8 << 20
    rails: int = 1
    checksum: ChecksumName = "none"
    congestion: str = ""
    tls: Tls | None = None
    heartbeat: float = 0.5
    silence: float = 2.0
    patience: float = 0.05
    handshake: float = 5.0
    first_retry: float = 0.01
    last_retry: float = 1.0
    linger: float = 10.0

    def __post_init__(self) -> None:
        if self.segment < 64 or self.copy_limit < 0:
            raise UsageError(
                f"a segment of at least 64 bytes and a copy limit from 0 were expected, found "
                f"{self.segment} and {self.copy_limit}"
            )
        if self.window < 2 * self.segment:
            raise UsageError(
                f"a window of at least two segments ({2 * self.segment} bytes) was expected, "
                f"found {self.window}: the rails would wait for each other"
            )
        if not 1 <= self.rails <= 64:
            raise UsageError(f"1 to 64 rails were expected, found {self.rails}")
        if not 0 < self.heartbeat < self.silence:
            raise UsageError(
                f"heartbeats every {self.heartbeat} s cannot keep a connection that is given up "
                f"after {self.silence} s of silence: make the first much shorter"
            )
        if not 0 < self.patience <= self.silence:
            raise UsageError(
                f"a patience from 0 to the silence of {self.silence} s was expected, found "
                f"{self.patience} s"
            )
        checksum(self.checksum)  # a missing package is told here, not in the middle of a call


class Link:
    """One end of a link: what is yet to be acknowledged, and what is awaited.

    `rails` are its rails, by number. All else that is public is for the transport; what the rails
    call stands at the end.
    """

    def __init__(
        self, rank: int, peer: int, epoch: int, config: LinkConfig, rails: int = 1
    ) -> None:
        self.rank = rank
        self.peer = peer
        self.epoch = epoch
        self.config = config
        self.received = 0
        """How many messages of the peer have arrived without a gap."""
        self.acknowledged = 0
        """How many of our messages the peer is known to have without a gap."""
        self.numbered = 0
        """How many messages were given to `send`."""
        self.progress = 0
        """Payload bytes that brought something new, and messages acknowledged: grows, or is stuck.
        """
        self.resent = 0
        """How many messages were put on a wire a second time."""
        self.flushing = False
        """Whether what was lent is awaited: its acknowledgement may stand behind other messages."""
        self.dropped = 0
        """How many messages came a second time and were dropped."""
        self.rails = [Rail(self, number) for number in range(rails)]
        self.checksum = checksum(config.checksum)
        self._borrowed = 0  # messages up to and including the last borrowed one
        # Messages `acknowledged` to `numbered` - 1, with their tags.
        self._kept: deque[tuple[memoryview, int]] = deque()
        self._next = 0  # the first message that was never on a rail
        self._again: list[int] = []  # heap of messages that are to be sent again
        self._fresh = 0  # bytes of messages `_next` to `numbered` - 1
        self._outstanding = 0  # bytes of the messages `acknowledged` to `_next` - 1
        self._awaited: deque[tuple[memoryview, int]] = deque()  # where they go, and their tags
        self._filling: dict[int, Rail] = {}  # the rail that fills an awaited message's place
        self._early: dict[
            int, tuple[memoryview, int] | None
        ] = {}  # came behind a gap; None: placed
        self._stashed = 0  # bytes of those that came before their place was known
        self._leaving: int | None = None  # how many messages we send before we leave
        self._left_after: int | None = None

    @property
    def attached(self) -> bool:
        """Whether any rail stands."""
        return any(rail.attached for rail in self.rails)

    # Sending

    def send(self, message: memoryview, tag: int = 0) -> None:
        """Number `message` (bytes) and keep it until the peer has it."""
        self.numbered += 1
        self._fresh += len(message)
        if len(message) <= self.config.copy_limit:
            self._kept.append((memoryview(bytes(message)), tag))
        else:
            self._borrowed = self.numbered
            self._kept.append((message, tag))

    @property
    def flushed(self) -> bool:
        """Whether no borrowed message is still needed."""
        return self.acknowledged >= self._borrowed

    def acknowledge_soon(self) -> None:
        """Let the peer know at the next `gather` of any rail that is trusted what has arrived."""
        for rail in self.rails:
            rail.acknowledge_soon()

    def leave(self, *, at_once: bool = False) -> None:
        """Tell the peer, behind all that was sent, that nothing more will come.

        With `at_once`, only what is on the wires goes before; the rest is never sent. The peer may
        still take what is on its way; what a broken rail has lost, it awaits in vain until the
        connections end.
        """
        self._leaving = self._next if at_once else self.numbered
        if at_once:
            self._again.clear()
            self._fresh = 0
            self._next = self.numbered
        for rail in self.rails:
            rail.leave()

    @property
    def left(self) -> bool:
        """Whether the peer has left, and whatever it had to send has arrived or never will."""
        if self._left_after is None:
            return False
        return self.received >= self._left_after or not self.attached

    # Receiving

    def expect(self, into: memoryview, tag: int = 0) -> int:
        """Let the next message that is not awaited yet go to `into`; return its number."""
        number = self.received + len(self._awaited)
        self._awaited.append((into, tag))
        early = self._early.get(number)
        if early is not None:
            data, came = early
            self._fits(number, len(data), came)
            into[:] = data
            self._stashed -= len(data)
            self._early[number] = None
            self._advance()
            self.acknowledge_soon()  # what was said when it came did not count it
        return number

    def check(self, received: int) -> None:
        """Raise ProtocolError if the peer cannot have `received` messages."""
        # With several rails, what one says may be older than what another has said.
        least = self.acknowledged if len(self.rails) == 1 else 0
        if not least <= received <= self._next:
            raise ProtocolError(
                f"{self}: rank {self.peer} says it has {received} messages; between "
                f"{least} and {self._next} were expected"
            )

    # What the rails ask and tell

    def take(self, rail: Rail) -> tuple[int, memoryview, int] | None:
        """Return number, payload and tag of the message that `rail` is to carry next, or None."""
        if self._again:
            number = heappop(self._again)
            self.resent += 1
        elif self._next < self.numbered and self._within_window() and self._fits_on(rail):
            number = self._next
            self._next += 1
            length = len(self._kept[number - self.acknowledged][0])
            self._outstanding += length
            self._fresh -= length
        else:
            return None
        return number, *self._kept[number - self.acknowledged]

    def _within_window(self) -> bool:
        if not self._outstanding:
            return True
        if self._next - self.acknowledged >= FURTHEST_AHEAD // 2:
            return False
        payload, _ = self._kept[self._next - self.acknowledged]
        return self._outstanding + len(payload) <= self.config.window

    def _fits_on(self, rail: Rail) -> bool:
        """Return whether `rail` may carry the next message.

        A small one, if none of the others would have it there much sooner. A large one if there is
        room, and no other rail would have it there sooner, not even if that carried all others
        before: the idea of ECF (Lim, Nahum, Towsley and Gibbens, "ECF: An MPTCP path scheduler to
        manage heterogeneous paths", 2017).
        """
        others = [other for other in self.rails if other is not rail and other.trusted]
        payload, _ = self._kept[self._next - self.acknowledged]
        if len(payload) <= self.config.copy_limit:
            latest = MUCH_SOONER * min((each.delay for each in others if each.open), default=inf)
            return rail.delay <= latest + NOT_SOONER
        if not others:
            return True
        if not rail.has_room:
            return False
        if not rail.pace.rate:
            return True
        seconds = (rail.load + len(payload)) / rail.pace.rate
        return all(seconds * other.pace.rate <= other.load + self._fresh for other in others)

    @property
    def ended(self) -> int | None:
        """How many messages went before the end, once all of them are on rails and we leave."""
        if self._leaving is None or self._again or self._next < self.numbered:
            return None
        return self._leaving

    def requeue(self, numbers: Iterable[int]) -> None:
        """Let other rails, or the next connection, carry messages that a rail has not got through.

        Also those that were lent to another rail: the peer takes what begins last, and that may
        have been what came over the first.
        """
        for number in numbers:
            if number >= self.acknowledged and number not in self._again:
                heappush(self._again, number)

    @property
    def fastest(self) -> float:
        """The rate of the fastest rail that stands, in bytes/s; 0 if none is known."""
        return max((rail.pace.rate for rail in self.rails if rail.attached), default=0.0)

    def has_other(self, rail: Rail) -> bool:
        """Return whether a rail beside `rail` stands and is trusted."""
        return any(other.trusted for other in self.rails if other is not rail)

    def acknowledge(self, received: int) -> None:
        """Take note that the peer has the first `received` messages."""
        self.check(received)
        while self.acknowledged < received:
            payload, _ = self._kept.popleft()
            self._outstanding -= len(payload)
            self.acknowledged += 1
            self.progress += 1
        while self._again and self._again[0] < received:
            heappop(self._again)

    def has(self, number: int) -> bool:
        """Return whether message `number` of the peer is here already.

        Raises ProtocolError for a number that no peer can have come to.
        """
        if number >= self.received + FURTHEST_AHEAD:
            raise ProtocolError(
                f"{self}: message {self.received} was expected, found message {number}"
            )
        return number < self.received or number in self._early

    def place(self, number: int, length: int, tag: int, rail: Rail) -> memoryview | None:
        """Return where message `number` of `length` bytes goes; None: its place is not known yet.

        From now on it comes over `rail`; a rail that was filling that place goes on to nowhere.
        Raises CollectiveMismatch if the message is not what is awaited.
        """
        ahead = number - self.received
        if ahead >= len(self._awaited):
            return None
        self._fits(number, length, tag)
        self._claim(number, rail)
        return self._awaited[ahead][0]

    def _claim(self, number: int, rail: Rail) -> None:
        """Let `rail` alone bring message `number` from now on."""
        before = self._filling.get(number)
        if before is not None and before is not rail:
            before.divert()
        self._filling[number] = rail

    @property
    def patience(self) -> float:
        """Seconds for which a rail waits for the place of what has come, before it keeps it.

        What stands behind it may be a message that is missing before it, sent again, or an
        acknowledgement without which we may send no more, or do not get back what we lent.
        """
        if self.flushing:
            return 0.0
        if len(self.rails) == 1:
            return inf
        return 0.0 if self._fresh else self.config.patience / 4

    def stash(self, number: int, length: int, rail: Rail) -> memoryview | None:
        """Return memory for a message whose place is not known yet; None: enough is kept already.

        As with `place`, it comes over `rail` from now on.

        A peer that keeps to the window never has more on its way than is kept.
        """
        if self._stashed + length > self.config.window:
            return None
        self._claim(number, rail)
        self._stashed += length
        return memoryview(bytearray(length))

    @property
    def keeps(self) -> bool:
        """Whether memory is given to messages whose place was not known when they came."""
        return self._stashed > 0

    def unstash(self, length: int) -> None:
        """Take note that what was given by `stash` has not been filled and never will."""
        self._stashed -= length

    def abandon(self, number: int, rail: Rail) -> None:
        """Take note that `rail` will not fill the place of message `number`."""
        if self._filling.get(number) is rail:
            del self._filling[number]

    def complete(self, number: int, stashed: memoryview | None, tag: int) -> None:
        """Take note that message `number` is whole: in its place, or in `stashed` memory."""
        assert number >= self.received
        assert number not in self._early
        self._filling.pop(number, None)
        if stashed is not None:
            ahead = number - self.received
            if ahead >= len(self._awaited):
                self._early[number] = stashed, tag
                return
            self._fits(number, len(stashed), tag)  # its place became known meanwhile
            self._awaited[ahead][0][:] = stashed
            self._stashed -= len(stashed)
        self._early[number] = None
        self._advance()

    def _advance(self) -> None:
        while self._early.get(self.received, self) is None:
            del self._early[self.received]
            self._awaited.popleft()
            self.received += 1

    def departed(self, count: int) -> None:
        """Take note that the peer leaves once `count` messages have come."""
        self._left_after = count

    def _fits(self, number: int, length: int, tag: int) -> None:
        into, awaited_tag = self._awaited[number - self.received]
        if len(into) != length or tag != awaited_tag:
            raise CollectiveMismatch(
                f"{self}: a message of {len(into)} bytes of call {awaited_tag:04x} was expected, "
                f"rank {self.peer} sends {length} of call {tag:04x}: the ranks called different "
                "collectives, or the same one with another operation, dtype or size"
            )

    def __str__(self) -> str:
        return f"link of rank {self.rank} to rank {self.peer}"
