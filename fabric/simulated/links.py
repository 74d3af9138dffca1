"""The links of one simulated rank: `collectives/links/tcp.py` and `door.py` without sockets. Pure.

The link's state machine, the redialling and the handshake are the real ones, with one rail a link.
What a transport decides itself (when to dial, to give a connection up, to send a heartbeat, to
refuse) is decided here as there; change the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.collectives.links import handshake
from holdfast.collectives.links.frame import HEADER_SIZE, CorruptFrame, Header, Kind
from holdfast.collectives.links.handshake import Hello
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.links.rail import Rail
from holdfast.collectives.links.redial import Redial
from holdfast.errors import AuthenticationError, ProtocolError
from holdfast.fabric.simulated.clock import Clock
from holdfast.fabric.simulated.tcp import End, Report

TOKEN = b"a simulated job's token"
PURPOSE = b"simulated link"
EPOCH = 0

LinkFactory = Callable[[int, int, int, LinkConfig], Link]
"""Makes a link of a rank to a peer in an epoch: `Link`, or one with a fault of its own."""


class Dial(Protocol):
    """How connections begin: the dialer is given its end at once, the other when it stands."""

    def __call__(self, rank: int, peer: int) -> End:
        """Have `rank` dial `peer`."""


class _Tap:
    """Reads along what passes on a connection in one direction, and reports its frames."""

    def __init__(self, report: Callable[[str, int, int], None]) -> None:
        self._report = report
        self._header = bytearray()
        self._skip = 0

    def pass_by(self, data: memoryview) -> None:
        """Take note of bytes."""
        while data:
            if self._skip:
                count = min(self._skip, len(data))
                self._skip -= count
            else:
                count = min(HEADER_SIZE - len(self._header), len(data))
                self._header += data[:count]
                if len(self._header) == HEADER_SIZE:
                    self._tell(memoryview(self._header))
                    self._header = bytearray()
            data = data[count:]

    def _tell(self, header: memoryview) -> None:
        try:
            frame = Header.parse(header)
        except CorruptFrame:
            self._report("corrupt", 0, 0)  # the connection is given up: nothing is skipped
            return
        self._skip = frame.length
        known = frame.kind in Kind.__members__.values()
        self._report(
            Kind(frame.kind).name if known else str(frame.kind), frame.number, frame.length
        )


@dataclass(eq=False)
class _Peer:
    """What belongs to one peer: the link, which stays, and its connection."""

    rank: int
    link: Link
    redial: Redial
    end: End | None = None
    dialing: bool = False
    queued: int = 0
    trouble: str = "no connection was made yet"
    connections: int = 0
    sent: _Tap | None = None
    came: _Tap | None = None
    taken: int = 0
    """Messages that `taken` was told of."""

    @property
    def rail(self) -> Rail:
        """The only rail of the link."""
        return self.link.rails[0]


@dataclass(eq=False)
class _Visitor:
    """A connection and how far its handshake is."""

    end: End
    deadline: float
    need: int
    dialer: handshake.Dialer | None = None
    acceptor: handshake.Acceptor | None = None
    peer: int = -1
    got: bytearray = field(default_factory=bytearray)


class Links:
    """All links of one rank, and the connections that are on their way to being theirs."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        config: LinkConfig,
        clock: Clock,
        dial: Dial,
        wake: Callable[[], None],
        report: Report,
        link: LinkFactory,
    ) -> None:
        self.rank = rank
        self._world_size = world_size
        self._config = config
        self._clock = clock
        self._make_connection = dial
        self._wake = wake
        self._report = report
        self._make_link = link
        self._peers: dict[int, _Peer] = {}
        self._visitors: list[_Visitor] = []
        self._accepted: list[End] = []
        self._next_care = 0.0
        self._closed = False

    # The Transport protocol, but that nothing waits

    def send(self, peer: int, data: memoryview, tag: int) -> None:
        """Queue `data` for `peer`."""
        place = self._peer(peer)
        place.link.send(data, tag)
        self._write(place)

    def post(self, peer: int, into: memoryview, tag: int) -> None:
        """Let the next message of `peer` that has no place yet go to `into`."""
        self._peer(peer).link.expect(into, tag)

    def filled(self, peer: int) -> bool:
        """Return whether the oldest place posted for `peer` and not taken is filled."""
        place = self._peer(peer)
        if place.link.received <= place.taken:
            self._read(place)
            self._write(place)
        return place.link.received > place.taken

    def taken(self, peer: int) -> None:
        """Take note that the oldest place of `peer` was waited for."""
        self._peer(peer).taken += 1

    def unflushed(self) -> list[int]:
        """Return the peers that may still need a buffer that was given to `send`."""
        return [place.rank for place in self._peers.values() if not place.link.flushed]

    def flushed(self, peer: int) -> bool:
        """Return whether `peer` needs no buffer of ours."""
        return self._peer(peer).link.flushed

    def write(self, peer: int) -> None:
        """Let out what reading made due: an acknowledgement."""
        self._write(self._peer(peer))

    @property
    def progress(self) -> int:
        """A number that grows while anything gets further, on whatever link."""
        return sum(place.link.progress for place in self._peers.values())

    def state(self, peer: int) -> str:
        """Return how the link to `peer` is, in words."""
        place = self._peer(peer)
        return "stands" if place.end else "is broken: " + place.trouble

    def turn(self) -> None:
        """Deal with all that has happened, and with what is due by now."""
        while self._accepted:
            self._welcome(self._accepted.pop(0))
        for visitor in list(self._visitors):
            while visitor in self._visitors and visitor.end.readable:
                self._shake(visitor)
        for place in list(self._peers.values()):
            self._read(place)
            self._write(place)
        if self._clock.now >= self._next_care:
            self._next_care = self._clock.now + self._config.heartbeat / 4
            self._clock.at(self._next_care, self._wake)
            self._care()
        self.dial()

    def dial(self) -> None:
        """Begin the connections to lower ranks for which it is time."""
        for place in self._peers.values():
            due = place.end is None and not place.dialing and self._clock.now >= place.redial.due
            if due and place.rank < self.rank and not place.link.left:
                place.dialing = True
                self._dial(place)

    def accept(self, end: End) -> None:
        """Take note that somebody connects; called by the host's kernel."""
        if self._closed:
            end.close()
        else:
            self._accepted.append(end)
            self._wake()

    def left(self, peer: int) -> bool:
        """Return whether `peer` has left the group."""
        return self._peer(peer).link.left

    def close(self, *, killed: bool = False) -> None:
        """Close every connection, may be called again; peers are told unless it was `killed`."""
        self._closed = True
        for place in self._peers.values():
            if place.end is not None and not killed:
                place.link.leave()
                self._write(place)
        for place in self._peers.values():
            if place.end is not None:
                place.end.close()
        for end in (*(visitor.end for visitor in self._visitors), *self._accepted):
            end.close()
        self._visitors.clear()
        self._accepted.clear()

    def _care(self) -> None:
        """Heartbeats, silent connections, handshakes that lead nowhere."""
        now = self._clock.now
        for place in self._peers.values():
            if place.end is None:
                continue
            queued = place.end.queued
            if queued < place.queued - HEADER_SIZE:
                place.rail.moved(now)
            place.queued = queued
            if place.rail.silent(now):
                self._break(place, f"nothing moved for {self._config.silence:.3g} s")
            else:
                self._write(place)
        for visitor in list(self._visitors):
            if now > visitor.deadline:
                self._give_up(visitor, "the handshake took too long")

    # Bytes

    def _read(self, place: _Peer) -> None:
        while place.end is not None:
            try:
                into = place.rail.wanted(self._clock.now)
            except CorruptFrame as error:
                self._break(place, str(error))
                return
            except ProtocolError:
                self._break(place, "it broke the protocol")
                raise
            if into is None:
                return
            try:
                count = place.end.recv_into(into)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(place, str(error.strerror))
                return
            if count == 0:
                self._break(place, "the peer closed it")
                return
            assert place.came is not None
            place.came.pass_by(into[:count])
            try:
                place.rail.filled(count, self._clock.now)
            except CorruptFrame as error:
                self._break(place, str(error))
            except ProtocolError:
                self._break(place, "it broke the protocol")
                raise

    def _write(self, place: _Peer) -> None:
        while place.end is not None and (buffers := place.rail.gather(self._clock.now)):
            try:
                count = place.end.sendmsg(buffers)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(place, str(error.strerror))
                return
            assert place.sent is not None
            left = count
            for buffer in buffers:
                place.sent.pass_by(buffer[:left])
                left -= min(left, len(buffer))
            place.rail.wrote(count)

    # Connections

    def _peer(self, rank: int) -> _Peer:
        place = self._peers.get(rank)
        if place is None:
            link = self._make_link(self.rank, rank, EPOCH, self._config)
            place = self._peers[rank] = _Peer(rank, link, Redial(self._config))
        return place

    def _break(self, place: _Peer, why: str) -> None:
        assert place.end is not None
        self._report("connection lost", self.rank, place.rank, why)
        place.end.close()
        place.end = None
        place.rail.detach()
        place.redial.postpone(self._clock.now, useful=place.rail.brought > 0)
        place.trouble = why

    def _admit(self, hello: Hello) -> int:
        if hello.peer != self.rank or hello.epoch != EPOCH:
            raise ProtocolError(f"rank {hello.rank} of epoch {hello.epoch} wants rank {hello.peer}")
        if not self.rank < hello.rank < self._world_size:
            raise ProtocolError(f"rank {hello.rank} dials rank {self.rank}: the higher one dials")
        place = self._peer(hello.rank)
        place.link.check(hello.received)
        if place.end is not None:
            self._break(place, "the peer dialled again")
        return place.link.received

    def _settle(self, visitor: _Visitor, peer: int, received: int) -> None:
        self._visitors.remove(visitor)
        place = self._peer(peer)
        place.dialing = False
        place.rail.attach(received, self._clock.now)
        place.connections += 1
        place.end = visitor.end
        place.queued = 0
        self._report("connected", self.rank, peer, place.connections, received)

        def tap(what: str) -> _Tap:
            return _Tap(
                lambda kind, number, length: self._report(
                    what, self.rank, peer, kind, number, length
                )
            )

        place.sent, place.came = tap("frame sent"), tap("frame came")
        self._write(place)

    def _fail(self, peer: int, why: str) -> None:
        place = self._peers[peer]
        place.dialing = False
        place.redial.postpone(self._clock.now)
        place.trouble = why
        self._report("not connected", self.rank, peer, why)

    # The door

    def _dial(self, place: _Peer) -> None:
        hello = Hello(self.rank, place.rank, EPOCH, 0, place.link.received)
        self._report("dialled", self.rank, place.rank)
        self._visitors.append(
            _Visitor(
                self._make_connection(self.rank, place.rank),
                self._clock.now + self._config.handshake,
                handshake.CHALLENGE_SIZE,
                dialer=handshake.Dialer(TOKEN, PURPOSE, hello),
                peer=place.rank,
            )
        )

    def _welcome(self, end: End) -> None:
        deadline = self._clock.now + self._config.handshake
        acceptor = handshake.Acceptor(TOKEN, PURPOSE)
        visitor = _Visitor(end, deadline, handshake.HELLO_SIZE, acceptor=acceptor)
        self._visitors.append(visitor)
        self._say(visitor, acceptor.challenge())

    def _say(self, visitor: _Visitor, message: bytes) -> bool:
        try:
            visitor.end.sendmsg([memoryview(message)])
        except OSError as error:
            self._give_up(visitor, str(error.strerror))
            return False
        return True

    def _shake(self, visitor: _Visitor) -> None:
        part = memoryview(bytearray(visitor.need - len(visitor.got)))
        try:
            count = visitor.end.recv_into(part)
        except OSError as error:
            self._give_up(visitor, str(error.strerror))
            return
        if count == 0:
            self._give_up(visitor, "closed in the handshake")
            return
        visitor.got += part[:count]
        if len(visitor.got) < visitor.need:
            return
        message = bytes(visitor.got)
        visitor.got.clear()
        try:
            if visitor.acceptor is not None:
                hello = visitor.acceptor.check(message)
                received = self._admit(hello)
                if self._say(visitor, visitor.acceptor.welcome(received)):
                    self._settle(visitor, hello.rank, hello.received)
            elif visitor.dialer is not None:
                self._advance(visitor, visitor.dialer, message)
        except (AuthenticationError, ProtocolError) as error:
            self._give_up(visitor, str(error))

    def _advance(self, visitor: _Visitor, dialer: handshake.Dialer, message: bytes) -> None:
        if visitor.need == handshake.CHALLENGE_SIZE:
            if self._say(visitor, dialer.answer(message)):
                visitor.need = handshake.WELCOME_SIZE
            return
        received = dialer.admitted(message)
        self._peers[visitor.peer].link.check(received)
        self._settle(visitor, visitor.peer, received)

    def _give_up(self, visitor: _Visitor, why: str) -> None:
        self._visitors.remove(visitor)
        visitor.end.close()
        if visitor.dialer is not None:
            self._fail(visitor.peer, why)
