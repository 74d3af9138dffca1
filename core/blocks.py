"""What is placed in the picture of a graph: a box, with the boxes of its parameters beside it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.core.graph import Call, Vertex
from holdfast.core.layout import Box

NAME = 7.3
"""Pixels that a letter of a name takes, about."""
SMALL = 6.1
BESIDE = 24.0
"""Between an operation and its parameters."""
PITCH = 40.0
"""From one parameter to the next."""
WIDEST = 320.0
"""How wide a box becomes for its outputs."""


@dataclass
class Block:
    """A vertex with the parameters beside it, and where its box lies: `x`, `y` are its middle."""

    vertex: Vertex
    beside: list[Vertex]
    calls: tuple[Call, ...]
    caption: str
    outputs: int = 1  # of which something is made
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """The width of the vertex's own box."""
        texts = max(NAME * len(self.vertex.name) + 22, SMALL * len(self.caption) + 18)
        return max(44.0, texts, self.outputs * self.step if self.apart else 0.0)

    @property
    def step(self) -> float:
        """The distance of outputs at which there is room for their shapes."""
        return max(SMALL * len(written(shape)) for shape in self.vertex.shapes) + 16

    @property
    def apart(self) -> bool:
        """Whether each of several outputs has its shape written: not where there are too many."""
        return self.outputs > 1 and self.outputs * self.step <= WIDEST

    @property
    def height(self) -> float:
        """The height of the vertex's own box."""
        return 26.0 + (13.0 if self.caption else 0.0)

    @property
    def beside_width(self) -> float:
        """The width of the boxes beside it."""
        texts = (
            max(NAME * len(own_name(each, self.calls)), SMALL * len(written(each.shapes[0])))
            for each in self.beside
        )
        return max(texts, default=0.0) + 20 if self.beside else 0.0

    def box(self) -> Box:
        """Return what the layout has to make room for."""
        right = self.width / 2
        if self.beside:
            right += BESIDE + self.beside_width
        return Box(self.width / 2, right, self.calls)

    @property
    def full_height(self) -> float:
        """The height with the boxes beside it."""
        return max(self.height, PITCH * len(self.beside) - 6)


def blocks_of(vertices: Sequence[Vertex]) -> tuple[list[Block], list[tuple[int, int, int]]]:
    """Return what is to be placed, and the edges: source, which of its outputs, target."""
    uses: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # user and output
    for i, vertex in enumerate(vertices):
        for source, output in vertex.inputs:
            uses[source].append((i, output))
    beside: defaultdict[int, list[Vertex]] = defaultdict(list)
    placed = []
    for i, vertex in enumerate(vertices):
        if vertex.kind == "parameter" and len(uses[i]) == 1:
            beside[uses[i][0][0]].append(vertex)
        else:
            placed.append(i)
    work: defaultdict[Call, int] = defaultdict(int)
    for i, vertex in enumerate(vertices):
        for call in vertex.calls:
            work[call] += 1 + len(beside[i])
    found = []
    for i in placed:
        vertex = vertices[i]
        # A part that only does this one thing needs no frame: its name is written into the box.
        calls = tuple(call for call in vertex.calls if work[call] > 1)
        alone = vertex.calls[-1] if len(vertex.calls) > len(calls) else None
        caption = "" if alone is None else f"{alone.name}: {alone.kind}"
        outputs = max(1, len({output for _, output in uses[i]}))
        found.append(Block(vertex, beside[i], calls, caption, outputs))
    at = {i: k for k, i in enumerate(placed)}
    edges = [
        (at[source], output, at[i])
        for i in placed
        for source, output in vertices[i].inputs
        if source in at
    ]
    return found, edges


def own_name(vertex: Vertex, calls: Iterable[Call]) -> str:
    """Return a parameter's name without what the frame around it says."""
    name = vertex.name
    for call in calls:
        if vertex.name.startswith(f"{call.name}."):
            name = vertex.name.removeprefix(f"{call.name}.")
    return name


def written(shape: tuple[int, ...]) -> str:
    """Return a shape for people."""
    return "×".join(map(str, shape)) if shape else "scalar"
