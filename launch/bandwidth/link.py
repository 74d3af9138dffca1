"""One link between two ranks: its rate each way and per rail, beside that of plain sockets."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdfast.collectives import Communicator, GroupConfig, connect
from holdfast.collectives.links.interfaces import address_of
from holdfast.collectives.links.tcp import TcpTransport
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.errors import UsageError
from holdfast.launch.bandwidth.spec import check_files, check_size, format_size
from holdfast.launch.bandwidth.together import Seat, tell
from holdfast.launch.bandwidth.wire import Meeting, Wire, dial

WAYS = ("0 to 1", "1 to 0", "both at once")
MEASURED_SECONDS = 0.25
"""How long one measurement should take where its size is not given."""
SMALLEST, LARGEST = 1 << 20, 256 << 20
PINGS = 200
_TIMEOUT = 60.0


@dataclass(frozen=True)
class LinkSpec:
    """What `bench link` is to measure; `size` 0 takes what moves in a quarter of a second.

    There are `rails` connections for each of `interfaces` (see `GroupConfig`); 0 and none leave it
    to the environment.
    """

    size: int = 0
    rounds: int = 5
    rails: int = 0
    interfaces: tuple[str, ...] = ()
    json_file: Path | None = None
    plot_file: Path | None = None

    def __post_init__(self) -> None:
        check_size(self.size, self.rounds)
        check_files(self.json_file, self.plot_file)


@dataclass(frozen=True)
class RailRate:
    """One rail's part while both directions were busy: GB/s of what rank 0 sent over it."""

    rail: int
    address: str
    ours: float
    raw: float


@dataclass(frozen=True)
class LinkFigures:
    """What was measured: GB/s by way, and microseconds of 4 bytes from one rank to the other.

    Both at once, it is what goes each way.
    """

    size: int
    rounds: int
    addresses: tuple[str, ...]
    congestion: str
    ours: dict[str, float]
    raw: dict[str, float]
    rails: list[RailRate]
    latency_us: float
    raw_latency_us: float
    of_limit: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        parts = {way: self.ours[way] / self.raw[way] for way in self.ours}
        object.__setattr__(self, "of_limit", parts)

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return asdict(self)


class _Round(NamedTuple):
    """Seconds by way, bytes per rail while both directions were busy, seconds of a ping."""

    seconds: dict[str, float]
    rails: list[int]
    ping: float


def measure(seat: Seat, spec: LinkSpec, say: Callable[[str], None]) -> LinkFigures | None:
    """Measure the link between the two ranks that call this; return the figures at rank 0."""
    if seat.base.world_size != 2:
        raise UsageError(
            f"a link has two ends: start 2 ranks (found {seat.base.world_size}); `holdfast bench "
            "matrix` measures more"
        )
    config = seat.over_tcp(spec.interfaces, spec.rails)
    with contextlib.closing(connect(config)) as communicator:
        transport = tcp_below(communicator)
        communicator.barrier()  # whose connections stand now
        rails = transport.rails(1 - seat.rank)
        with _raw(config, communicator, len(rails)) as wire:
            raw = _Raw(communicator, wire)
            size = spec.size or _fitting(communicator, raw)
            ours = _Ours(communicator, transport, size)
            rounds: dict[str, list[_Round]] = {"ours": [], "raw": []}
            for number in range(spec.rounds):
                order: list[tuple[str, _Ours | _Raw]] = [("ours", ours), ("raw", raw)]
                for name, entrant in order if number % 2 == 0 else order[::-1]:
                    rounds[name].append(_round(communicator, entrant, size))
                if seat.rank == 0:
                    say(_progress(number, {name: each[-1] for name, each in rounds.items()}, size))
    if seat.rank:
        return None
    return LinkFigures(
        size=size,
        rounds=spec.rounds,
        addresses=tuple(f"{rail.address[0]}" for rail in rails),
        congestion=congestion_control(),
        ours=_rates(rounds["ours"], size),
        raw=_rates(rounds["raw"], size),
        rails=_rail_rates([rail.address[0] for rail in rails], rounds),
        latency_us=1e6 * statistics.median(each.ping for each in rounds["ours"]),
        raw_latency_us=1e6 * statistics.median(each.ping for each in rounds["raw"]),
    )


def tcp_below(communicator: Communicator) -> TcpTransport:
    """Return the transport below a communicator that was asked to be over TCP."""
    assert isinstance(communicator, ScheduledCommunicator)
    assert isinstance(communicator.wire, TcpTransport)
    return communicator.wire


