"""The graph of a computation, to look at.

The names are those of the primitives; a leaf is named by who looks, as tensors have no names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.core.backward import Leaf, Node
from holdfast.core.tensor import Tensor
from holdfast.errors import GradientError


@dataclass(frozen=True)
class Step:
    """One tensor of a graph: its name, its shape, and the names of those it was made from.

    The inputs that require no gradient are not part of the graph.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        made = f" = ({', '.join(self.inputs)})" if self.inputs else ""
        return f"{self.name} {list(self.shape)}{made}"


def topological_order(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> list[Step]:
    """Return what `tensor` was made of, each after those it depends on, itself last.

    Operations are named by their primitive and numbered, leaves as in `names` (such as
    `dict(module.named_parameters())`) or numbered. To be called before backward frees the graph.
    """
    if tensor.node is None:
        raise GradientError("this tensor has no graph: no input requires a gradient")
    known = {id(t.node): name for name, t in (names or {}).items() if t.node is not None}
    labels: dict[int, str] = {}
    counts: dict[str, int] = {}
    steps: list[Step] = []

    def label(node: Node | Leaf) -> str:
        kind = node.name if isinstance(node, Node) else "leaf"
        counts[kind] = counts.get(kind, 0) + 1
        return known.get(id(node), f"{kind}_{counts[kind]}")

    pending: list[tuple[Node | Leaf, bool]] = [(tensor.node, False)]
    while pending:  # depth first; a node is listed when all below it are
        node, below_done = pending.pop()
        if id(node) in labels:
            continue
        if isinstance(node, Node) and node.pullback is None:
            raise GradientError("the graph is freed: ask for its order before backward")
        parents = [p for p in node.parents if p is not None] if isinstance(node, Node) else []
        if not below_done and parents:
            pending.append((node, True))
            pending.extend((parent, False) for parent in reversed(parents))
            continue
        labels[id(node)] = label(node)
        inputs = tuple(labels[id(parent)] for parent in parents)
        steps.append(Step(labels[id(node)], node.shape, inputs))
    return steps
