"""Gradients as results: of chosen tensors, and with a graph of their own.

The rule: with `create_graph` cotangents are tensors, and every pullback is run on tensors, so that
the primitives it is made of record what it did. How a primitive's pullback gets there is what its
`second` says: see `primitive.py`.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import holdfast.core.tensor as tensors  # as modules: these need this one to be complete
from holdfast.core import primitive as driver
from holdfast.core.backend import array_module
from holdfast.core.backward import (
    SEQUENCE,
    Bundle,
    Into,
    Leaf,
    Node,
    Pick,
    check_usable,
    collect,
    fit,
    seen,
    stretched,
)
from holdfast.core.backward import backward as carry_back
from holdfast.core.errors import shape_error
from holdfast.core.recording import WATCHED, recording, set_grad_enabled
from holdfast.core.variable import Variable, raw
from holdfast.core.watch import observed
from holdfast.errors import GradientError, UsageError

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive
    from holdfast.core.tensor import Tensor

Origin = Node | Leaf


def grad(
    outputs: "Tensor | Sequence[Tensor]",
    inputs: "Tensor | Sequence[Tensor]",
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> "tuple[Tensor | None, ...]":
    """Return the gradient of `outputs` by each of `inputs`; no tensor's `.grad` changes.

    `grad_outputs` are the cotangents of the outputs, of their shapes; they may be left out for
    outputs of one element. With `create_graph` the results can be differentiated again. The graph
    is freed unless `retain_graph`, which follows `create_graph` if None. As torch.autograd.grad.

    Raises GradientError where an input has no part in the outputs (unless `allow_unused`, which
    gives None for it, or `materialize_grads`, which gives zeros), and where a primitive on the way
    refuses a second derivative.
    """
    if materialize_grads and allow_unused is False:
        raise UsageError("grad(): materialize_grads allows inputs without a part in the outputs")
    ends = [outputs] if isinstance(outputs, Variable) else list(outputs)
    asked = [inputs] if isinstance(inputs, Variable) else list(inputs)
    given = _listed("grad", grad_outputs, len(ends))
    for tensor in (*ends, *asked):
        if tensor.node is None:
            raise GradientError("grad() of, or by, a tensor that does not require a gradient")
    keep = create_graph if retain_graph is None else retain_graph
    seeds = [_seed("grad", end, g) for end, g in zip(ends, given, strict=True)]
    roots = [(end.node, seed) for end, seed in zip(ends, seeds, strict=True)]
    found = differentiate(roots, [tensor.node for tensor in asked], keep, create_graph)
    if materialize_grads:
        return tuple(
            driver.wrap(np.zeros_like(tensor.array)) if part is None else part
            for tensor, part in zip(asked, found, strict=True)
        )
    if not allow_unused:
        for i, part in enumerate(found):
            if part is None:
                raise GradientError(
                    f"input {i}, of shape {asked[i].shape}, has no part in the outputs: leave it "
                    "out, or say allow_unused=True"
                )
    return tuple(found)


def backward(
    tensors: "Tensor | Sequence[Tensor]",
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: "Tensor | Sequence[Tensor] | None" = None,
) -> None:
    """Add the gradients of several tensors, in one pass, to those of the leaves they depend on.

    `grad_tensors` are the cotangents of `tensors`, of their shapes; they may be left out for
    tensors of one element. With `inputs`, which are leaves, only theirs change. As
    torch.autograd.backward.
    """
    ends = [tensors] if isinstance(tensors, Variable) else list(tensors)
    for end in ends:
        if end.node is None:
            raise GradientError("backward() of a tensor that does not require a gradient")
    given = _listed("backward", grad_tensors, len(ends))
    seeds = tuple(_seed("backward", end, g) for end, g in zip(ends, given, strict=True))
    nodes = tuple(end.node for end in ends)
    if inputs is not None:
        leaves: list[Any] = [
            leaf.node for leaf in ([inputs] if isinstance(inputs, Variable) else inputs)
        ]
        if not all(isinstance(leaf, Leaf) for leaf in leaves):
            raise GradientError("backward(): inputs are leaves that require a gradient")
        roots = list(zip(nodes, seeds, strict=True))
        keep = create_graph if retain_graph is None else retain_graph
        _leave(leaves, differentiate(roots, leaves, keep, create_graph), create_graph)
        return
    # One node that all of them are the arguments of: what it hands back are the seeds.
    arrays = tuple(seed.array for seed in seeds)
    start = np.ones(())
    root = Node(_alias(), lambda g: seeds if isinstance(g, Variable) else arrays, nodes, start)
    if create_graph:
        backward_with_graph(root, start, retain_graph is not False)
    else:
        carry_back(root, start, bool(retain_graph))


def _listed(function: str, given: Any, count: int) -> list[Any]:
    cotangents = given if isinstance(given, (list, tuple)) else [given] * count
    if len(cotangents) != count or (count > 1 and isinstance(given, Variable)):
        raise UsageError(f"{function}(): {count} outputs need as many grad_outputs, in a sequence")
    return list(cotangents)


def _seed(function: str, output: "Tensor", given: Any) -> "Tensor":
    if given is None:
        if output.array.size != 1:
            raise GradientError(
                f"{function}(): an output of shape {output.shape} needs its grad_outputs: only an "
                "output of one element has 1 for a default"
            )
        ones = array_module(output.array).ones(output.shape, dtype=output.dtype)
        return driver.wrap(ones)
    seed: Tensor = given if isinstance(given, tensors.Tensor) else driver.wrap(np.asarray(given))
    if seed.shape != output.shape:
        raise shape_error(
            function, "grad_outputs in the outputs' shapes", output=output.shape, given=seed.shape
        )
    return seed


def differentiate(
    roots: "Sequence[tuple[Any, Tensor]]",
    targets: Sequence[Any],
    retain_graph: bool,
    create_graph: bool,
    beyond: bool = True,
) -> "list[Tensor | None]":
    """Carry the cotangents of the roots back to `targets`; return theirs, or None where none came.

    Only what lies between them is walked; without `beyond`, nothing that lies behind a target, not
    even where another target does.
    """
    wanted = {id(target) for target in targets}
    order = _between([root for root, _ in roots], wanted, beyond)
    cotangents: dict[int, Any] = {}

    def add(origin: Origin, part: "Tensor") -> None:
        before = cotangents.get(id(origin))
        cotangents[id(origin)] = part if before is None else before + part

    with set_grad_enabled(create_graph), np.errstate(all="ignore"):
        for root, seed in roots:
            add(root, seed)
        for node in order:
            g = cotangents.get(id(node)) if id(node) in wanted else cotangents.pop(id(node), None)
            if g is None:
                continue
            if node.hooks is not None:
                g = seen(node.hooks, g)
                if id(node) in wanted:
                    cotangents[id(node)] = g
            parents = node.parents
            if isinstance(node, Pick):
                parts = cotangents.setdefault(id(parents[0]), {})
                parts[node.at] = parts[node.at] + g if node.at in parts else g
            else:
                for parent, part in zip(parents, _pulled(node, g, create_graph), strict=False):
                    if parent is None or part is None:
                        continue
                    if id(parent) in wanted or isinstance(parent, Node):
                        add(parent, _fitted(part, parent))
            if not retain_graph:
                node.free()
        walked = {id(node) for node in order}
        for target in dict.fromkeys(targets):
            hooks = target.watchers if isinstance(target, Leaf) else target.hooks
            if hooks and id(target) in cotangents and id(target) not in walked:
                cotangents[id(target)] = seen(hooks, cotangents[id(target)])
    return [cotangents.get(id(target)) for target in targets]


def backward_with_graph(root: Any, seed: Any, retain_graph: bool) -> None:
    """Do what `backward` does, and let each leaf's gradient be a tensor with a graph."""
    leaves = [root] if isinstance(root, Leaf) else list(dict.fromkeys(collect(root)[1]))
    for leaf in leaves:
        leaf.pending = 0
    found = differentiate([(root, driver.wrap(seed))], leaves, retain_graph, create_graph=True)
    _leave(leaves, found, with_graph=True)


