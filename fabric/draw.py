"""A network as a picture: hosts below, switches above, and the ring of ranks laid over its cables.

The picture is one SVG without outside resources, scripts or ids, light or dark as its viewer asks.
A cable is a curve between two nodes; a hop of the ring, from rank r to rank r + 1, is a coloured
arrow beside the cables of its path, on the right as one travels. Pure: the same topology and ring
give the same text.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from holdfast.errors import UsageError
from holdfast.fabric.curves import Curve, Point, arrow_head, between, short, svg_path
from holdfast.fabric.topology import Cable, Lane, Topology
from holdfast.fabric.units import format_seconds

_HOST_HEIGHT = 44.0
_SWITCH_HEIGHT = 28.0
_MARGIN = 26.0
_TURN = 44.0
"""How far from a switch's centre an arrow leaves one cable for the next."""

_COLOURS = ("#2f7de1", "#df5a2b", "#159a72", "#a45bd0", "#c98a00", "#d8437d", "#16a0bd", "#7b8b2a")
"""Of the hops, as long as there are no more; middle tones, which show on white and on black."""

_STYLE = """
.hf-net { --ground: #fbfaf7; --ink: #1f2d33; --faint: #6d7b80; --cable: #aab6ba; --box: #ffffff;
  --edge: #2b5d6b; --switch: #e4eef0;
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
@media (prefers-color-scheme: dark) { .hf-net { --ground: #11191c; --ink: #e4ecee;
  --faint: #93a3a9; --cable: #4d5d63; --box: #1b272b; --edge: #6fb0c0; --switch: #20363d; } }
.hf-net .ground { fill: var(--ground); }
.hf-net .cable { fill: none; stroke: var(--cable); stroke-width: 2.5; }
.hf-net .control { stroke-width: 1.5; stroke-dasharray: 5 4; }
.hf-net .hop { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.hf-net .host { fill: var(--box); stroke: var(--edge); stroke-width: 1.5; }
.hf-net .switch { fill: var(--switch); stroke: var(--edge); stroke-width: 1.5; }
.hf-net .badge { fill: var(--ground); stroke: var(--faint); }
.hf-net .rate { stroke: var(--ground); stroke-width: 4; paint-order: stroke; }
.hf-net text { fill: var(--ink); text-anchor: middle; }
.hf-net .name { font-weight: 600; }
.hf-net .small { font-size: 11px; fill: var(--faint); }
.hf-net .margin { text-anchor: start; }
"""


def draw(topology: Topology, ring: Sequence[str] | None = None, *, title: str = "") -> str:
    """Return the picture of a topology as SVG.

    `ring` is the host of each rank, in order. The arrow of a hop follows the path that a connection
    between the two hosts takes (`Topology.route`); ranks on one host need none. Rates and latencies
    are written where they are set. Raises UsageError for a host that the topology has not.
    """
    for host in ring or ():
        if host not in topology.hosts:
            raise UsageError(f"{topology.name} has no host {host!r} for a rank of the ring")
    return _Picture(topology, ring or (), title or topology.name).svg()


@dataclass(frozen=True)
class _Hop:
    """Rank `rank` sends to `to`, over `path`."""

    rank: int
    to: int
    path: tuple[Lane, ...]
    colour: str


