"""What each lost link and each worker's end is put down to: one of the faults. Pure.

The rule: an event has at most one cause. It is a fault that can touch the link or the worker, and
that is in force or ended less than `AFTERMATH` seconds ago. Of several, one that cuts comes before
one that only slows, and then the one that began last.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from holdfast.fabric.condition import Pair, Place, places
from holdfast.fabric.faults import Fault
from holdfast.fabric.topology import Lane, Topology
from holdfast.launch.drill.record import Ended, FaultSpan, LinkEvent, RunRecord

AFTERMATH = 3.0
"""Seconds after a fault's end within which it is still noticed: a link takes two seconds of silence
for a broken connection, and TCP goes on later than its cable does."""

BEAT = 0.7
"""Seconds by which a link's silence may be longer than the fault that made it: a heartbeat's pause,
and a little."""
_SILENT = re.compile(r"nothing moved for ([\d.]+) s")

SLOWING = frozenset({"loss", "latency", "reorder", "rate", "disk-full", "disk-slow"})
"""The kinds that by themselves break no connection and end no worker."""

Event = LinkEvent | Ended


@dataclass(frozen=True)
class Layout:
    """Where the ranks are: rank r runs on `hosts[r]`, a host of `topology`."""

    topology: Topology
    hosts: Sequence[str]

    def touches(self, fault: Fault, event: Event) -> bool:
        """Return whether the event can be the fault's doing, wherever else it may come from."""
        peer = event.peer if isinstance(event, LinkEvent) else event.rank
        if fault.worker is not None:
            return fault.worker in (event.rank, peer)
        here, there = self.hosts[event.rank], self.hosts[peer]
        if fault.host is not None:
            return fault.host in (here, there)
        # A worker may end because of any link, as those of its peers do that wait for it.
        return isinstance(event, Ended) or self._on_the_way(here, there, fault)

    def touches_any(self, fault: Fault) -> bool:
        """Return whether a fault of the network can touch any two ranks' data."""
        return any(self._on_the_way(*two, fault) for two in combinations(set(self.hosts), 2))

    def _on_the_way(self, here: str, there: str, fault: Fault) -> bool:
        meant = frozenset(places(self.topology, fault))
        return not meant.isdisjoint(self._between(here, there))

    def _between(self, here: str, there: str) -> frozenset[Place]:
        """Return all that the data between two hosts may pass."""
        pair = (min(here, there), max(here, there))
        if pair not in self._known:
            lanes: set[Place] = {Pair(here, there), Pair(there, here)}
            # Links go from first NIC to first NIC.
            one, other = self.topology.nic(here), self.topology.nic(there)
            for lane in (lane for path in self.topology.paths(one, other) for lane in path):
                lanes |= {lane, Lane(lane.cable, not lane.forward)}
            self._known[pair] = frozenset(lanes)
        return self._known[pair]

    @cached_property
    def _known(self) -> dict[tuple[str, str], frozenset[Place]]:
        return {}


@dataclass(frozen=True)
class Outage:
    """A lost link or a worker that ended badly, until `mended`: carried, or started, again.

    `mended` is None where that never happened.
    """

    event: Event
    mended: float | None


def outages(record: RunRecord) -> list[Outage]:
    """Return all of them in order of time. A restart of the job mends what it finds."""
    restored: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for each in record.links:
        if not each.lost:
            restored[each.rank, each.peer].append(each.time)
    for times in restored.values():
        times.sort()
    starts = sorted(record.starts)
    events: list[Event] = [each for each in record.links if each.lost]
    events += [each for each in record.ends if each.returncode != 0 and not each.stopped]
    found = []
    for event in sorted(events, key=lambda each: each.time):
        times = starts[bisect_right(starts, event.time) :][:1]
        if isinstance(event, LinkEvent):
            back = restored[event.rank, event.peer]
            times += back[bisect_left(back, event.time) :][:1]
        found.append(Outage(event, min(times, default=None)))
    return found


def causes(record: RunRecord, layout: Layout | None = None) -> dict[int, list[Outage]]:
    """Return the outages of each fault, by its number, in order of time; none for most faults.

    Without a layout every fault may touch everything.
    """
    found: dict[int, list[Outage]] = {span.number: [] for span in record.faults}
    for outage in outages(record):
        cause = _cause(outage.event, record.faults, layout)
        if cause is not None:
            found[cause.number].append(outage)
    return found


def _silence(event: Event) -> float:
    """Return how long before an event its cause must have begun: silence has to last to be one."""
    if not isinstance(event, LinkEvent) or (match := _SILENT.search(event.why)) is None:
        return 0.0
    return max(0.0, float(match[1]) - BEAT)


def _cause(event: Event, spans: Iterable[FaultSpan], layout: Layout | None) -> FaultSpan | None:
    possible = [
        span
        for span in spans
        if span.began <= event.time - _silence(event)
        and (span.ended is None or event.time <= span.ended + AFTERMATH)
        and (layout is None or layout.touches(span.fault, event))
    ]
    return max(
        possible,
        key=lambda span: (span.fault.kind not in SLOWING, span.began, span.number),
        default=None,
    )