def _leave(leaves: list[Any], found: "list[Tensor | None]", with_graph: bool) -> None:
    """Add gradients to what the leaves hold, with the graph that made them or without."""
    for leaf, part in zip(leaves, found, strict=True):
        if part is None:
            continue
        before = leaf.traced
        if with_graph and before is None and leaf.filled:
            held: Any = leaf.gradient if leaf.shown is None else leaf.shown
            before = driver.wrap(held.copy())
        leaf.receive(part.array)
        if with_graph:
            leaf.traced = part if before is None else before + part
        leaf.finished()


def _between(roots: Sequence[Any], wanted: set[int], beyond: bool) -> list[Node]:
    """Return the nodes from `roots` down that lead to a wanted one, each before those it came from.

    Raises GradientError if one of them is freed, or reads what was changed in place.
    """
    nodes: list[Node] = [root for root in dict.fromkeys(roots) if isinstance(root, Node)]
    met = set(nodes)
    for node in nodes:  # grows while it is walked
        if id(node) in wanted and not beyond:
            continue
        for parent in node.parents:
            if isinstance(parent, Node) and parent not in met:
                met.add(parent)
                nodes.append(parent)
    nodes.sort(key=SEQUENCE)
    leads: set[int] = set()
    for node in nodes:
        if id(node) in wanted and not beyond:
            continue
        if any(id(parent) in wanted or id(parent) in leads for parent in node.parents):
            leads.add(id(node))
        if node.pullback is None and id(node) not in wanted:
            check_usable(node)
    between = [node for node in reversed(nodes) if id(node) in leads]
    for node in between:
        check_usable(node)
    return between