class _Picture:
    """Places everything; then `svg` writes it down."""

    def __init__(self, topology: Topology, ring: Sequence[str], title: str) -> None:
        self._net = topology
        self._title = title
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)
        for rank, host in enumerate(ring):
            self._ranks[host].append(rank)
        self._hops = _hops(topology, ring)
        count = len(topology.hosts)
        self._pitch = next(
            pitch for most, pitch in ((6, 132.0), (12, 104.0), (24, 84.0), (count, 66.0))
            if count <= most
        )  # fmt: skip
        self._tiers = _tiers(topology)
        self._x = self._columns()
        wide = max(self._x.values()) - min(self._x.values())
        self._rise = max(104.0, min(260.0, 0.16 * wide))
        top = max(self._tiers.values())
        self._arch = max((self._height_of_arch(cable) for cable in topology.cables), default=0.0)
        self._y = {
            node: _MARGIN + self._arch + (top - tier) * self._rise + _HOST_HEIGHT / 2
            for node, tier in self._tiers.items()
        }
        self._width = max(self._x.values()) + self._pitch / 2 + _MARGIN
        self._height = max(self._y.values()) + _HOST_HEIGHT / 2 + _MARGIN
        self._curves = [self._curve(number) for number in range(len(topology.cables))]

    # Places

    def _columns(self) -> dict[str, float]:
        """Return each node's x: hosts in their order, a switch above the middle of what is below.

        The switches of a tier keep a distance, and with it their order.
        """
        first = _MARGIN + self._pitch / 2
        x = {host: first + place * self._pitch for place, host in enumerate(self._net.hosts)}
        span = len(self._net.hosts) * self._pitch
        for tier in sorted(set(self._tiers.values()) - {0}, key=abs):
            nodes = [node for node in self._net.switches if self._tiers[node] == tier]
            wish = {
                node: self._middle(node, x, first - self._pitch / 2 + span / 2) for node in nodes
            }
            nodes.sort(key=lambda node: wish[node])
            gap = max(86.0, 0.6 * span / len(nodes))
            placed = _spread([wish[node] for node in nodes], gap)
            x.update(zip(nodes, placed, strict=True))
        overhang = min(x[node] - self._box_width(node) / 2 for node in x) - _MARGIN
        return {node: value - min(0.0, overhang) for node, value in x.items()}

    def _middle(self, node: str, x: dict[str, float], default: float) -> float:
        """Return the mean x of the neighbours that have their place already."""
        others = [x[each] for each in self._neighbours(node) if each in x]
        return sum(others) / len(others) if others else default

    def _neighbours(self, node: str) -> Iterable[str]:
        cables = (self._net.cables[number] for number in self._net.cables_of(node))
        return (cable.b if cable.a == node else cable.a for cable in cables)

    def _box_width(self, node: str) -> float:
        return self._pitch - 22 if node in self._net.hosts else 74.0

    def _height_of_arch(self, cable: Cable) -> float:
        """Return how high a cable rises that connects two nodes of one tier."""
        if self._tiers[cable.a] != self._tiers[cable.b]:
            return 0.0
        return 24 + 0.24 * abs(self._x[cable.a] - self._x[cable.b])

    def _curve(self, number: int) -> Curve:
        """Return the course of a cable, from its `a` to its `b`."""
        cable = self._net.cables[number]
        start, end = self._port(cable.a, number), self._port(cable.b, number)
        arch = 2 * self._height_of_arch(cable)
        middle = between(start, end, 0.5)
        return Curve(start, Point(middle.x, middle.y - arch), end)

    def _port(self, node: str, number: int) -> Point:
        """Return where a cable ends: at a host's upper or lower edge, in a switch's middle."""
        centre = Point(self._x[node], self._y[node])
        if node not in self._net.hosts:
            return centre
        below = [each for each in self._net.cables_of(node) if self._is_below(node, each)]
        above = [each for each in self._net.cables_of(node) if each not in below]
        side = below if number in below else above
        side.sort(key=lambda each: self._x[self._other(each, node)])
        step = min(26.0, (self._box_width(node) - 24) / max(1, len(side) - 1))
        x = centre.x + (side.index(number) - (len(side) - 1) / 2) * step
        return Point(x, centre.y + math.copysign(_HOST_HEIGHT / 2, 1 if side is below else -1))

    def _is_below(self, node: str, number: int) -> bool:
        return self._tiers[self._other(number, node)] < self._tiers[node]

    def _other(self, number: int, node: str) -> str:
        cable = self._net.cables[number]
        return cable.b if cable.a == node else cable.a

    # Text

    def svg(self) -> str:
        rates = self._rates()
        margin = [6.2 * len(text) for kind, *_, text in rates if kind == "margin"]
        width = self._width + max(margin, default=0.0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="hf-net" role="img" '
            f'viewBox="0 0 {short(width)} {short(self._height)}" width="{short(width)}" '
            f'height="{short(self._height)}">',
            f"<title>{escape(self._title)}</title><style>{_STYLE}</style>",
            f'<rect class="ground" width="{short(width)}" height="{short(self._height)}" rx="10"/>',
        ]
        parts += [self._cable(number) for number in range(len(self._net.cables))]
        slots = self._slots()
        parts += [self._arrow(hop, slots) for hop in self._hops if hop.path]
        parts += [self._switch(node) for node in self._net.switches]
        parts += [self._host(node) for node in self._net.hosts]
        parts += self._badges()
        for kind, x, y, text in rates:
            parts.append(
                f'<text class="small {kind}" x="{short(x)}" y="{short(y)}">{escape(text)}</text>'
            )
        return "\n".join([*parts, "</svg>\n"])

    def _cable(self, number: int) -> str:
        cable = self._net.cables[number]
        kind = "cable control" if cable.network == "control" else "cable"
        said = f"{cable.a} – {cable.b}, {cable.network}{_comma(_said(cable))}"
        course = svg_path([self._curves[number]])
        return f'<path class="{kind}" d="{course}"><title>{escape(said)}</title></path>'

    def _switch(self, node: str) -> str:
        x, y = self._x[node], self._y[node]
        return self._box(node, "switch", _SWITCH_HEIGHT, _SWITCH_HEIGHT / 2) + self._text(
            "name", x, y + 4.5, node, 66
        )

    def _host(self, node: str) -> str:
        x, y = self._x[node], self._y[node]
        box = self._box(node, "host", _HOST_HEIGHT, 7)
        ranks = self._ranks.get(node)
        if not ranks:
            return box + self._text("name", x, y + 4.5, node, self._pitch - 28)
        said = ("rank " if len(ranks) == 1 else "ranks ") + _listed(ranks)
        name = self._text("name", x, y - 3, node, self._pitch - 28)
        return box + name + self._text("small", x, y + 13, said, self._pitch - 26)

    def _box(self, node: str, kind: str, height: float, radius: float) -> str:
        width = self._box_width(node)
        x, y = self._x[node] - width / 2, self._y[node] - height / 2
        return (
            f'<rect class="{kind}" x="{short(x)}" y="{short(y)}" width="{short(width)}" '
            f'height="{short(height)}" rx="{short(radius)}"><title>{escape(node)}</title></rect>'
        )

    def _text(self, kind: str, x: float, y: float, text: str, room: float) -> str:
        """Write `text`, cut off where `room` pixels end."""
        most = max(2, int(room / (7.4 if kind == "name" else 6.0)))
        shown = text if len(text) <= most else text[: most - 1] + "…"
        return f'<text class="{kind}" x="{short(x)}" y="{short(y)}">{escape(shown)}</text>'

    # The ring

    def _slots(self) -> dict[tuple[int, Lane], float]:
        """Return how far beside its cable each hop runs on each lane."""
        users: defaultdict[Lane, list[int]] = defaultdict(list)
        for hop in self._hops:
            for lane in hop.path:
                users[lane].append(hop.rank)
        return {
            (rank, lane): 5.0 + place * min(4.0, 26 / len(ranks))
            for lane, ranks in users.items()
            for place, rank in enumerate(ranks)
        }

    def _arrow(self, hop: _Hop, slots: dict[tuple[int, Lane], float]) -> str:
        curves = []
        for place, lane in enumerate(hop.path):
            course = self._curves[lane.cable]
            course = course if lane.forward else course.turned()
            first, last = place == 0, place == len(hop.path) - 1
            shorter = course.without(2 if first else _TURN, 9 if last else _TURN)
            curves.append(shorter.aside(slots[hop.rank, lane]))
        nodes = [self._net.start_of(hop.path[0]), *map(self._net.end_of, hop.path)]
        corners = [
            self._corner(node, before.end, after.start)
            for node, (before, after) in zip(nodes[1:-1], pairwise(curves), strict=True)
        ]
        said = f"rank {hop.rank} → rank {hop.to}: {' → '.join(nodes)}"
        x, y = curves[0].start
        return (
            f"<g><title>{escape(said)}</title>"
            f'<path class="hop" stroke="{hop.colour}" d="{svg_path(curves, corners)}"/>'
            f'<circle cx="{short(x)}" cy="{short(y)}" r="3" fill="{hop.colour}"/>'
            f'<path fill="{hop.colour}" d="{arrow_head(curves[-1])}"/></g>'
        )

    def _corner(self, switch: str, before: Point, after: Point) -> Point:
        """Return around which point an arrow turns: a switch's middle, or its edge to go back."""
        centre = Point(self._x[switch], self._y[switch])
        if (before.y - centre.y) * (after.y - centre.y) <= 0:
            return centre
        return Point(centre.x, centre.y + math.copysign(_SWITCH_HEIGHT / 2, before.y - centre.y))

    def _badges(self) -> Iterable[str]:
        """Write on each lane that carries several hops how many, towards its beginning."""
        load = Counter(lane for hop in self._hops for lane in hop.path)
        slots = self._slots()
        for lane, count in load.items():
            if count < 2:
                continue
            course = self._curves[lane.cable]
            course = course if lane.forward else course.turned()
            aside = [distance for (_, used), distance in slots.items() if used == lane]
            x, y = course.aside(sum(aside) / count).at(0.3)
            said = (
                f"{self._net.start_of(lane)} → {self._net.end_of(lane)} carries {count} hops of "
                "the ring"
            )
            yield (
                f"<g><title>{escape(said)}</title>"
                f'<circle class="badge" cx="{short(x)}" cy="{short(y)}" r="8.5"/>'
                f'<text class="small" x="{short(x)}" y="{short(y + 4)}">{count}</text></g>'
            )

    # Rates

    def _rates(self) -> list[tuple[str, float, float, str]]:
        """Return where what is said of cables stands: once beside a tier where all are alike."""
        groups: defaultdict[tuple[int, int, str], list[int]] = defaultdict(list)
        for number, cable in enumerate(self._net.cables):
            low, high = sorted((self._tiers[cable.a], self._tiers[cable.b]))
            groups[low, high, cable.network].append(number)
        found = []
        for numbers in groups.values():
            said = {_said(self._net.cables[number]) for number in numbers}
            if len(said) == 1 and len(numbers) > 2:
                y = self._curves[numbers[0]].at(0.5).y
                found.append(("margin", self._width - _MARGIN / 2, y + 4, said.pop()))
                continue
            for number in numbers:
                x, y = self._curves[number].at(0.42)
                found.append(("rate", x, y + 4, _said(self._net.cables[number])))
        return [each for each in found if each[3]]


