"""Places for the boxes of a directed graph, in layers from top to bottom. Pure.

The method is Sugiyama's: a box lies above all that is made from it (longest paths), edges that pass
a layer get a place in it, the order within layers comes from barycentres with few crossings, and
x from Brandes and Köpf, "Fast and Simple Horizontal Coordinate Assignment" (2002). A group of boxes
is kept together by an invisible border to its left and right in every layer that it reaches over.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_SWEEPS = 16


@dataclass(frozen=True)
class Box:
    """A box to place: how far it reaches from its anchor, and the nested groups that it is in.

    The anchor is where its edges are tied to: a box with something beside it reaches further there.
    """

    left: float
    right: float
    groups: tuple[object, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    `x` is that of each box's anchor and `layer` its layer, 0 at the top; `bends` are for each edge
    the x at which it passes each layer between its ends, from top to bottom.
    """

    x: tuple[float, ...]
    layer: tuple[int, ...]
    bends: tuple[tuple[float, ...], ...]


@dataclass(eq=False)
class _Place:
    """A place in a layer: of a box, of an edge that passes, or of a group's border (`side`)."""

    left: float = 0.0
    right: float = 0.0
    groups: tuple[object, ...] = ()
    passes: bool = False
    side: int = 0  # -1 for a left border, 1 for a right one; the last of `groups` is whose
    above: "list[_Place]" = field(default_factory=list)
    below: "list[_Place]" = field(default_factory=list)

    def joined(self, lower: "_Place") -> None:
        """Add an edge to a place in the next layer."""
        self.below.append(lower)
        lower.above.append(self)


_Rows = list[list[_Place]]


def arrange(
    boxes: Sequence[Box], edges: Sequence[tuple[int, int]], gap: float, margin: float
) -> Layout:
    """Place `boxes` at least `gap` apart, those at a group's border `margin` within it.

    An edge goes from one box down to another; it comes from a box that stands before in `boxes`.
    """
    layer = _layers(len(boxes), edges)
    places = [_Place(box.left, box.right, box.groups) for box in boxes]
    rows: _Rows = [[] for _ in range(max(layer, default=-1) + 1)]
    for place, row in zip(places, layer, strict=True):
        rows[row].append(place)
    reach = _reach(boxes, layer)
    passing = []
    for source, target in edges:
        chain = []
        for row in range(layer[source] + 1, layer[target]):
            groups = _passed(boxes[source].groups, boxes[target].groups, row, reach)
            chain.append(_Place(2.0, 2.0, groups, passes=True))
            rows[row].append(chain[-1])
        for upper, lower in pairwise([places[source], *chain, places[target]]):
            upper.joined(lower)
        passing.append(chain)
    _add_borders(rows)
    x = _across(_ordered(rows), _room(gap, margin))
    return Layout(
        tuple(x[place] for place in places),
        tuple(layer),
        tuple(tuple(x[place] for place in chain) for chain in passing),
    )


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return each box's layer: as far above the bottom as its longest path is long."""
    height = [0] * count
    for source, target in sorted(edges, reverse=True):
        height[source] = max(height[source], height[target] + 1)
    top = max(height, default=0)
    return [top - each for each in height]


def _common(a: tuple[object, ...], b: tuple[object, ...]) -> tuple[object, ...]:
    """Return the groups that both are in."""
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return a[:shared]


def _reach(boxes: Sequence[Box], layer: Sequence[int]) -> dict[object, tuple[int, int]]:
    """Return each group's first and last layer."""
    found: dict[object, tuple[int, int]] = {}
    for box, row in zip(boxes, layer, strict=True):
        for group in box.groups:
            first, last = found.get(group, (row, row))
            found[group] = min(first, row), max(last, row)
    return found


def _passed(
    source: tuple[object, ...],
    target: tuple[object, ...],
    row: int,
    reach: dict[object, tuple[int, int]],
) -> tuple[object, ...]:
    """Return the groups that an edge is in as it passes a layer.

    It enters its target's groups at their first layer and leaves its source's at their last.
    """
    shared = _common(source, target)
    entered = [g for g in target[len(shared) :] if reach[g][0] <= row]
    left = [g for g in source[len(shared) :] if row <= reach[g][1]]
    return (*shared, *(entered or left))


