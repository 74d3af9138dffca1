"""Puts conditions in force between namespaces, by tc: rates where packets leave, the rest at taps.

A lane's rate is a token bucket (tbf) at its beginning, as a slow card is. All else that happens to
packets does so in a tap where they arrive, so that whoever sent them learns nothing of it. A tap
itself holds a packet up by some 0.1 ms, and all taps of a network share one thread.

What is in force is compared with what is wanted, and only the difference is carried out.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from holdfast.fabric.condition import CLEAR, Condition, Pair, Place
from holdfast.fabric.kernel.commands import tc_in
from holdfast.fabric.kernel.pipe import Pipe, queue_bytes
from holdfast.fabric.kernel.plan import MAC, MTU, Plan, Port
from holdfast.fabric.kernel.resets import Connection
from holdfast.fabric.kernel.tap import Tap, Taps, Way, way
from holdfast.fabric.topology import Lane

BURST_SECONDS = 0.00055
BURST_BYTES = 16 << 10
"""What may leave at once where a rate is kept: that much time's worth, at least that many bytes.

So a packet of 64 KiB, as TCP hands it to its card, passes whole from 1 Gbit/s up: cutting it into
those of the wire costs the kernel, and taps behind it much more. Below, exactness counts more.
"""

_DEAD, _ALL = 1, 2  # filters' priorities: those for dead connections come first


@dataclass
class _Arrival:
    """What packets that arrive at a port pass."""

    lane: Pipe | None = None
    pairs: dict[Way, Pipe] = field(default_factory=dict)


class Conditions:
    """The conditions in force in one network. Not thread-safe; close it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._taps = Taps()
        self._pipes: dict[Place, Pipe] = {}
        self._rates: dict[Port, float] = {}
        # Taps stay for the next fault once they are made: removing a device takes the kernel longer
        # than everything else here.
        self._open: dict[Port, Tap] = {}
        self._redirected: set[Port] = set()
        self._sinks: dict[Port, Tap] = {}

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others; FabricError if tc fails."""
        rates = {
            self._plan.sender(place): condition.rate
            for place, condition in total.items()
            if isinstance(place, Lane) and condition.rate < math.inf
        }
        arrivals = self._arrivals(total)
        lines: dict[str, list[str]] = defaultdict(list)
        for port in rates.keys() | self._rates.keys():
            if rates.get(port) != self._rates.get(port):
                lines[self._plan.namespace(port.node)].append(_rate(port, rates.get(port)))
        for port, arrival in arrivals.items():
            if port not in self._open:
                self._open[port] = self._tap(port, "tap")
            self._taps.set(self._open[port], arrival.lane, arrival.pairs)
            if port not in self._redirected:
                lines[self._plan.namespace(port.node)] += self._redirect(port)
        over = self._redirected - arrivals.keys()
        for port in over:
            lines[self._plan.namespace(port.node)].append(self._let_pass(port))
        tc_in(lines)
        self._rates, self._redirected = rates, set(arrivals)
        for port in over:
            self._taps.relieve(self._open[port])

    def silence(self, connections: Iterable[Connection]) -> None:
        """Let no word of these connections' end come to their peers, from now on.

        A host answers what it gets for a connection that it no longer has by a reset. Those are
        what is dropped; a new connection's other packets pass.
        """
        owners = {
            self._plan.address(nic): Port(host, nic.number)
            for host in self._plan.topology.hosts
            for nic in self._plan.topology.nics(host)
        }
        lines: dict[str, list[str]] = defaultdict(list)
        for each in connections:
            port = owners[each.peer]
            here = lines[self._plan.namespace(port.node)]
            if port not in self._sinks:
                if port not in self._redirected:
                    here.append(f"qdisc add dev {port.device} ingress")
                self._sinks[port] = self._tap(port, "sink")
                blocked = self._taps.pipe(Condition(blocked=True))
                self._taps.set(self._sinks[port], blocked, {})
            here.append(
                f"filter add dev {port.device} parent ffff: prio {_DEAD} protocol ip u32 "
                f"match ip src {each.local}/32 match ip dst {each.peer}/32 "
                f"match ip protocol 6 0xff match ip sport {each.local_port} 0xffff "
                f"match ip dport {each.peer_port} 0xffff match u8 0x04 0x04 at 33 "
                f"action mirred egress redirect dev sink{port.number}"
            )
        tc_in(lines)

    def close(self) -> None:
        """Close the taps; the rest goes with the namespaces. May be called again."""
        self._taps.close()

    def _arrivals(self, total: Mapping[Place, Condition]) -> dict[Port, _Arrival]:
        """Return what is to be in force where; a place whose condition is the same keeps its pipe.

        A pair's pipe is one also where its packets arrive by several NICs: they share its rate.
        """
        pipes: dict[Place, Pipe] = {}
        found: dict[Port, _Arrival] = defaultdict(_Arrival)
        for place, condition in total.items():
            if isinstance(place, Lane):
                condition = replace(condition, rate=math.inf)
            if condition == CLEAR:
                continue
            pipe = self._pipes.get(place)
            if pipe is None or pipe.condition != condition:
                pipe = self._taps.pipe(condition)
            pipes[place] = pipe
            if isinstance(place, Lane):
                found[self._plan.receiver(place)].lane = pipe
            else:
                for port, which in self._ways(place):
                    found[port].pairs[which] = pipe
        self._pipes = pipes
        return found

    def _ways(self, pair: Pair) -> list[tuple[Port, Way]]:
        sources = self._plan.addresses(pair.source, pair.network)
        return [
            (Port(pair.target, nic.number), way(source, self._plan.address(nic)))
            for nic in self._plan.topology.nics(pair.target, pair.network)
            for source in sources
        ]

    def _tap(self, port: Port, kind: str) -> Tap:
        name = f"{kind}{port.number}"
        return self._taps.open(self._plan.namespace(port.node), name, MAC, MTU)

    def _redirect(self, port: Port) -> list[str]:
        """Return the commands that have everything that comes to a port go through its tap."""
        first = [] if port in self._sinks else [f"qdisc add dev {port.device} ingress"]
        return [
            *first,
            f"filter add dev {port.device} parent ffff: prio {_ALL} protocol all u32 "
            f"match u32 0 0 action mirred egress redirect dev tap{port.number}",
        ]

    def _let_pass(self, port: Port) -> str:
        if port in self._sinks:
            return f"filter del dev {port.device} parent ffff: prio {_ALL} protocol all"
        return f"qdisc del dev {port.device} ingress"


def _rate(port: Port, rate: float | None) -> str:
    """Return the command that lets packets leave at `rate` bit/s; freely with None."""
    if rate is None:
        return f"qdisc del dev {port.device} root"
    burst = max(BURST_BYTES, int(rate / 8 * BURST_SECONDS))
    return (
        f"qdisc replace dev {port.device} root tbf rate {max(8, int(rate))}bit burst {burst} "
        f"limit {burst + queue_bytes(rate)}"
    )
