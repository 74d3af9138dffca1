"""The graph that operations leave behind, and the backward pass over it.

A `Node` is the output of a primitive, a `Leaf` the place where a gradient ends up. The graph holds
pullbacks, not tensors: what a pullback does not need is free as soon as the caller lets go of it.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np

from holdfast.core.backend import Array
from holdfast.errors import GradientError

Pullback = Callable[[Array], tuple[Any, ...]]
"""Maps the cotangent of a primitive's value to one cotangent per positional argument, optional ones
included: an array, None, or a callable that makes it when it is needed."""

next_sequence = itertools.count().__next__
SEQUENCE = attrgetter("sequence")


class _Recording(threading.local):
    """Whether operations of this thread leave a graph behind."""

    enabled = True


recording = _Recording()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record no graph inside; a context manager and a decorator. Per thread."""
    before = recording.enabled
    recording.enabled = False
    try:
        yield
    finally:
        recording.enabled = before


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record the graph inside, even within `no_grad()`; a context manager and a decorator."""
    before = recording.enabled
    recording.enabled = True
    try:
        yield
    finally:
        recording.enabled = before


def is_grad_enabled() -> bool:
    """Return whether operations of this thread leave a graph behind."""
    return recording.enabled


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
    """The output of one primitive: its pullback, and the nodes of its positional arguments."""

    __slots__ = ("cotangent", "dtype", "name", "parents", "pullback", "sequence", "shape")

    def __init__(
        self, name: str, pullback: Pullback, parents: tuple[Any, ...], value: Array
    ) -> None:
        self.name = name
        self.pullback: Pullback | None = pullback
        self.parents = parents  # of each a Node, a Leaf, or None where none is needed
        self.shape = value.shape
        self.dtype = value.dtype
        self.sequence = next_sequence()
        self.cotangent: Array | None = None

    def receive(self, part: Array) -> None:
        """Add `part` to the cotangent. `part` may be shared with others: it is never written to."""
        mine = self.cotangent
        self.cotangent = part if mine is None else mine + part


class Leaf:
    """Where backward leaves a gradient: the graph's end at a tensor that requires one.

    `gradient` is written by the first contribution and added to by later ones, until `clear`.
    A `bound` leaf writes into memory that an arena gave it; others make their own.
    """

    __slots__ = ("bound", "dtype", "filled", "gradient", "hooks", "pending", "shape", "shown")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = dtype
        self.gradient: Array | None = None
        self.filled = False
        self.bound = False
        self.shown: Array | None = None  # what `.grad` shows instead, once sums are published
        self.pending = 0  # contributions that the running backward has still to make
        self.hooks: list[Callable[[], None]] = []

    def receive(self, part: Any) -> None:
        """Write or add `part`, which may be shared with others and is never kept."""
        if self.filled:
            np.add(self.gradient, part, out=self.gradient)  # type: ignore[arg-type]
        else:
            if self.gradient is None:
                # A part without axes may be a NumPy scalar, which cannot be added to in place.
                self.gradient = np.array(part) if isinstance(part, np.generic) else part.copy()
            else:
                self.gradient[...] = part
            self.filled = True

    def fill(self, part: Into) -> None:
        """Let the first contribution to an arena's memory be computed in place there."""
        part.write(self.gradient)
        self.filled = True

    def finished(self) -> None:
        """Run the hooks, if there is a gradient: this backward has no further contribution."""
        if self.filled:
            for hook in self.hooks:
                hook()

    def clear(self) -> None:
        """Forget the gradient; an arena's memory is kept and not touched."""
        self.filled = False
        self.shown = None
        if not self.bound:
            self.gradient = None


def fit(part: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Sum a cotangent over the axes that broadcasting added or stretched; match the dtype."""
    if part.shape != shape:
        added = part.ndim - len(shape)
        axes = tuple(range(added)) + tuple(
            added + axis
            for axis, size in enumerate(shape)
            if size == 1 and part.shape[added + axis] != 1
        )
        part = part.sum(axis=axes).reshape(shape)
    return part if part.dtype == dtype else part.astype(dtype)


def collect(root: Node) -> tuple[list[Node], list[Leaf]]:
    """Return the nodes that `root` depends on, each before those it came from, and the leaves.

    Counts in each leaf the contributions that it will get. Raises GradientError if a part of the
    graph is freed.
    """
    nodes, seen = [root], {root}
    leaves: list[Leaf] = []
    for node in nodes:  # grows while it is walked
        if node.pullback is None:
            for leaf in leaves:
                leaf.pending = 0
            raise GradientError(
                f"backward reached {node.name!r}, whose graph an earlier backward has freed: "
                "run the forward pass again, or give the earlier one retain_graph=True"
            )
        for parent in node.parents:
            if parent.__class__ is Leaf:
                parent.pending += 1
                leaves.append(parent)
            elif parent is not None and parent not in seen:
                seen.add(parent)
                nodes.append(parent)
    # A node is made after those it came from, so the order of making is a topological one.
    nodes.sort(key=SEQUENCE, reverse=True)
    return nodes, leaves


def backward(root: Node | Leaf, seed: Array, retain_graph: bool = False) -> None:
    """Carry the cotangent `seed` of `root` back to every leaf it depends on.

    Frees each node as it goes, unless `retain_graph`. Raises GradientError if a part of the graph
    is already freed, before any gradient is touched.
    """
    if isinstance(root, Leaf):
        root.receive(seed)
        root.finished()
        return
    nodes, leaves = collect(root)
    root.cotangent = seed
    try:
        for node in nodes:
            g, pullback, parents = node.cotangent, node.pullback, node.parents
            node.cotangent = None
            if not retain_graph:
                node.pullback, node.parents = None, ()
            # No cotangent arrives where all that came from a node was not to be differentiated.
            parts = (None,) * len(parents) if g is None else pullback(g)  # type: ignore[misc]
            # Optional arguments that were left out have an entry, but no parent.
            for parent, part in zip(parents, parts, strict=False):
                if parent is None:
                    continue
                ends = parent.__class__ is Leaf
                if part is not None:
                    if part.__class__ is Into and ends and parent.bound and not parent.filled:
                        parent.fill(part)
                    else:
                        if callable(part):
                            part = part()
                        if part.shape != parent.shape or part.dtype != parent.dtype:
                            part = fit(part, parent.shape, parent.dtype)
                        parent.receive(part)
                if ends:
                    parent.pending -= 1
                    if not parent.pending:
                        parent.finished()
    except BaseException:
        for node in nodes:
            node.cotangent = None
        for leaf in leaves:
            leaf.pending = 0
        raise