def _add_borders(rows: _Rows) -> None:
    """Give each group that has a place in every row it reaches over a border on either side."""
    reach: defaultdict[tuple[object, ...], set[int]] = defaultdict(set)
    for i, row in enumerate(rows):
        for place in row:
            for depth in range(len(place.groups)):
                reach[place.groups[: depth + 1]].add(i)
    for groups, found in reach.items():
        first, last = min(found), max(found)
        if len(found) <= last - first:
            continue
        for side in (-1, 1):
            chain = [_Place(groups=groups, passes=True, side=side) for _ in found]
            for upper, lower in pairwise(chain):
                upper.joined(lower)
            for place, row in zip(chain, rows[first : last + 1], strict=True):
                row.append(place)


def _room(gap: float, margin: float) -> Callable[[_Place, _Place], float]:
    """Return the function that says how far apart two neighbours are, the left one first."""

    def between(a: _Place, b: _Place) -> float:
        inside = a.side < 0 or b.side > 0
        edge = a.passes or b.passes
        return a.right + b.left + (margin if inside else gap / 2 if edge else gap)

    return between


# -- order ----------------------------------------------------------------------------------------


def _ordered(rows: _Rows) -> _Rows:
    """Return the rows in the order with the fewest crossings that sweeping up and down finds."""
    rows = [_grouped(row, {place: float(k) for k, place in enumerate(row)}, 0) for row in rows]
    best, fewest = rows, _crossings(rows)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        rows = list(rows)
        downwards = sweep % 2 == 1
        for i in range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1):
            at = {place: k for k, place in enumerate(rows[i - 1 if downwards else i + 1])}
            wish = {}
            for k, place in enumerate(rows[i]):
                near = place.above if downwards else place.below
                wish[place] = sum(at[other] for other in near) / len(near) if near else float(k)
            rows[i] = _grouped(rows[i], wish, 0)
        found = _crossings(rows)
        if found < fewest:
            best, fewest = rows, found
    return best


def _grouped(row: list[_Place], wish: dict[_Place, float], depth: int) -> list[_Place]:
    """Return places sorted by their wishes, each group together, within its borders, at its mean.

    All are in the same groups down to `depth`.
    """
    parts: defaultdict[object, list[_Place]] = defaultdict(list)
    for place in row:
        inner = len(place.groups) > depth
        parts[place.groups[depth] if inner else place].append(place)
    rank = {}
    for key, part in parts.items():
        (first, *_) = part
        if len(first.groups) > depth:
            free = [each for each in part if not each.side]
            rank[key] = (0, sum(wish[each] for each in free) / len(free))
        else:
            rank[key] = (first.side, wish[first])
    found = []
    for key in sorted(parts, key=lambda key: rank[key]):
        part = parts[key]
        inner = len(part[0].groups) > depth
        found += _grouped(part, wish, depth + 1) if inner else part
    return found


def _crossings(rows: _Rows) -> int:
    """Return how many pairs of edges cross between neighbouring rows."""
    total = 0
    for upper, lower in pairwise(rows):
        at = {place: k for k, place in enumerate(lower)}
        passed: list[int] = []
        for place in upper:
            ends = sorted(at[other] for other in place.below)
            total += sum(len(passed) - bisect_left(passed, end + 1) for end in ends)
            for end in ends:
                insort(passed, end)
    return total


# -- x --------------------------------------------------------------------------------------------


def _across(rows: _Rows, room: Callable[[_Place, _Place], float]) -> dict[_Place, float]:
    """Return each place's x: the middle of four ways to line them up, leaning to each corner."""
    crossing = _crossing_straights(rows)
    ways = []
    for downwards in (True, False):
        for mirrored in (False, True):
            turned = rows if downwards else rows[::-1]
            if mirrored:
                turned = [row[::-1] for row in turned]
            roots = _lined_up(turned, downwards, crossing)
            x = _packed(turned, roots, (lambda a, b: room(b, a)) if mirrored else room)
            ways.append({place: -at for place, at in x.items()} if mirrored else x)
    spans = [(min(x.values()), max(x.values())) for x in ways]
    start, end = min(spans, key=lambda span: span[1] - span[0])
    moves = [
        end - span[1] if mirrored else start - span[0]
        for span, mirrored in zip(spans, (False, True, False, True), strict=True)
    ]
    found = {}
    for place in ways[0]:
        four = sorted(x[place] + move for x, move in zip(ways, moves, strict=True))
        found[place] = (four[1] + four[2]) / 2
    return found