def congestion_control() -> str:
    """Return the system's, which all sockets here have."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _raw(config: GroupConfig, communicator: Communicator, streams: int) -> Wire:
    """Return plain sockets between the same addresses, as many as the link has rails."""
    own = [address_of(each) for each in config.interfaces]
    if config.rank == 0:
        here = own or [config.address or config.master_addr]
        with contextlib.closing(
            Meeting([here[number % len(here)] for number in range(streams)], _TIMEOUT)
        ) as meeting:
            tell(communicator, meeting.offer)
            return meeting.accept()
    offer = tell(communicator, None)[0]
    sources: list[str | None] = [*own] or [config.address]
    return dial(offer, [sources[number % len(sources)] for number in range(streams)], _TIMEOUT)


class _Ours:
    """The link, by way of the collectives."""

    def __init__(self, communicator: Communicator, transport: TcpTransport, size: int) -> None:
        self._ranks = communicator
        self._transport = transport
        self._array = communicator.allocate(size // 4, np.float32)
        self._array.fill(1.0)  # or every page of it would be one and the same, in the cache
        self._small = communicator.allocate(1, np.float32)

    def move(self, way: str, size: int) -> list[int]:
        """Move `size` bytes; return what rank 0 sent over each rail, or received."""
        ranks, peer, x = self._ranks, 1 - self._ranks.rank, self._array[: size // 4]
        before = self._transport.rails(peer)
        if way == "both at once":
            ranks.all_reduce(x, "max")  # between two ranks every byte goes each way once
        elif way.startswith(str(ranks.rank)):
            ranks.send(x, peer)
        else:
            ranks.recv(x, peer)
        after = self._transport.rails(peer)
        return [new.sent - old.sent for old, new in zip(before, after, strict=True)]

    def ping(self) -> None:
        """Send 4 bytes there and back."""
        peer = 1 - self._ranks.rank
        if self._ranks.rank == 0:
            self._ranks.send(self._small, peer)
            self._ranks.recv(self._small, peer)
        else:
            self._ranks.recv(self._small, peer)
            self._ranks.send(self._small, peer)


class _Raw:
    """Plain sockets."""

    def __init__(self, communicator: Communicator, wire: Wire) -> None:
        self._rank = communicator.rank
        self._wire = wire

    def move(self, way: str, size: int) -> list[int]:
        """Move `size` bytes; return what went over each stream."""
        sends = way == "both at once" or way.startswith(str(self._rank))
        receives = way == "both at once" or not sends
        return self._wire.exchange(size if sends else 0, size if receives else 0)

    def ping(self) -> None:
        """Send 4 bytes there and back."""
        for sends in (True, False) if self._rank == 0 else (False, True):
            self._wire.exchange(4 if sends else 0, 0 if sends else 4)


def _round(communicator: Communicator, entrant: _Ours | _Raw, size: int) -> _Round:
    """Measure each way once, after a part of it that does not count, and the latency."""
    seconds: dict[str, float] = {}
    rails: list[int] = []
    for way in WAYS:
        entrant.move(way, max(4, size // 32 * 4))
        communicator.barrier()
        begin = time.perf_counter()
        rails = entrant.move(way, size)
        seconds[way] = max(tell(communicator, time.perf_counter() - begin))
    for _ in range(PINGS // 10):
        entrant.ping()
    communicator.barrier()
    begin = time.perf_counter()
    for _ in range(PINGS):
        entrant.ping()
    ping = (time.perf_counter() - begin) / PINGS / 2
    return _Round(seconds, rails, ping)


def _fitting(communicator: Communicator, raw: _Raw) -> int:
    """Return how many bytes move both ways in `MEASURED_SECONDS`, as rank 0 finds."""
    size, took = SMALLEST, 0.0
    while True:
        communicator.barrier()
        begin = time.perf_counter()
        raw.move("both at once", size)
        took = tell(communicator, time.perf_counter() - begin)[0]
        if took >= MEASURED_SECONDS / 4 or size == LARGEST:
            break
        size = min(LARGEST, 4 * size)
    fitting = int(size * MEASURED_SECONDS / took) >> 20 << 20
    return max(SMALLEST, min(LARGEST, fitting))


def _rates(rounds: Sequence[_Round], size: int) -> dict[str, float]:
    return {
        way: size / statistics.median(each.seconds[way] for each in rounds) / 1e9 for way in WAYS
    }


def _rail_rates(addresses: Sequence[str], rounds: dict[str, list[_Round]]) -> list[RailRate]:
    def rate(name: str, rail: int) -> float:
        return statistics.median(
            each.rails[rail] / each.seconds["both at once"] / 1e9 for each in rounds[name]
        )

    return [
        RailRate(rail, address, rate("ours", rail), rate("raw", rail))
        for rail, address in enumerate(addresses)
    ]


def _progress(number: int, last: dict[str, _Round], size: int) -> str:
    parts = [
        f"{name} {size / each.seconds['both at once'] / 1e9:.2f}" for name, each in last.items()
    ]
    return f"round {number + 1}: both ways, GB/s each: {', '.join(parts)}"


def table(figures: LinkFigures) -> str:
    """Return the figures as text."""
    lines = [
        f"# link between 2 ranks, {len(figures.rails)} rail(s): {format_size(figures.size)} at a "
        f"time, medians of {figures.rounds} rounds, GB/s are 10^9 bytes/s; {figures.congestion}",
        f"#{'way':>20}{'holdfast':>12}{'raw':>12}{'of the limit':>14}",
    ]
    lines += [
        _line(way, figures.ours[way], figures.raw[way], f"{figures.of_limit[way]:.2f}")
        for way in figures.ours
    ]
    if len(figures.rails) > 1:
        lines += [
            _line(f"rail {each.rail}, {each.address}", each.ours, each.raw, "")
            for each in figures.rails
        ]
    times = f"{figures.latency_us:>12.1f}{figures.raw_latency_us:>12.1f}"
    lines.append(f" {'4 bytes, us':>20}{times}")
    return "\n".join(lines)


def _line(name: str, ours: float, raw: float, part: str) -> str:
    return f" {name:>20}{ours:>12.3f}{raw:>12.3f}{part:>14}".rstrip()
