"""What a fault makes of the network: conditions on lanes and on the traffic between hosts. Pure.

All faults that are in force together give one condition per place; healing one is leaving it out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from holdfast.errors import UsageError
from holdfast.fabric.faults import Fault
from holdfast.fabric.topology import Lane, NetworkName, Nic, Topology


class Pair(NamedTuple):
    """All that host `source` sends to host `target` over one of the networks."""

    source: str
    target: str
    network: NetworkName = "data"


Place = Lane | Pair


@dataclass(frozen=True)
class Condition:
    """What happens to packets at one place.

    `blocked`: nobody gets through and nobody is told. `loss`, `reordering` and `corruption` are
    probabilities per packet; `latency` is added to each in seconds, with up to `jitter` more, and
    `overtaken` to those that reordering hits; `rate` is in bit/s.
    """

    blocked: bool = False
    loss: float = 0.0
    latency: float = 0.0
    jitter: float = 0.0
    reordering: float = 0.0
    overtaken: float = 0.0
    corruption: float = 0.0
    rate: float = math.inf

    def __or__(self, other: "Condition") -> "Condition":
        """Return what two conditions make together, at one place or one behind the other."""
        return Condition(
            blocked=self.blocked or other.blocked,
            loss=1 - (1 - self.loss) * (1 - other.loss),
            latency=self.latency + other.latency,
            jitter=self.jitter + other.jitter,
            reordering=1 - (1 - self.reordering) * (1 - other.reordering),
            overtaken=max(self.overtaken, other.overtaken),
            corruption=1 - (1 - self.corruption) * (1 - other.corruption),
            rate=min(self.rate, other.rate),
        )


CLEAR = Condition()


def baseline(topology: Topology) -> dict[Place, Condition]:
    """Return the conditions of a network without faults: its cables' own rates and latencies."""
    return {
        Lane(number, forward): Condition(
            rate=math.inf if cable.rate is None else cable.rate, latency=cable.latency
        )
        for number, cable in enumerate(topology.cables)
        for forward in (True, False)
    }


def conditions(topology: Topology, faults: Iterable[Fault]) -> dict[Place, Condition]:
    """Return the condition of every lane, and of each pair of hosts that a fault singles out."""
    total = baseline(topology)
    for fault in faults:
        for place, condition in impose(topology, fault).items():
            total[place] = total.get(place, CLEAR) | condition
    return total


def impose(topology: Topology, fault: Fault) -> dict[Place, Condition]:
    """Return what one fault does where; nothing for a fault that is no lasting condition."""
    condition = _CONDITIONS.get(fault.kind)
    if condition is None:
        return {}
    made = condition(fault)
    return dict.fromkeys(places(topology, fault), made)


def along(total: Mapping[Place, Condition], path: Iterable[Lane], pair: Pair) -> Condition:
    """Return what the traffic of `pair` meets on its way over `path`, all in all."""
    met = total.get(pair, CLEAR)
    for lane in path:
        met |= total.get(lane, CLEAR)
    return met


def places(topology: Topology, fault: Fault) -> tuple[Place, ...]:
    """Return where a fault applies; raise UsageError for a name that the topology has not."""
    if fault.groups:
        return _across(topology, fault)
    if fault.nic is not None:
        nic = Nic(*fault.nic)
        _known(topology, nic.host, topology.hosts)
        if nic.number >= len(topology.nics(nic.host)):
            raise UsageError(
                f"{nic.host} has {len(topology.nics(nic.host))} NIC(s), numbered from 0; "
                f"found {nic.number}"
            )
        cable = topology.cable_of(nic)
        leaving = Lane(cable, topology.cables[cable].a == nic.host)
        return _directed(leaving, Lane(cable, not leaving.forward), fault.direction)
    if fault.switch is not None:
        _known(topology, fault.switch, topology.switches)
        return topology.lanes(fault.switch, fault.direction)
    if len(fault.link) == 1:
        (node,) = fault.link
        _known(topology, node, (*topology.hosts, *topology.switches))
        return topology.lanes(node, fault.direction)
    if len(fault.link) == 2:
        return _between(topology, *fault.link, fault.direction)
    return ()


def told(topology: Topology, fault: Fault) -> str | None:
    """Return the host that is told of a reset of which only one end is; None: both are."""
    if fault.ends != "one":
        return None
    named = (*fault.link, *(fault.nic or ())[:1])
    host = next((str(name) for name in named if name in topology.hosts), None)
    if host is None:
        raise UsageError(f"{fault}: its first name must be a host, which is told; found no host")
    return host


def check_places(topology: Topology, fault: Fault) -> None:
    """Raise UsageError for a fault that this topology has no place for."""
    places(topology, fault)
    told(topology, fault)
    if fault.host is not None:
        _known(topology, fault.host, topology.hosts)


def _between(topology: Topology, a: str, b: str, direction: str) -> tuple[Place, ...]:
    """Return the cable between two nodes or, for two hosts, their traffic on the data network."""
    for node in (a, b):
        _known(topology, node, (*topology.hosts, *topology.switches))
    number = topology.between(a, b)
    if number is not None:
        there = Lane(number, topology.cables[number].a == a)
        return _directed(there, Lane(number, not there.forward), direction)
    if a in topology.hosts and b in topology.hosts and a != b:
        return _directed(Pair(a, b), Pair(b, a), direction)
    raise UsageError(f"{topology.name}: no cable connects {a} and {b}, and they are not two hosts")


def _across(topology: Topology, fault: Fault) -> tuple[Place, ...]:
    """Return the pairs of hosts that no group holds together; a host in two groups sees both."""
    for host in {host for group in fault.groups for host in group}:
        _known(topology, host, topology.hosts)
    there = {cable.network for cable in topology.cables}
    if fault.network != "all" and fault.network not in there:
        raise UsageError(f"{topology.name} has no {fault.network} network that could be cut")
    networks: tuple[NetworkName, ...] = (
        ("data", "control") if fault.network == "all" else (fault.network,)
    )
    named = [host for host in topology.hosts if any(host in group for group in fault.groups)]
    return tuple(
        Pair(a, b, network)
        for a, b in permutations(named, 2)
        if not any(a in group and b in group for group in fault.groups)
        for network in networks
    )


def _directed(there: Place, back: Place, direction: str) -> tuple[Place, ...]:
    return {"to": (there,), "from": (back,), "both": (there, back)}[direction]


def _known(topology: Topology, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise UsageError(
            f"{topology.name} has no {name!r}; known are {', '.join(names[:12])}"
            f"{' and so on' if len(names) > 12 else ''}"
        )


_BLOCKED = Condition(blocked=True)

_CONDITIONS: dict[str, Callable[[Fault], Condition]] = {
    "down": lambda fault: _BLOCKED,
    "drop": lambda fault: _BLOCKED,
    "partition": lambda fault: _BLOCKED,
    "loss": lambda fault: Condition(loss=fault.p),
    "latency": lambda fault: Condition(latency=fault.latency, jitter=fault.jitter),
    "reorder": lambda fault: Condition(reordering=fault.p, overtaken=fault.latency),
    "corrupt": lambda fault: Condition(corruption=fault.p),
    "rate": lambda fault: Condition(rate=fault.rate),
}
