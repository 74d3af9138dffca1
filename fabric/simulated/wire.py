"""Lanes on which bytes take time, are held up and are lost. Pure: a virtual clock, a seed.

A stream's bytes travel in pieces. A piece occupies each lane on its path for its size over the
lane's rate, one piece after the other; it begins on the next lane when its head gets there, not
when its tail does (cut-through). Conditions are met where and when a piece meets them.
"""

import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.fabric.condition import CLEAR, Condition, Pair, Place, along, baseline
from holdfast.fabric.simulated.clock import Clock
from holdfast.fabric.topology import Lane, Topology

PIECE = 64 << 10
"""The most bytes of a stream that travel as one, as a network card's segmentation has it."""
PACKET = 1448
"""Bytes of a packet: what is lost, overtaken or changed is lost packet by packet."""


@dataclass(frozen=True, eq=False)
class Path:
    """The way from one host to another; without lanes where they are the same one."""

    pair: Pair
    lanes: tuple[Lane, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Return where conditions are met, in order."""
        return (self.pair, *self.lanes) if self.lanes else ()


@dataclass(eq=False, slots=True)
class Piece:
    """Some bytes of a stream, from `offset` on; `missing` of its packets have yet to get there."""

    offset: int
    data: bytes
    missing: int
    order: int = 0
    """Counts the stream's departures: of two pieces under way the one that left later has more."""
    under_way: bool = False
    """Whether it, or news of it, is on its way: if not, something was lost."""
    damage: dict[int, int] = field(default_factory=dict)
    """What is to be changed in the bytes that come through: positions, and bits to flip there."""

    @property
    def end(self) -> int:
        """Return the offset of what follows it."""
        return self.offset + len(self.data)


def packets_of(size: int) -> int:
    """Return in how many packets `size` bytes travel."""
    return -(-size // PACKET)


class Shipper(Protocol):
    """Whose pieces travel, and who is told how they fare."""

    def departed(self, when: float) -> None:
        """Take note that the sender's network card is free for another piece at `when`."""

    def arrived(self, piece: Piece, packets: int) -> None:
        """Take note that `packets` of a piece have come through, all that are left of it."""

    def dropped(self, piece: Piece) -> None:
        """Take note that nothing of a piece came through; its sender does not know."""


@dataclass(eq=False, slots=True)
class _Transit:
    """A piece on its way."""

    piece: Piece
    places: tuple[Place, ...]
    shipper: Shipper
    packets: int
    size: int
    hop: int = 0
    tail: float = 0.0
    """When its last byte is at the place that its first byte has come to."""
    departed: bool = False
    damage: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Lane:
    """A place that has a rate: one piece at a time, the others in a queue."""

    free_at: float = 0.0
    waiting: deque[_Transit] = field(default_factory=deque)


class Wires:
    """All lanes of a topology and what they do to what travels on them."""

    def __init__(self, topology: Topology, clock: Clock, rng: random.Random) -> None:
        self.topology = topology
        self.clock = clock
        self._rng = rng
        self._lanes: dict[Place, _Lane] = {}
        self._total: Mapping[Place, Condition] = baseline(topology)
        self._along: dict[Path, Condition] = {}

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on."""
        self._total = total
        self._along.clear()

    def path(self, source: str, target: str, connection: int) -> Path:
        """Return the way that a connection's bytes take from one host to another."""
        ends = self.topology.nic(source), self.topology.nic(target)
        return Path(Pair(source, target), self.topology.route(*ends, connection))

    def condition(self, path: Path) -> Condition:
        """Return what is met on a path, all in all."""
        if path not in self._along:
            met = along(self._total, path.lanes, path.pair) if path.lanes else CLEAR
            self._along[path] = met
        return self._along[path]

    def signal(self, path: Path) -> float | None:
        """Return how long a packet without content takes; None if it is lost. It weighs nothing."""
        met = self.condition(path)
        if met.blocked or (met.loss and self._rng.random() < met.loss):
            return None
        return met.latency + (met.jitter and met.jitter * self._rng.random())

    def send(self, piece: Piece, path: Path, shipper: Shipper) -> None:
        """Let the missing packets of a piece travel, or all if it is only the news that is lost."""
        packets = piece.missing or packets_of(len(piece.data))
        size = min(len(piece.data), packets * PACKET)
        transit = _Transit(piece, path.places, shipper, packets, size, tail=self.clock.now)
        self._advance(transit)

    def _advance(self, transit: _Transit) -> None:
        """Go on from where a piece's head is."""
        while transit.hop < len(transit.places):
            place = transit.places[transit.hop]
            lane = self._lanes.get(place)
            if lane is not None and (lane.waiting or self.clock.now < lane.free_at):
                lane.waiting.append(transit)
                if len(lane.waiting) == 1:
                    self._serve_later(place, lane)
                return
            delay = self._pass(transit, place)
            if delay is None:
                return
            if delay and transit.hop < len(transit.places):
                self._depart(transit, self.clock.now)
                self.clock.later(delay, lambda: self._advance(transit))
                return
        self._depart(transit, self.clock.now)
        self.clock.at(transit.tail, lambda: self._arrive(transit))

    def _arrive(self, transit: _Transit) -> None:
        transit.piece.damage.update(transit.damage)
        transit.shipper.arrived(transit.piece, transit.packets)

    def _serve_later(self, place: Place, lane: _Lane) -> None:
        def serve() -> None:
            transit = lane.waiting[0]  # still there, so that whoever comes meanwhile queues up
            delay = self._pass(transit, place)
            lane.waiting.popleft()
            if lane.waiting:
                self._serve_later(place, lane)
            if delay is not None:
                self.clock.later(delay, lambda: self._advance(transit))

        self.clock.at(lane.free_at, serve)

    def _pass(self, transit: _Transit, place: Place) -> float | None:
        """Let a piece onto a lane; return its head's delay to the next, None if it is lost."""
        condition, now = self._total.get(place, CLEAR), self.clock.now
        if condition is not CLEAR and not self._survives(transit, condition):
            self._depart(transit, now)
            transit.shipper.dropped(transit.piece)
            return None
        end = now
        if condition.rate < math.inf:
            end += transit.size * 8 / condition.rate
            self._lanes.setdefault(place, _Lane()).free_at = end
            self._depart(transit, end)
        delay = self._delay(transit, condition)
        transit.tail = max(end, transit.tail) + delay
        transit.hop += 1
        return delay

    def _survives(self, transit: _Transit, condition: Condition) -> bool:
        """Let a piece meet what loses and changes packets; return whether anything is left."""
        if condition.blocked:
            return False
        if condition.loss:
            transit.packets -= self._hits(transit.packets, condition.loss)
        if condition.corruption:
            for _ in range(self._hits(transit.packets, condition.corruption)):
                position = self._rng.randrange(len(transit.piece.data))
                transit.damage[position] = self._rng.randrange(1, 256)
        return transit.packets > 0

    def _delay(self, transit: _Transit, condition: Condition) -> float:
        delay = condition.latency
        if condition.jitter:
            delay += condition.jitter * self._rng.random()
        if condition.reordering and self._hits(transit.packets, condition.reordering):
            delay += condition.overtaken
        return delay

    def _hits(self, packets: int, probability: float) -> int:
        return sum(self._rng.random() < probability for _ in range(packets))

    def _depart(self, transit: _Transit, when: float) -> None:
        if not transit.departed:
            transit.departed = True
            transit.shipper.departed(when)
