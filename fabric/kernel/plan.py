"""A topology as the kernel will have it: namespaces, devices, addresses and routes. Pure.

Every node is a namespace, every cable a veth pair. A node's `n`-th cable is its device `eth{n}`.
Switches forward IP packets. Only hosts' devices have addresses, one each: cables need none, because
all devices have the same hardware address and take what is sent to it, without ARP.
"""

import re
import zlib
from collections import deque
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from holdfast.errors import UsageError
from holdfast.fabric.condition import Pair, Place
from holdfast.fabric.topology import Lane, NetworkName, Nic, Topology

MAC = bytes.fromhex("020000000001")
"""Every device's."""
MTU = 9000
"""As data centres have it: bytes of IP per packet on every cable."""

_MAX_RAILS = 100
_MAX_HOSTS = 250 * 250
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Port(NamedTuple):
    """One end of a cable: the node there, and which of its cables it is, from 0."""

    node: str
    number: int

    @property
    def device(self) -> str:
        """Return its device's name in the node's namespace."""
        return f"eth{self.number}"


class Plan:
    """Where everything of a topology is; `name` is the network's.

    Raises UsageError for what the kernel has no names or addresses for.
    """

    def __init__(self, topology: Topology, name: str) -> None:
        self.topology = topology
        self._name = name
        self._hosts = {host: number for number, host in enumerate(topology.hosts)}
        self.nodes = (*topology.hosts, *topology.switches)
        for node in self.nodes:
            if not _NODE.fullmatch(node):
                raise UsageError(
                    f"{topology.name}: a kernel network's nodes have up to 100 letters, digits, "
                    f"dots and dashes for names, found {node!r}"
                )
        rails = max(len(topology.nics(host)) for host in topology.hosts)
        if len(self._hosts) > _MAX_HOSTS or rails > _MAX_RAILS:
            raise UsageError(
                f"{topology.name}: a kernel network has addresses for {_MAX_HOSTS} hosts with "
                f"{_MAX_RAILS} NICs, found {len(self._hosts)} with up to {rails}"
            )

    def namespace(self, node: str) -> str:
        """Return the name of a node's namespace."""
        return f"hf-{self._name}-{node}"

    def sender(self, lane: Lane) -> Port:
        """Return the port at which a lane begins."""
        return self._port(self.topology.start_of(lane), lane.cable)

    def receiver(self, lane: Lane) -> Port:
        """Return the port at which a lane ends."""
        return self._port(self.topology.end_of(lane), lane.cable)

    def address(self, nic: Nic) -> str:
        """Return a NIC's address: 10.RAIL.X.Y, with 10.101.X.Y and up for the control network."""
        network = self.topology.cables[self.topology.cable_of(nic)].network
        rail = self.topology.nics(nic.host, network).index(nic)
        high, low = divmod(self._hosts[nic.host], 250)
        return f"10.{rail + (1 if network == 'data' else 101)}.{high}.{low + 1}"

    def addresses(self, host: str, network: NetworkName) -> list[str]:
        """Return a host's addresses on one network."""
        return [self.address(nic) for nic in self.topology.nics(host, network)]

    # What makes it, as ip's commands

    def namespaces(self) -> list[str]:
        """Return the commands that make the namespaces."""
        return [f"netns add {self.namespace(node)}" for node in self.nodes]

    def settings(self, node: str) -> dict[str, str]:
        """Return a namespace's settings for `apply`, which must be made before its cables are."""
        settings = {
            "ipv4/ip_forward": "0" if node in self._hosts else "1",
            # What comes by a tap comes by another device than answers go out of.
            "ipv4/conf/all/rp_filter": "0",
            "ipv4/conf/default/rp_filter": "0",
            "ipv6/conf/all/disable_ipv6?": "1",
            "ipv6/conf/default/disable_ipv6?": "1",
        }
        if node in self._hosts:
            return settings
        return settings | {
            # Both addresses, both ports and the protocol. Not policy 1: that one takes over the
            # sender's own hash, which changes when TCP sends again, and flows would leave a path
            # that is down.
            "ipv4/fib_multipath_hash_policy": "3",
            "ipv4/fib_multipath_hash_fields": "0x37",
            # A switch's own, or all of them would choose alike, and leave paths empty.
            "ipv4/fib_multipath_hash_seed?": str(zlib.crc32(node.encode()) | 1),
        }

    def cables(self) -> list[str]:
        """Return the commands that lay the cables."""
        each = f"address {MAC.hex(':')} mtu {MTU} arp off"
        lines = []
        for number in range(len(self.topology.cables)):
            a, b = self.sender(Lane(number, True)), self.receiver(Lane(number, True))
            lines.append(
                f"link add {a.device} netns {self.namespace(a.node)} {each} type veth "
                f"peer name {b.device} netns {self.namespace(b.node)} {each}"
            )
        return lines

    def configuration(self) -> dict[str, list[str]]:
        """Return the commands that take the devices up and lay routes, by namespace."""
        lines = {node: ["link set lo up"] for node in self.nodes}
        for node in self.nodes:
            count = len(self.topology.cables_of(node))
            lines[node] += [f"link set eth{number} up" for number in range(count)]
        for host in self._hosts:
            lines[host] += self._own(host)
        for target in self._hosts:
            for nic in self.topology.nics(target):
                self._lay_routes(nic, lines)
        return {self.namespace(node): each for node, each in lines.items()}

    def _own(self, host: str) -> list[str]:
        nics = self.topology.nics(host)
        lines = [f"addr add {self.address(nic)}/32 dev eth{nic.number}" for nic in nics]
        if len(nics) > 1:
            # What is sent from a NIC's address leaves by that NIC or not at all.
            for nic in nics:
                lines.append(f"rule add from {self.address(nic)} lookup {_table(nic)}")
                lines.append(f"route add unreachable default table {_table(nic)}")
        return lines

    def _lay_routes(self, target: Nic, lines: dict[str, list[str]]) -> None:
        """Add, everywhere, the routes to one NIC."""
        address = self.address(target)
        hops, distance = self._towards(target)
        for switch, cables in hops.items():
            over = [f"dev {self._port(switch, cable).device}" for cable in cables]
            way = over[0] if len(over) == 1 else " ".join(f"nexthop {each}" for each in over)
            lines[switch].append(f"route add {address}/32 {way}")
        for host in self._hosts:
            if host == target.host:
                continue
            nics = self.topology.nics(host)
            found = [
                (length, nic)
                for nic in nics
                if (length := self._length(nic, target, distance)) is not None
            ]
            if not found:
                continue
            nearest = min(found)[1]
            lines[host].append(
                f"route add {address}/32 dev eth{nearest.number} src {self.address(nearest)}"
            )
            if len(nics) > 1:
                lines[host] += [
                    f"route add {address}/32 dev eth{nic.number} table {_table(nic)}"
                    for _, nic in found
                ]

    def _towards(self, target: Nic) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Return over which cables each switch sends what is for a NIC, and how far it has to."""
        topology = self.topology
        last = topology.cable_of(target)
        gate = self._other_end(last, target.host)
        if gate in self._hosts:
            return {}, {}
        hops, distance = {gate: [last]}, {gate: 1}
        waiting = deque([gate])
        while waiting:
            node = waiting.popleft()
            for cable in topology.cables_of(node):
                beyond = self._other_end(cable, node)
                if beyond in self._hosts:
                    continue
                if beyond not in distance:
                    distance[beyond] = distance[node] + 1
                    hops[beyond] = []
                    waiting.append(beyond)
                if distance[beyond] == distance[node] + 1:
                    hops[beyond].append(cable)
        return hops, distance

    def _length(self, source: Nic, target: Nic, distance: dict[str, int]) -> int | None:
        """Return how many cables lie between two NICs; None if nothing connects them."""
        cables = self.topology.cables
        first, last = self.topology.cable_of(source), self.topology.cable_of(target)
        if first == last:
            return 1
        beyond = self._other_end(first, source.host)
        if cables[first].network != cables[last].network or beyond not in distance:
            return None
        return distance[beyond] + 1

    def _port(self, node: str, cable: int) -> Port:
        return Port(node, self.topology.cables_of(node).index(cable))

    def _other_end(self, cable: int, node: str) -> str:
        ends = self.topology.cables[cable]
        return ends.b if ends.a == node else ends.a

    # Who is concerned

    def connected_over(self, where: Iterable[Place]) -> list[tuple[Nic, Nic]]:
        """Return the pairs of NICs whose connections may pass one of these places, each way."""
        wanted = set(where)
        found = []
        for a, b in combinations(self.topology.hosts, 2):
            for near in self.topology.nics(a):
                for far in self.topology.nics(b):
                    if wanted & self._places_between(near, far):
                        found += [(near, far), (far, near)]
        return found

    def _places_between(self, near: Nic, far: Nic) -> set[Place]:
        there, back = self.topology.paths(near, far), self.topology.paths(far, near)
        if not there:
            return set()
        network = self.topology.cables[self.topology.cable_of(near)].network
        places: set[Place] = {lane for path in (*there, *back) for lane in path}
        places |= {Pair(near.host, far.host, network), Pair(far.host, near.host, network)}
        return places


def _table(nic: Nic) -> int:
    """Return the number of the routing table for what a NIC sends."""
    return 100 + nic.number