def _pulled(node: Node, g: Any, create_graph: bool) -> tuple[Any, ...]:
    """Return the cotangents of the node's arguments as tensors, as lists of callables and Nones."""
    if not create_graph:
        arrays = {i: raw(part) for i, part in g.items()} if isinstance(g, dict) else g.array
        if recording.mode & WATCHED:
            return observed(node.primitive, node.pullback, node.parents)(arrays)
        return node.pullback(arrays)  # type: ignore[misc]
    primitive = node.primitive
    if primitive.second in ("linear", "piecewise"):
        return node.pullback(g)  # type: ignore[misc]
    if node.call is None or primitive.second is None:
        raise GradientError(
            f"the gradient of {node.name!r} cannot be differentiated again: compute it by other "
            "primitives, or without create_graph"
        )
    arrays, options = node.call
    inputs = [
        array if parent is None else _standing_for(array, parent)
        for array, parent in zip(arrays, node.parents, strict=True)
    ]
    if primitive.second == "rerun":
        _, pullback = primitive.rule(*inputs, **options)
        return pullback(node.whole(g) if isinstance(node, Bundle) else g)
    assert callable(primitive.second)
    again = primitive.second(*inputs, **options)
    outs = again if isinstance(again, tuple) else (again,)
    parts = g if isinstance(g, dict) else {0: g}
    roots = [(outs[i].node, part) for i, part in parts.items() if outs[i].node is not None]
    found = differentiate(
        roots,
        [t.node for t in inputs if isinstance(t, tensors.Tensor)],
        retain_graph=True,
        create_graph=True,
        beyond=False,
    )
    cotangents = iter(found)
    return tuple(next(cotangents) if isinstance(t, tensors.Tensor) else None for t in inputs)


def _standing_for(array: Any, parent: Origin) -> "Tensor":
    """Return a tensor over `array` that the gradient flows back from to `parent`."""
    tensor = driver.wrap(array)
    tensor.node = Node(_alias(), lambda g: (g,), (parent,), tensor.array)
    return tensor


@cache
def _alias() -> "Primitive":
    """Return the primitive that names again what another node made; nobody calls it."""
    return driver.Primitive(
        "alias", lambda x: (x, lambda g: (g,)), lambda rng: (rng.normal(size=2),), False, "linear"
    )


def _fitted(part: Any, parent: Origin) -> "Tensor":
    """Return a cotangent as a tensor in the shape and dtype of what it belongs to."""
    if part.__class__ is Into or (callable(part) and not isinstance(part, Variable)):
        part = part()
    if not isinstance(part, Variable):
        return driver.wrap(fit(np.asarray(part), parent.shape, parent.dtype))
    tensor: Any = part
    if tensor.shape != parent.shape:
        axes = stretched(tensor.shape, parent.shape)
        tensor = tensor.sum(axes).reshape(parent.shape)
    return tensor.to(parent.dtype)  # type: ignore[no-any-return]
