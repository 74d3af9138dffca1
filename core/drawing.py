"""The graph of a computation as a picture: what is computed flows from top to bottom.

The picture is one SVG without outside resources, scripts or ids, light or dark as its viewer asks.
A box is a primitive or a leaf; a parameter that is used once stands beside what uses it; a frame is
one call of a part of the model. Shapes are written where an edge begins, and all that is known is
said where one points. Pure: the same graph gives the same text.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from holdfast.core.blocks import BESIDE, PITCH, SMALL, Block, blocks_of, own_name, written
from holdfast.core.graph import Call, Vertex
from holdfast.core.layout import Layout, arrange, spread

_MARGIN = 24.0
_HEAD = 50.0
_GAP = 30.0
_RISE = 40.0
"""Between two layers, without frames."""
_PAD = 10.0
_LABEL = 15.0
"""What a frame's name takes at its top."""

_STYLE = """
.hf-graph { --ground: #fbfaf7; --ink: #1f2d33; --faint: #65747a; --line: #8fa0a6; --box: #ffffff;
  --edge: #2b5d6b; --learned: #e3f1e4; --learned-edge: #3d8a4d; --given: #fdf0d5;
  --given-edge: #b98218; --frame: #2b5d6b0d; --frame-edge: #2b5d6b55;
  font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
@media (prefers-color-scheme: dark) { .hf-graph { --ground: #11191c; --ink: #e4ecee;
  --faint: #93a3a9; --line: #62757c; --box: #1b272b; --edge: #6fb0c0; --learned: #1c3322;
  --learned-edge: #62b374; --given: #3a2f16; --given-edge: #d9a441; --frame: #6fb0c012;
  --frame-edge: #6fb0c055; } }
.hf-graph .ground { fill: var(--ground); }
.hf-graph .frame { fill: var(--frame); stroke: var(--frame-edge); }
.hf-graph .flow { fill: none; stroke: var(--line); stroke-width: 1.5; }
.hf-graph .tip { fill: var(--line); }
.hf-graph .operation { fill: var(--box); stroke: var(--edge); stroke-width: 1.4; }
.hf-graph .view { fill: var(--ground); stroke: var(--edge); stroke-dasharray: 4 3; }
.hf-graph .parameter { fill: var(--learned); stroke: var(--learned-edge); }
.hf-graph .leaf { fill: var(--given); stroke: var(--given-edge); }
.hf-graph .result { stroke-width: 2.6; }
.hf-graph text { fill: var(--ink); text-anchor: middle; }
.hf-graph .name { font-weight: 600; }
.hf-graph .title { font-size: 15px; font-weight: 600; text-anchor: start; }
.hf-graph .small { font-size: 11px; fill: var(--faint); }
.hf-graph .start { text-anchor: start; }
.hf-graph .end { text-anchor: end; }
.hf-graph .shape { stroke: var(--ground); stroke-width: 4; paint-order: stroke; }
"""


def svg(vertices: Sequence[Vertex], title: str = "") -> str:
    """Return the picture of a graph as SVG."""
    return _Picture(vertices, title).text()