def _crossing_straights(rows: _Rows) -> set[tuple[_Place, _Place]]:
    """Return the edges that cross one that only passes, which goes straight instead of them."""
    found = set()
    for upper, lower in pairwise(rows):
        at = {place: k for k, place in enumerate(lower)}
        segments = [
            (k, at[other], place, other) for k, place in enumerate(upper) for other in place.below
        ]
        straight = [(k, e) for k, e, a, b in segments if a.passes and b.passes]
        for k, end, a, b in segments:
            if not (a.passes and b.passes) and any((k - i) * (end - j) < 0 for i, j in straight):
                found.add((a, b))
    return found


def _lined_up(
    rows: _Rows, downwards: bool, crossing: set[tuple[_Place, _Place]]
) -> dict[_Place, _Place]:
    """Return for each place the first of the line it is in: places that get the same x.

    Each joins the median of its neighbours in the row before, unless lines would cross.
    """
    root = {place: place for row in rows for place in row}
    continued: set[_Place] = set()
    for before, row in pairwise(rows):
        at = {place: k for k, place in enumerate(before)}
        last = -1
        for place in row:
            near = [p for p in (place.above if downwards else place.below) if not _light(p)]
            near = [] if _light(place) else sorted(set(near), key=lambda other: at[other])
            for k in sorted({(len(near) - 1) // 2, len(near) // 2}) if near else ():
                other = near[k]
                pair = (other, place) if downwards else (place, other)
                free = root[place] is place and other not in continued
                if free and at[other] > last and pair not in crossing:
                    root[place] = root[other]
                    continued.add(other)
                    last = at[other]
    return root


def _light(place: _Place) -> bool:
    """Return whether a place is a leaf beside a longer path to the same box: it stands aside."""
    if place.passes or place.above or not place.below:
        return False
    return any(other.above or other.passes for other in place.below[0].above)


def _packed(
    rows: _Rows, root: dict[_Place, _Place], room: Callable[[_Place, _Place], float]
) -> dict[_Place, float]:
    """Return x with the lines as far to the left as they can be, then as close together."""
    after: defaultdict[_Place, dict[_Place, float]] = defaultdict(dict)
    before: defaultdict[_Place, dict[_Place, float]] = defaultdict(dict)
    for row in rows:
        for a, b in pairwise(row):
            apart = max(room(a, b), after[root[a]].get(root[b], 0.0))
            after[root[a]][root[b]] = before[root[b]][root[a]] = apart
    lines = list(dict.fromkeys(root.values()))
    waiting = {line: len(before[line]) for line in lines}
    order = [line for line in lines if not waiting[line]]
    for line in order:  # grows while it is walked
        for other in after[line]:
            waiting[other] -= 1
            if not waiting[other]:
                order.append(other)
    x: dict[_Place, float] = {}
    for line in order:
        x[line] = max((x[other] + apart for other, apart in before[line].items()), default=0.0)
    for line in reversed(order):
        if after[line]:
            x[line] = max(x[line], min(x[other] - apart for other, apart in after[line].items()))
    return {place: x[line] for place, line in root.items()}


def spread(wishes: Sequence[float], least: float) -> list[float]:
    """Return places nearest to the wishes in the least squares, in order, `least` apart or more.

    Neighbours that are too close form a block around their common mean (isotonic regression by
    pooling adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # the sum of the wishes less their places, and how many
    for place, wish in enumerate(wishes):
        total, count = wish - place * least, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    means = [total / count for total, count in blocks for _ in range(count)]
    return [mean + place * least for place, mean in enumerate(means)]
