"""What is connected to what: hosts, switches and the cables between them, as data. Pure.

A host has one NIC per cable, numbered in the cables' order. A cable carries traffic both ways; a
`Lane` is one of its two directions. A switch forwards along shortest paths, and where there are
several, each connection takes one of them by a hash of its ends (ECMP).

Sources: leaf and spine after Clos (1953); fat tree after Al-Fares, Loukissas and Vahdat, "A
scalable, commodity data center network architecture" (2008).
"""

import tomllib
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from holdfast.errors import UsageError
from holdfast.fabric.units import bits_per_second, seconds

NetworkName = Literal["data", "control"]


class Lane(NamedTuple):
    """One direction of a cable: from its `a` to its `b` if `forward`."""

    cable: int
    forward: bool


class Nic(NamedTuple):
    """A host's network card: the one of its `number`-th cable, from 0."""

    host: str
    number: int


@dataclass(frozen=True)
class Cable:
    """Connects `a` and `b`; `rate` in bit/s each way (None: no limit), `latency` in seconds."""

    a: str
    b: str
    rate: float | None = None
    latency: float = 0.0
    network: NetworkName = "data"


@dataclass(frozen=True)
class Topology:
    """Hosts, switches and cables. Raises UsageError for what cannot be wired up so."""

    name: str
    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    cables: tuple[Cable, ...]

    def __post_init__(self) -> None:
        if not self.hosts:
            raise UsageError(f"{self.name}: a network without hosts")
        if any(cable.rate is not None and cable.rate <= 0 for cable in self.cables):
            raise UsageError(f"{self.name}: a cable's rate must be above 0")
        nodes = [*self.hosts, *self.switches]
        twice = sorted({node for node in nodes if nodes.count(node) > 1})
        if twice:
            raise UsageError(f"{self.name}: the name(s) {', '.join(twice)} stand twice")
        ends = [frozenset((cable.a, cable.b)) for cable in self.cables]
        for cable, pair in zip(self.cables, ends, strict=True):
            for end in pair - set(nodes):
                raise UsageError(
                    f"{self.name}: a cable ends at {end!r}, which is no host or switch"
                )
            if len(pair) == 1 or ends.count(pair) > 1:
                raise UsageError(
                    f"{self.name}: one cable between two different nodes was expected, found "
                    f"{ends.count(pair)} between {cable.a} and {cable.b}"
                )
        for host in self.hosts:
            if not any(self.cables[number].network == "data" for number in self.cables_of(host)):
                raise UsageError(f"{self.name}: host {host} has no cable for data")
        first = self.nic(self.hosts[0])
        for host in self.hosts[1:]:
            if not self.paths(first, self.nic(host)):
                raise UsageError(f"{self.name}: no path from {self.hosts[0]} to {host}")

    @cached_property
    def _cables_of(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {node: [] for node in (*self.hosts, *self.switches)}
        for number, cable in enumerate(self.cables):
            found[cable.a].append(number)
            found[cable.b].append(number)
        return {node: tuple(numbers) for node, numbers in found.items()}

    def cables_of(self, node: str) -> tuple[int, ...]:
        """Return the numbers of the cables that end at `node`."""
        return self._cables_of[node]

    def nics(self, host: str, network: NetworkName | None = None) -> tuple[Nic, ...]:
        """Return the NICs of `host`, or those on one network."""
        return tuple(
            Nic(host, number)
            for number, cable in enumerate(self.cables_of(host))
            if network in (None, self.cables[cable].network)
        )

    def nic(self, host: str, network: NetworkName = "data") -> Nic:
        """Return the first NIC of `host` on `network`; on the data network if there is no other."""
        return (self.nics(host, network) or self.nics(host, "data"))[0]

    def cable_of(self, nic: Nic) -> int:
        """Return the number of the cable in `nic`."""
        return self.cables_of(nic.host)[nic.number]

    def between(self, a: str, b: str) -> int | None:
        """Return the number of the cable that connects `a` and `b` directly, if one does."""
        for number in self.cables_of(a):
            if {self.cables[number].a, self.cables[number].b} == {a, b}:
                return number
        return None

    def lanes(self, node: str, direction: str = "both") -> tuple[Lane, ...]:
        """Return the lanes at `node`: those that leave it (`to`), that come to it, or both."""
        found = []
        for number in self.cables_of(node):
            leaving = Lane(number, self.cables[number].a == node)
            if direction in ("to", "both"):
                found.append(leaving)
            if direction in ("from", "both"):
                found.append(Lane(number, not leaving.forward))
        return tuple(found)

    def paths(self, source: Nic, target: Nic) -> tuple[tuple[Lane, ...], ...]:
        """Return all shortest paths from one NIC to another; none where nothing connects them."""
        return self._paths(source, target)

    @cached_property
    def _known(self) -> dict[tuple[Nic, Nic], tuple[tuple[Lane, ...], ...]]:
        return {}

    def _paths(self, source: Nic, target: Nic) -> tuple[tuple[Lane, ...], ...]:
        key = (source, target)
        if key not in self._known:
            self._known[key] = tuple(self._search(source, target))
        return self._known[key]

    def _search(self, source: Nic, target: Nic) -> list[tuple[Lane, ...]]:
        """Walk through the switches, nearest first; hosts forward nothing."""
        if source.host == target.host:
            return [()] if source == target else []
        first, last = self.cable_of(source), self.cable_of(target)
        start = Lane(first, self.cables[first].a == source.host)
        if self.cables[first].network != self.cables[last].network:
            return []
        found: list[tuple[Lane, ...]] = []
        waiting: deque[tuple[Lane, ...]] = deque([(start,)])
        reached: dict[str, int] = {}
        while waiting:
            path = waiting.popleft()
            if found and len(path) > len(found[0]):
                break
            node = self.end_of(path[-1])
            if node == target.host:
                if path[-1].cable == last:
                    found.append(path)
                continue
            if node in self.hosts or reached.setdefault(node, len(path)) < len(path):
                continue
            waiting.extend(
                (*path, Lane(number, self.cables[number].a == node))
                for number in self.cables_of(node)
                if number != path[-1].cable
            )
        return found

    def end_of(self, lane: Lane) -> str:
        """Return the node that a lane leads to."""
        cable = self.cables[lane.cable]
        return cable.b if lane.forward else cable.a

    def start_of(self, lane: Lane) -> str:
        """Return the node that a lane comes from."""
        return self.end_of(Lane(lane.cable, not lane.forward))

    def route(self, source: Nic, target: Nic, connection: int = 0) -> tuple[Lane, ...]:
        """Return the path that a connection takes, chosen among the shortest by a hash.

        `connection` tells the connections between two NICs apart (a port, say). Raises UsageError
        where there is no path.
        """
        paths = self.paths(source, target)
        if not paths:
            raise UsageError(
                f"{self.name}: nothing connects NIC {source.number} of {source.host} with NIC "
                f"{target.number} of {target.host}"
            )
        return paths[zlib.crc32(f"{source} {target} {connection}".encode()) % len(paths)]


def star(
    n: int, *, rate: str | float | None = None, latency: str | float = 0.0, control: bool = False
) -> Topology:
    """Return `n` hosts, `h0` to `h{n-1}`, on one switch `s0`.

    `rate` is each cable's, as is `latency`, one way. With `control`, every host has a second NIC on
    a network of its own for everything but data (so have all topologies here).
    """
    _at_least(n, 1, "hosts")
    hosts = _names("h", n)
    cables = [_cable(host, "s0", rate, latency) for host in hosts]
    return _finish("star", hosts, ["s0"], cables, control)


def two_rails(
    n: int, *, rate: str | float | None = None, latency: str | float = 0.0, control: bool = False
) -> Topology:
    """Return `n` hosts with two NICs each, the first on switch `s0`, the second on `s1`."""
    _at_least(n, 1, "hosts")
    hosts = _names("h", n)
    cables = [_cable(host, rail, rate, latency) for host in hosts for rail in ("s0", "s1")]
    return _finish("two-rails", hosts, ["s0", "s1"], cables, control)


def leaf_spine(
    leaves: int,
    spines: int,
    hosts_per_leaf: int,
    *,
    rate: str | float | None = None,
    oversubscription: float = 1.0,
    latency: str | float = 0.0,
    control: bool = False,
) -> Topology:
    """Return hosts below `leaf0`…, each leaf connected to every one of `spine0`….

    `rate` is that of a host's cable. A leaf's hosts together can send `oversubscription` times what
    its cables to the spines carry.
    """
    for count, what in ((leaves, "leaves"), (spines, "spines"), (hosts_per_leaf, "hosts a leaf")):
        _at_least(count, 1, what)
    if oversubscription <= 0:
        raise UsageError(f"an oversubscription above 0 was expected, found {oversubscription}")
    hosts = _names("h", leaves * hosts_per_leaf)
    up = (
        None if rate is None else bits_per_second(rate) * hosts_per_leaf / spines / oversubscription
    )
    cables = [
        _cable(host, f"leaf{number // hosts_per_leaf}", rate, latency)
        for number, host in enumerate(hosts)
    ]
    cables += [
        _cable(leaf, spine, up, latency)
        for leaf in _names("leaf", leaves)
        for spine in _names("spine", spines)
    ]
    switches = [*_names("leaf", leaves), *_names("spine", spines)]
    return _finish("leaf-spine", hosts, switches, cables, control)


def fat_tree(
    k: int, *, rate: str | float | None = None, latency: str | float = 0.0, control: bool = False
) -> Topology:
    """Return a fat tree of switches with `k` ports: `k` pods and k**3 / 4 hosts, nothing oversold.

    Pod p has the switches `edge{p}-{i}` and `agg{p}-{i}`; above them stand `core0`….
    """
    if k < 2 or k % 2:
        raise UsageError(f"an even number of ports from 2 was expected, found {k}")
    half = k // 2
    hosts, cables = _names("h", k * half * half), []
    edges = [f"edge{pod}-{place}" for pod in range(k) for place in range(half)]
    aggregations = [f"agg{pod}-{place}" for pod in range(k) for place in range(half)]
    cores = _names("core", half * half)
    cables += [
        _cable(host, edges[number // half], rate, latency) for number, host in enumerate(hosts)
    ]
    cables += [
        _cable(edges[pod * half + low], aggregations[pod * half + high], rate, latency)
        for pod in range(k)
        for low in range(half)
        for high in range(half)
    ]
    cables += [
        _cable(aggregations[pod * half + high], cores[high * half + place], rate, latency)
        for pod in range(k)
        for high in range(half)
        for place in range(half)
    ]
    return _finish("fat-tree", hosts, [*edges, *aggregations, *cores], cables, control)


def parse_topology(text: str) -> Topology:
    """Return the topology of `star:3`, `two-rails:3`, `leaf-spine:2,2,2`, `fat-tree:4`, or a file.

    With `+control` behind it, a control network is added to a named one.
    """
    name, _, numbers = text.removesuffix("+control").partition(":")
    control = text.endswith("+control")
    if name not in _NAMED:
        if Path(text).suffix == ".toml":
            return load_topology(Path(text))
        raise UsageError(
            f"a topology of {', '.join(_NAMED)} or a .toml file was expected, found {text!r}"
        )
    make, count = _NAMED[name]
    parts = numbers.split(",")
    if len(parts) != count or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name} takes {count} whole number(s), as {name}:{','.join('2' * count)}")
    return make(*map(int, parts), control=control)


_NAMED: Mapping[str, tuple[Callable[..., Topology], int]] = {
    "star": (star, 1),
    "two-rails": (two_rails, 1),
    "leaf-spine": (leaf_spine, 3),
    "fat-tree": (fat_tree, 1),
}


def load_topology(path: Path) -> Topology:
    """Read a topology from a TOML file; raise UsageError saying what is wrong with it.

    ```toml
    hosts = ["h0", "h1"]
    switches = ["s0"]
    [[cable]]
    between = ["h0", "s0"]
    rate = "1gbit"          # optional, as are latency = "50us" and network = "control"
    [[cable]]
    between = ["h1", "s0"]
    ```
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the topology {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the topology {path} is not UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    return _from_table(table, path)


def _from_table(table: dict[str, Any], path: Path) -> Topology:
    unknown = sorted(table.keys() - {"name", "hosts", "switches", "cable"})
    if unknown:
        raise UsageError(f"{path}: hosts, switches and [[cable]] were expected, found {unknown}")
    cables, entries = [], table.get("cable", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: cables are [[cable]] tables, found {entries}")
    for entry in entries:
        ends, network = entry.get("between"), entry.get("network", "data")
        if (
            not _strings(ends)
            or len(ends) != 2
            or entry.keys()
            - {
                "between",
                "rate",
                "latency",
                "network",
            }
        ):
            raise UsageError(
                f"{path}: a cable has between = [a, b] and may have rate, latency and network; "
                f"found {entry}"
            )
        if network not in ("data", "control"):
            raise UsageError(f"{path}: a network is data or control, found {network!r}")
        cable = _cable(ends[0], ends[1], entry.get("rate"), entry.get("latency", 0.0))
        cables.append(replace(cable, network=network))
    hosts, switches = table.get("hosts", []), table.get("switches", [])
    if not _strings(hosts) or not _strings(switches):
        raise UsageError(f"{path}: hosts and switches are lists of names")
    name = str(table.get("name", path.stem))
    return Topology(name, tuple(hosts), tuple(switches), tuple(cables))


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


def _finish(
    name: str, hosts: Sequence[str], switches: Sequence[str], cables: list[Cable], control: bool
) -> Topology:
    if control:
        cables = cables + [Cable(host, "control", network="control") for host in hosts]
        switches = [*switches, "control"]
    return Topology(name, tuple(hosts), tuple(switches), tuple(cables))


def _cable(a: str, b: str, rate: str | float | None, latency: str | float) -> Cable:
    return Cable(a, b, None if rate is None else bits_per_second(rate), seconds(latency))


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def _at_least(value: int, least: int, what: str) -> None:
    if value < least:
        raise UsageError(f"at least {least} {what} were expected, found {value}")