@dataclass(frozen=True)
class _Frame:
    """The rectangle around what one call of a part of a model did."""

    call: Call
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Return whether a rectangle lies in it, all or in part."""
        beside = left >= self.right or right <= self.left
        return not beside and top < self.bottom and bottom > self.top


class _Picture:
    """Places everything; then `text` writes it down."""

    def __init__(self, vertices: Sequence[Vertex], title: str) -> None:
        self._title = title
        self._vertices = vertices
        self._blocks, self._edges = blocks_of(vertices)
        pairs = [(source, target) for source, _, target in self._edges]
        self._layout = arrange([block.box() for block in self._blocks], pairs, _GAP, _PAD + 2)
        self._ends: defaultdict[int, dict[int, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )  # where each output of a box goes
        for (source, at, target), bends in zip(self._edges, self._layout.bends, strict=True):
            self._ends[source][at].append(bends[0] if bends else self._layout.x[target])
        self._members = self._members_of_calls()
        self._rows = {
            call: sorted({self._layout.layer[i] for i in members})
            for call, members in self._members.items()
        }
        self._place(self._layout)
        self._outs = self._leaving()
        self._frames = list(self._framed())
        self._fit()

    # Places

    def _members_of_calls(self) -> dict[Call, list[int]]:
        members: defaultdict[Call, list[int]] = defaultdict(list)
        for i, block in enumerate(self._blocks):
            for call in block.calls:
                members[call].append(i)
        return dict(members)

    def _place(self, layout: Layout) -> None:
        """Give each block its x and y, and each layer its top and bottom."""
        layers = max(layout.layer, default=-1) + 1
        heights, before, after = [0.0] * layers, [0.0] * layers, [0.0] * layers
        for i, block in enumerate(self._blocks):
            row = layout.layer[i]
            heights[row] = max(heights[row], block.full_height)
            starts = sum(self._rows[call][0] == row for call in block.calls)
            ends = sum(self._rows[call][-1] == row for call in block.calls)
            before[row] = max(before[row], starts * (_PAD + _LABEL))
            after[row] = max(after[row], ends * _PAD)
        self._tops: list[float] = []
        self._bottoms: list[float] = []
        self._clear = after  # how far a label under a box has to move to clear frames
        y = 0.0
        for height, above, below in zip(heights, before, [0.0, *after], strict=False):
            y += max(_RISE, below + above + _PAD + 6) if self._tops else 0.0
            self._tops.append(y)
            self._bottoms.append(y + height)
            y += height
        for i, block in enumerate(self._blocks):
            block.x = layout.x[i]
            block.y = (self._tops[layout.layer[i]] + self._bottoms[layout.layer[i]]) / 2

    def _framed(self) -> Iterator[_Frame]:
        """Return the frames, the outermost first, that hold nothing that is not theirs."""
        reach = [self._reach(block) for block in self._blocks]
        found: dict[Call, _Frame] = {}
        inner_first = sorted(self._members, key=lambda call: call.began - call.ended, reverse=True)
        for call in inner_first:
            members = self._members[call]
            boxes = [reach[i] for i in members]
            boxes += self._edges_inside(set(members))
            boxes += [
                (frame.left, frame.top, frame.right, frame.bottom)
                for inner, frame in found.items()
                if call.began < inner.began and inner.ended < call.ended
            ]
            left = min(box[0] for box in boxes) - _PAD
            label = left + SMALL * len(f"{call.name}: {call.kind}") + 14
            found[call] = _Frame(
                call,
                left,
                min(box[1] for box in boxes) - _PAD - _LABEL,
                max(label, max(box[2] for box in boxes) + _PAD),
                max(box[3] for box in boxes) + _PAD,
            )
        for call in reversed(inner_first):
            frame = found[call]
            strange = (i for i, block in enumerate(self._blocks) if call not in block.calls)
            if not any(frame.meets(*reach[i]) for i in strange):
                yield frame

    def _edges_inside(self, members: set[int]) -> Iterator[tuple[float, float, float, float]]:
        """Return where edges between boxes of one frame pass layers."""
        for i, (source, _, target) in enumerate(self._edges):
            if source in members and target in members:
                for bend in self._layout.bends[i]:
                    y = self._tops[self._layout.layer[target]]
                    yield bend, y, bend, y

    def _reach(self, block: Block) -> tuple[float, float, float, float]:
        box, half = block.box(), block.full_height / 2
        return block.x - box.left, block.y - half, block.x + box.right, block.y + half

    def _fit(self) -> None:
        """Move everything so that it begins at the margin, and measure the whole."""
        reach = [self._reach(block) for block in self._blocks]
        reach += [(frame.left, frame.top, frame.right, frame.bottom) for frame in self._frames]
        passes = [x for bends in self._layout.bends for x in bends]
        left = min([box[0] for box in reach] + passes)
        right = max([box[2] for box in reach] + passes)
        top = min(box[1] for box in reach)
        self._dx, self._dy = _MARGIN - left, _HEAD + _MARGIN / 2 - top
        said = max(8.2 * len(self._title), SMALL * len(self._summary()))
        self._width = max(right - left, said) + 2 * _MARGIN + 30
        self._height = max(box[3] for box in reach) + self._dy + _RISE + _MARGIN

    # Text

    def text(self) -> str:
        width, height = _short(self._width), _short(self._height)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="hf-graph" role="img" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<title>{escape(self._title or 'A graph')}</title><style>{_STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
            f'<text class="title" x="{_short(_MARGIN)}" y="29">{escape(self._title)}</text>',
            _text("small start", _MARGIN, 46, self._summary()),
            f'<g transform="translate({_short(self._dx)} {_short(self._dy)})">',
            *(_frame(frame) for frame in self._frames),
            *self._flows(),
            *(part for i in range(len(self._blocks)) for part in self._drawn(i)),
            *self._shapes(),
            *(_frame_name(frame) for frame in self._frames),
        ]
        return "\n".join([*parts, "</g></svg>\n"])

    def _summary(self) -> str:
        count = sum(vertex.kind in ("operation", "view") for vertex in self._vertices)
        learned = [vertex for vertex in self._vertices if vertex.kind == "parameter"]
        said = f"{count} operation{'s' if count != 1 else ''}"
        if learned:
            values = sum(math.prod(vertex.shapes[0]) for vertex in learned)
            said += f", {len(learned)} parameters of {values:,} values"
        return said

    def _drawn(self, i: int) -> Iterator[str]:
        """Write a box and those beside it, with the arrows from them."""
        block = self._blocks[i]
        vertex = block.vertex
        kind = vertex.kind + ("" if i in self._outs else " result")
        yield "<g>" + _title(vertex)
        yield _rectangle(kind, block.x, block.y, block.width, block.height)
        lift = 6.5 if block.caption else 0.0
        yield _text("name", block.x, block.y + 4.5 - lift, vertex.name)
        if block.caption:
            yield _text("small", block.x, block.y + 4.5 + 8, block.caption)
        yield "</g>"
        left = block.x + block.width / 2 + BESIDE
        middle = left + block.beside_width / 2
        edge = block.x + block.width / 2
        for k, each in enumerate(block.beside):
            place = k - (len(block.beside) - 1) / 2
            y = block.y + place * PITCH
            to = block.y + place * min(12.0, (block.height - 8) / len(block.beside))
            bend = _short((left + edge) / 2)
            yield (
                f'<path class="flow" d="M{_short(left)} {_short(y)}C{bend} {_short(y)} '
                f'{bend} {_short(to)} {_short(edge + 7)} {_short(to)}"/>'
                f'<path class="tip" d="M{_short(edge + 1)} {_short(to)}l7-3.5v7z"/>'
            )
            yield "<g>" + _title(each)
            yield _rectangle("parameter", middle, y, block.beside_width, 34)
            yield _text("name", middle, y - 2, own_name(each, block.calls))
            yield _text("small", middle, y + 11, written(each.shapes[0]))
            yield "</g>"

    def _leaving(self) -> dict[int, dict[int, float]]:
        """Return the x at which each box's outputs leave: several in the order of where they go."""
        found = {}
        for source, outputs in self._ends.items():
            block = self._blocks[source]
            means = {at: sum(each) / len(each) for at, each in outputs.items()}
            order = sorted(means, key=lambda at: means[at])
            step = min(block.step, (block.width - 16) / max(1, len(order) - 1))
            first = block.x - (len(order) - 1) / 2 * step
            found[source] = {at: first + k * step for k, at in enumerate(order)}
        return found

    def _flows(self) -> Iterator[str]:
        """Write the edges. Those that end at one box are spread over its top, in order."""
        ending: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        for i, (source, at, target) in enumerate(self._edges):
            bends = self._layout.bends[i]
            ending[target].append((bends[-1] if bends else self._outs[source][at], i))
        ports: dict[int, float] = {}
        for target, arriving in ending.items():
            arriving.sort()
            block = self._blocks[target]
            room = block.width / 2 - 8
            wishes = [min(max(x, block.x - room), block.x + room) for x, _ in arriving]
            step = min(11.0, 2 * room / max(1, len(arriving) - 1))
            placed = spread(wishes, step)
            over = max(0.0, placed[-1] - block.x - room) + min(0.0, placed[0] - block.x + room)
            for (_, i), x in zip(arriving, placed, strict=True):
                ports[i] = x - over
        for i, (source, at, target) in enumerate(self._edges):
            yield self._flow(i, source, at, target, ports[i])

    def _flow(self, i: int, source: int, at: int, target: int, port: float) -> str:
        start, end = self._blocks[source], self._blocks[target]
        x, y = self._outs[source][at], start.y + start.height / 2
        said = [f"M{_short(x)} {_short(y)}"]
        # A box may be lower than its layer: straight on to the layer's edge first.
        y = self._bottoms[self._layout.layer[source]]
        said.append(f"V{_short(y)}")
        row = self._layout.layer[source]
        for bend in self._layout.bends[i]:
            row += 1
            said.append(_bow(x, y, bend, self._tops[row]))
            x, y = bend, self._bottoms[row]
            said.append(f"V{_short(y)}")
        top = end.y - end.height / 2
        said.append(_bow(x, y, port, min(top - 7, self._tops[row + 1])))
        said.append(f"V{_short(top - 7)}")
        shape = written(start.vertex.shapes[at])
        tip = f"M{_short(port)} {_short(top - 1)}l-3.5-7h7z"
        title = f"{start.vertex.name} → {end.vertex.name}: {shape}"
        return (
            f'<g><title>{escape(title)}</title><path class="flow" d="{"".join(said)}"/>'
            f'<path class="tip" d="{tip}"/></g>'
        )

    def _shapes(self) -> Iterator[str]:
        """Write shapes: once at each output that goes on, and at the end of what does not."""
        for i, block in enumerate(self._blocks):
            bottom = block.y + block.height / 2
            row = self._layout.layer[i]
            # Below what stands beside the box, and outside of the frames that end with it.
            y = block.y + block.full_height / 2 if block.beside else bottom
            if any(self._rows[call][-1] == row for call in block.calls):
                y = self._bottoms[row] + self._clear[row]
            shapes = block.vertex.shapes
            if i not in self._outs:
                end = block.y + block.full_height / 2 + 24
                yield (
                    f'<path class="flow" d="M{_short(block.x)} {_short(bottom)}V{_short(end)}"/>'
                    f'<path class="tip" d="M{_short(block.x)} {_short(end + 7)}l-3.5-7h7z"/>'
                )
            outs = self._outs.get(i, {0: block.x})
            if len(outs) > 1 and not block.apart:
                said = f"{written(shapes[min(outs)])} and {len(outs) - 1} more"
                yield _text("small shape start", max(outs.values()) + 5, y + 12, said)
                continue
            for at, x in outs.items():
                # On the left where what leaves goes to the right.
                ends = self._ends[i][at]
                left = len(outs) == 1 and sum(ends) > (x + 1) * len(ends)
                kind = "small shape " + ("end" if left else "start")
                yield _text(kind, x + (-5 if left else 5), y + 12, written(shapes[at]))


