"""The graph that operations leave behind, and the backward pass over it.

A `Node` is the output of a primitive, a `Leaf` the place where a gradient ends up. The graph holds
pullbacks, not tensors: what a pullback does not need is free as soon as the caller lets go of it.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from holdfast.core.backend import Array
from holdfast.core.changes import changed_since, changes, next_sequence
from holdfast.core.recording import WATCHED, recording
from holdfast.core.watch import observed
from holdfast.errors import GradientError

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive

Pullback = Callable[[Any], tuple[Any, ...]]
"""Maps the cotangent of a primitive's value to one cotangent per positional argument, optional ones
included: an array, None, or a callable that makes it when it is needed."""

SEQUENCE = attrgetter("sequence")


class Into:
    """A cotangent that can be written straight into the array where it is wanted.

    `write(out)` returns it in `out`, or in a new array where `out` is None. A weight's gradient
    goes into the arena this way, without a temporary.
    """

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Array | None], Array]) -> None:
        self.write = write

    def __call__(self) -> Array:
        """Return the cotangent in a new array."""
        return self.write(None)


class Node:
    """The output of one primitive: its pullback, and the nodes of its positional arguments.

    `cotangent` is the sum of the parts that have come, which may be shared with others and are
    never written to. `call` holds the arrays and options that the primitive was called with, where
    its second derivatives need them. `changed` is when the output was last changed in place, 0 for
    never.
    """

    __slots__ = (
        "call",
        "changed",
        "cotangent",
        "dtype",
        "hooks",
        "kept",
        "parents",
        "primitive",
        "pullback",
        "sequence",
        "shape",
    )

    def __init__(
        self,
        primitive: "Primitive",
        pullback: Pullback,
        parents: tuple[Any, ...],
        value: Array,
        call: tuple[Any, Any] | None = None,
    ) -> None:
        self.primitive = primitive
        self.pullback: Pullback | None = pullback
        self.parents = parents  # of each a Node, a Leaf, or None where none is needed
        self.shape = value.shape
        self.dtype = value.dtype
        self.call = call
        self.sequence = next_sequence()
        self.cotangent: Any = None
        self.changed = 0
        self.hooks: dict[int, Callable[[Any], Any]] | None = None
        self.kept: Any = None  # the cotangent as a tensor, where it was asked to stay

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    def free(self) -> None:
        """Let go of what backward needed."""
        self.pullback, self.parents, self.call = None, (), None


class Bundle(Node):
    """The outputs of a primitive that has several: its pullback takes a tuple of cotangents.

    Each output is a `Pick` of it. Cotangents that nobody contributed to are zeros.
    """

    __slots__ = ("values",)

    def __init__(
        self,
        primitive: "Primitive",
        pullback: Pullback,
        parents: tuple[Any, ...],
        values: tuple[Array, ...],
        call: tuple[Any, Any] | None = None,
    ) -> None:
        super().__init__(primitive, lambda parts: pullback(self.whole(parts)), parents, values[0])
        self.call = call
        self.values = tuple((value.shape, value.dtype) for value in values)

    def whole(self, parts: dict[int, Any]) -> tuple[Any, ...]:
        """Return the cotangents of all outputs, of which `parts` holds those that there are."""
        zeros = np.zeros_like
        some = next(iter(parts.values()))
        return tuple(
            parts[i] if i in parts else zeros(some, dtype=dtype, shape=shape)
            for i, (shape, dtype) in enumerate(self.values)
        )

    def put(self, i: int, part: Any) -> tuple[None]:
        """Add `part` to the cotangent of output `i`."""
        if self.cotangent is None:
            self.cotangent = {}
        self.cotangent[i] = part if i not in self.cotangent else self.cotangent[i] + part
        return (None,)


class Pick(Node):
    """One output of a primitive that has several."""

    __slots__ = ("at",)

    def __init__(self, bundle: Bundle, at: int, value: Array) -> None:
        super().__init__(bundle.primitive, lambda g: bundle.put(at, g), (bundle,), value)
        self.at = at


class Leaf:
    """Where backward leaves a gradient: the graph's end at a tensor that requires one.

    `gradient` is written by the first contribution and added to by later ones, until `clear`.
    A `bound` leaf writes into memory that an arena gave it; others make their own. `changed` is
    when the tensor was last changed in place, on the scale of `Node.sequence`.
    """

    __slots__ = (
        "bound",
        "changed",
        "dtype",
        "filled",
        "gradient",
        "hooks",
        "incoming",
        "pending",
        "shape",
        "shown",
        "traced",
        "watchers",
    )

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = dtype
        self.gradient: Array | None = None
        self.filled = False
        self.bound = False
        self.changed = 0
        self.shown: Array | None = None  # what `.grad` shows instead, once sums are published
        self.traced: Any = None  # the gradient as a tensor with a graph, where one was asked for
        self.pending = 0  # contributions that the running backward has still to make
        self.incoming: Array | None = None  # what they add up to, if watchers are to see it first
        self.hooks: list[Callable[[], None]] = []
        self.watchers: dict[int, Callable[[Any], Any]] | None = None

    def receive(self, part: Any) -> None:
        """Write or add `part`, which may be shared with others and is never kept."""
        self.traced = None
        if self.filled:
            self.gradient += part  # half the overhead of np.add with out=
        else:
            if self.gradient is None:
                # A part without axes may be a NumPy scalar, which cannot be added to in place.
                self.gradient = np.array(part) if isinstance(part, np.generic) else part.copy()
            else:
                self.gradient[...] = part
            self.filled = True

    def gather(self, part: Any) -> None:
        """Add `part` to what the watchers will see at the end of this backward."""
        self.incoming = part if self.incoming is None else self.incoming + part

    def fill(self, part: Into) -> None:
        """Let the first contribution be computed in an arena's memory, or keep it where it is."""
        self.traced = None
        if self.bound:
            part.write(self.gradient)
        else:
            self.gradient = fit(part.write(None), self.shape, self.dtype)
        self.filled = True

    def finished(self) -> None:
        """Run the hooks, if there is a gradient: this backward has no further contribution."""
        if self.incoming is not None:
            part, self.incoming = seen(self.watchers, self.incoming), None
            self.receive(part)
        if self.filled:
            for hook in self.hooks:
                hook()

    def clear(self) -> None:
        """Forget the gradient; an arena's memory is kept and not touched."""
        self.filled = False
        self.shown = None
        self.traced = None
        if not self.bound:
            self.gradient = None