def _hops(topology: Topology, ring: Sequence[str]) -> list[_Hop]:
    count = len(ring)
    found = []
    for rank, host in enumerate(ring if count > 1 else ()):
        to = (rank + 1) % count
        near = host == ring[to]
        path = () if near else topology.route(topology.nic(host), topology.nic(ring[to]))
        found.append(_Hop(rank, to, path, _colour(rank, count)))
    return found


def _colour(rank: int, count: int) -> str:
    if count <= len(_COLOURS):
        return _COLOURS[rank]
    return f"hsl({360 * rank / count:.0f} 62% 50%)"


def _tiers(topology: Topology) -> dict[str, int]:
    """Return each node's tier: 0 for hosts, else the distance to one; below 0 if only control."""
    distance = dict.fromkeys(topology.hosts, 0)
    waiting = deque(topology.hosts)
    while waiting:
        node = waiting.popleft()
        for number in topology.cables_of(node):
            cable = topology.cables[number]
            other = cable.b if cable.a == node else cable.a
            if other not in distance:
                distance[other] = distance[node] + 1
                waiting.append(other)
    tiers = {}
    for node in (*topology.hosts, *topology.switches):
        networks = {topology.cables[number].network for number in topology.cables_of(node)}
        away = distance.get(node, 1)
        tiers[node] = -away if networks == {"control"} else away
    return tiers


def _spread(wishes: Sequence[float], gap: float) -> list[float]:
    """Return places at least `gap` apart, nearest to the wishes in the least squares.

    Wishes come in order. Neighbours that are too close form a block around their common middle
    (isotonic regression by pooling adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # the sum of the wishes less their places, and how many
    for place, wish in enumerate(wishes):
        total, count = wish - place * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    middles = [total / count for total, count in blocks for _ in range(count)]
    return [middle + place * gap for place, middle in enumerate(middles)]


def _said(cable: Cable) -> str:
    """Return a cable's rate and latency for people, where they are set."""
    words = [] if cable.rate is None else [_rate(cable.rate)]
    words += [format_seconds(cable.latency)] if cable.latency else []
    return ", ".join(words)


def _comma(text: str) -> str:
    return f", {text}" if text else ""


def _rate(rate: float) -> str:
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if rate >= size:
            return f"{rate / size:.4g} {unit}"
    return f"{rate:.4g} bit/s"


def _listed(ranks: Sequence[int]) -> str:
    """Return ranks in order, as `0–3` where they follow one another."""
    follow = all(after == before + 1 for before, after in pairwise(ranks))
    if follow and len(ranks) > 1:
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks))