def _title(vertex: Vertex) -> str:
    """Return all that is known of a vertex, for who points at it."""
    lines = [f"{vertex.name} ({vertex.kind})"]
    lines += [f"{written(shape)}, {vertex.dtype}" for shape in vertex.shapes]
    lines += [f"in {call.name}: {call.kind}" for call in vertex.calls[-1:]]
    return f"<title>{escape(chr(10).join(lines))}</title>"


def _frame(frame: _Frame) -> str:
    return (
        f'<rect class="frame" x="{_short(frame.left)}" y="{_short(frame.top)}" '
        f'width="{_short(frame.right - frame.left)}" height="{_short(frame.bottom - frame.top)}" '
        'rx="8"/>'
    )


def _frame_name(frame: _Frame) -> str:
    said = f"{frame.call.name}: {frame.call.kind}"
    return _text("small shape end", frame.right - 8, frame.top + 14, said)


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{kind}" x="{_short(x - width / 2)}" y="{_short(y - height / 2)}" '
        f'width="{_short(width)}" height="{_short(height)}" rx="6"/>'
    )


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{_short(x)}" y="{_short(y)}">{escape(text)}</text>'


def _bow(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return a curve that leaves and arrives vertically."""
    middle = _short((y + to_y) / 2)
    return f"C{_short(x)} {middle} {_short(to_x)} {middle} {_short(to_x)} {_short(to_y)}"


def _short(value: float) -> str:
    """Return a number as short as a tenth of a pixel allows."""
    return f"{value:.1f}".removesuffix(".0")