KEEP = -1
"""The key of the hook that keeps a gradient: it is called last, on what the others leave."""


def seen(hooks: dict[int, Callable[[Any], Any]] | None, g: Any) -> Any:
    """Return the cotangent `g` as the hooks, called in order, leave it."""
    for key, hook in tuple((hooks or {}).items()):
        g = g if key == KEEP else hook(g)
    if hooks and KEEP in hooks:
        hooks[KEEP](g)
    return g


def fit(part: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Sum a cotangent over the axes that broadcasting added or stretched; match the dtype."""
    if part.shape != shape:
        axes = stretched(part.shape, shape)
        part = part.sum(axis=axes).reshape(shape)
    return part if part.dtype == dtype else part.astype(dtype)


def stretched(wide: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of `wide` that broadcasting from `shape` added or stretched."""
    added = len(wide) - len(shape)
    return tuple(range(added)) + tuple(
        added + axis for axis, size in enumerate(shape) if size == 1 and wide[added + axis] != 1
    )


def check_usable(node: Node) -> None:
    """Raise GradientError if `node` is freed, or what its pullback reads was changed since."""
    if node.pullback is None:
        raise GradientError(
            f"backward reached {node.name!r}, whose graph an earlier backward has freed: "
            "run the forward pass again, or give the earlier one retain_graph=True"
        )
    if node.primitive.second == "linear":
        return  # reads none of the values that it was called with
    made = node.sequence
    for parent in node.parents:
        if parent is not None and parent.changed > made:
            raise GradientError(
                f"an argument of {node.name!r}, of shape {parent.shape}, was changed in place "
                "after it had been used: its gradient would be wrong; change a clone(), or run "
                "the forward pass again after the change"
            )
    if node.call is not None and changed_since(node.call[0], made) is not None:
        raise GradientError(
            f"an argument of {node.name!r} was changed in place after it had been used, perhaps "
            "through a view or detach(): its gradient would be wrong; change a clone(), or run "
            "the forward pass again after the change"
        )
    if node.changed:
        raise GradientError(
            f"the output of {node.name!r}, of shape {node.shape}, was changed in place: its "
            "gradient would be wrong; change a clone()"
        )


def collect(root: Node) -> tuple[list[Node], list[Leaf]]:
    """Return the nodes that `root` depends on, each before those it came from, and the leaves.

    Counts in each leaf the contributions that it will get. Raises GradientError if a part of the
    graph is freed, or reads what was changed in place.
    """
    nodes, visited = [root], {root}
    leaves: list[Leaf] = []
    try:
        for node in nodes:  # grows while it is walked
            pure = node.primitive.reads_nothing
            made = node.sequence
            if node.pullback is None or ((node.changed or changes) and not pure):
                check_usable(node)
            for parent in node.parents:
                if parent is None:
                    continue
                if parent.changed > made and not pure:
                    check_usable(node)
                if parent.__class__ is Leaf:
                    parent.pending += 1
                    leaves.append(parent)
                elif parent not in visited:
                    visited.add(parent)
                    nodes.append(parent)
    except GradientError:
        for leaf in leaves:
            leaf.pending = 0
        raise
    # A node is made after those it came from, so the order of making is a topological one.
    nodes.sort(key=SEQUENCE, reverse=True)
    return nodes, leaves


def backward(root: Node | Leaf, seed: Array, retain_graph: bool = False) -> None:
    """Carry the cotangent `seed` of `root` back to every leaf it depends on.

    Frees each node as it goes, unless `retain_graph`. Raises GradientError if a part of the graph
    is already freed, before any gradient is touched.
    """
    if isinstance(root, Leaf):
        root.receive(seen(root.watchers, seed))
        root.finished()
        return
    nodes, leaves = collect(root)
    root.cotangent = seed
    watched = recording.mode & WATCHED
    quiet = np.errstate(all="ignore")  # infinities and NaNs are for detect_anomaly() to tell of
    quiet.__enter__()
    try:
        for node in nodes:
            g, pullback, parents = node.cotangent, node.pullback, node.parents
            node.cotangent = None
            if node.hooks is not None and g is not None:
                g = seen(node.hooks, g)
            if not retain_graph:
                node.pullback, node.parents, node.call = None, (), None
            if watched:
                pullback = observed(node.primitive, pullback, parents)
            # No cotangent arrives where all that came from a node was not to be differentiated.
            parts = (None,) * len(parents) if g is None else pullback(g)  # type: ignore[misc]
            # Optional arguments that were left out have an entry, but no parent.
            for parent, part in zip(parents, parts, strict=False):
                if parent is None:
                    continue
                ends = parent.__class__ is Leaf
                if part is not None:
                    if part.__class__ is not ndarray:
                        if part.__class__ is Into and ends and takes(parent):
                            parent.fill(part)
                            part = None
                        elif callable(part):
                            part = part()
                    if part is not None:
                        # Arrays of one type share its object, so that identity nearly always tells.
                        if part.shape != parent.shape or part.dtype is not parent.dtype:
                            part = fit(part, parent.shape, parent.dtype)
                        if not ends:
                            mine = parent.cotangent
                            parent.cotangent = part if mine is None else mine + part
                        elif parent.watchers:
                            parent.gather(part)
                        else:
                            parent.receive(part)
                if ends:
                    parent.pending -= 1
                    if not parent.pending:
                        parent.finished()
    except BaseException:
        for node in nodes:
            node.cotangent = None
        for leaf in leaves:
            leaf.pending, leaf.incoming = 0, None
        raise
    finally:
        quiet.__exit__(None, None, None)


def takes(leaf: Leaf) -> bool:
    """Return whether a contribution is the first, and nobody wants to see it before it is kept."""
    return not leaf.filled and not leaf.watchers
