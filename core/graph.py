"""The graph of a computation, to look at: as a list of steps, and as what a drawing is made of.

The names are those of the primitives; a leaf is named by who looks, as tensors have no names.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from holdfast.core.backward import Bundle, Leaf, Node, Pick
from holdfast.core.changes import next_sequence
from holdfast.core.nn.module import Module
from holdfast.core.parameter import Parameter
from holdfast.core.recording import enable_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import GradientError, UsageError


@dataclass(frozen=True)
class Step:
    """One tensor of a graph: its name, its shape, and the names of those it was made from.

    The inputs that require no gradient are not part of the graph. Of a primitive with several
    outputs the shape is the first's, and `name[i]` among the inputs is the one that was used.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        made = f" = ({', '.join(self.inputs)})" if self.inputs else ""
        return f"{self.name} {list(self.shape)}{made}"


@dataclass(frozen=True)
class Call:
    """One call of a part of a model: its dotted name and class, and when it began and ended."""

    name: str
    kind: str
    began: int
    ended: int


@dataclass(frozen=True)
class Vertex:
    """A leaf or an operation of a graph, with all that is to be said of it.

    `inputs` are the places of the vertices that it was made from, each with which of their outputs
    was used; `shapes` are those of its own outputs. `calls` are the parts of the model that it was
    made in, the outermost first.
    """

    name: str
    kind: str  # "parameter", "leaf", "operation" or "view"
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    inputs: tuple[tuple[int, int], ...] = ()
    calls: tuple[Call, ...] = ()


def topological_order(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> list[Step]:
    """Return what `tensor` was made of, each after those it depends on, itself last.

    Operations are named by their primitive and numbered, leaves as in `names` (such as
    `dict(module.named_parameters())`) or numbered. To be called before backward frees the graph.
    """
    known = _known(names or {})
    counts: dict[str, int] = {}
    labels: dict[int, str] = {}
    steps = []
    for origin in _ordered([_origin_of(tensor)]):
        kind = origin.name if isinstance(origin, Node) else "leaf"
        counts[kind] = counts.get(kind, 0) + 1
        name, _ = known.get(id(origin), (f"{kind}_{counts[kind]}", None))
        labels[id(origin)] = name
        inputs = []
        for parent, at in _inputs(origin):
            several = isinstance(parent, Bundle)
            inputs.append(labels[id(parent)] + (f"[{at}]" if several else ""))
        steps.append(Step(name, origin.shape, tuple(inputs)))
    return steps


def vertices(
    tensors: Iterable[Tensor],
    names: Mapping[str, Tensor] | None = None,
    calls: Iterable[Call] = (),
) -> list[Vertex]:
    """Return the graph of `tensors`, each vertex after those it depends on.

    Raises GradientError if one has no graph, or its graph is freed.
    """
    known = _known(names or {})
    spans = sorted(calls, key=lambda call: call.began)
    places: dict[int, int] = {}
    found: list[Vertex] = []
    leaves = 0
    for origin in _ordered([_origin_of(tensor) for tensor in tensors]):
        places[id(origin)] = len(found)
        dtype = str(origin.dtype)
        if isinstance(origin, Leaf):
            leaves += 1
            name, tensor = known.get(id(origin), (f"leaf {leaves}", None))
            kind = "parameter" if isinstance(tensor, Parameter) else "leaf"
            found.append(Vertex(name, kind, (origin.shape,), dtype))
            continue
        file = origin.primitive.rule.__module__.rpartition(".")[2]
        shapes: tuple[tuple[int, ...], ...] = (origin.shape,)
        if isinstance(origin, Bundle):
            shapes = tuple(shape for shape, _ in origin.values)
        found.append(
            Vertex(
                origin.name,
                "view" if file in ("shape", "index", "observe") else "operation",
                shapes,
                dtype,
                tuple((places[id(parent)], at) for parent, at in _inputs(origin)),
                tuple(call for call in spans if call.began < origin.sequence < call.ended),
            )
        )
    return found


def trace(model: Module, inputs: Tensor | Sequence[Any]) -> list[Vertex]:
    """Run `model` on `inputs` (a tensor, or all positional arguments) and return the graph.

    Parameters have their dotted names, floating inputs are leaves named "input". The model runs
    as it is: call `eval()` first to leave batch statistics and random numbers alone.
    """
    names: dict[str, Tensor] = dict(model.named_parameters())
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    args = []
    for i, value in enumerate(given):
        if isinstance(value, Tensor) and (value.dtype.kind not in "iub"):
            value = Tensor(value.array, requires_grad=True)
            names["input" if len(given) == 1 else f"input {i}"] = value
        args.append(value)
    calls: list[Call] = []
    open_calls: list[int] = []
    with ExitStack() as hooks, enable_grad():
        for name, module in model.named_modules():
            if module is model:
                continue

            def begin(*_: Any) -> None:
                open_calls.append(next_sequence())

            def end(
                module: Module, *_: Any, name: str = name, kind: str = type(module).__name__
            ) -> None:
                calls.append(Call(name, kind, open_calls.pop(), next_sequence()))

            hooks.enter_context(module.register_forward_pre_hook(begin, prepend=True))
            hooks.enter_context(module.register_forward_hook(end))
        outputs = list(_tensors(model(*args)))
    if not outputs:
        raise UsageError(f"{type(model).__name__} returned no tensor that has a graph")
    return vertices(outputs, names, calls)


def _tensors(value: Any) -> Iterable[Tensor]:
    """Return the tensors with a graph in a model's output."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _known(names: Mapping[str, Tensor]) -> dict[int, tuple[str, Tensor | None]]:
    """Return the names and tensors by the identity of their place in the graph."""
    return {id(t.node): (name, t) for name, t in names.items() if t.node is not None}


def _origin_of(tensor: Tensor) -> Node | Leaf:
    if tensor.node is None:
        raise GradientError("this tensor has no graph: no input requires a gradient")
    return _whole(tensor.node)[0]


def _whole(origin: Node | Leaf) -> tuple[Node | Leaf, int]:
    """Return what an origin is an output of, and which: outputs of one primitive stand for it."""
    if isinstance(origin, Pick):
        _check(origin)
        return origin.parents[0], origin.at
    return origin, 0


def _inputs(origin: Node | Leaf) -> list[tuple[Node | Leaf, int]]:
    if isinstance(origin, Leaf):
        return []
    _check(origin)
    return [_whole(parent) for parent in origin.parents if parent is not None]


def _check(node: Node) -> None:
    if node.pullback is None:
        raise GradientError("the graph is freed: look at it before backward")


def _ordered(roots: Iterable[Node | Leaf]) -> list[Node | Leaf]:
    """Return the origins that `roots` depend on, depth first, each after those below it."""
    done: dict[int, Node | Leaf] = {}
    pending: list[tuple[Node | Leaf, bool]] = [(root, False) for root in reversed(list(roots))]
    while pending:
        origin, below_done = pending.pop()
        if id(origin) in done:
            continue
        if below_done:
            done[id(origin)] = origin
            continue
        pending.append((origin, True))
        pending.extend((parent, False) for parent, _ in reversed(_inputs(origin)))
    return list(done.values())
