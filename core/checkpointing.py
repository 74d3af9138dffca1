"""Memory for time: a part of the model that keeps nothing for backward and is run again there."""

from collections.abc import Callable
from typing import Any

from holdfast.core import random
from holdfast.core.amp import autocasts
from holdfast.core.backward import Bundle, Leaf, Node, Pick
from holdfast.core.changes import next_sequence
from holdfast.core.higher import differentiate
from holdfast.core.primitive import Primitive, wrap
from holdfast.core.recording import enable_grad, recording
from holdfast.core.variable import Variable
from holdfast.core.watch import as_watched
from holdfast.errors import UsageError


def checkpoint(
    function: Callable[..., Any], *arguments: Any, preserve_rng_state: bool = True, **options: Any
) -> Any:
    """Return `function(*arguments, **options)`, a tensor or a tuple of tensors.

    What the function computes on the way is not kept: backward runs it again (Chen, Xu, Zhang and
    Guestrin, "Training deep nets with sublinear memory cost", 2016). It must return the same each
    time; dropout does, as the generator is put back, unless `preserve_rng_state` is False.
    Gradients of what it closes over, such as a module's parameters, are found too. As
    torch.utils.checkpoint.checkpoint without reentrance.
    """
    if not recording.enabled:
        return function(*arguments, **options)
    state = random.get_state() if preserve_rng_state else None
    casts = autocasts()
    start = next_sequence()
    first = function(*arguments, **options)
    outs = first if isinstance(first, tuple) else (first,)
    if not all(isinstance(out, Variable) for out in outs):
        kinds = ", ".join(sorted({type(out).__name__ for out in outs}))
        raise UsageError(f"checkpoint: a tensor or a tuple of tensors was expected, found {kinds}")
    origins = _origins(outs, start)
    if not origins:
        return first

    def pullback(g: Any) -> tuple[Any, ...]:
        now = random.get_state()
        if state is not None:
            random.set_state(state)
        others = tuple(watcher for watcher in recording.watchers if watcher not in autocasts())
        with enable_grad(), as_watched((*others, *casts)):
            again = function(*arguments, **options)
        if state is not None:
            random.set_state(now)
        parts = g if isinstance(g, tuple) else (g,)
        returned = again if isinstance(again, tuple) else (again,)
        roots = [
            (out.node, wrap(part))
            for out, part in zip(returned, parts, strict=True)
            if isinstance(out, Variable) and out.node is not None
        ]
        found = differentiate(roots, origins, retain_graph=False, create_graph=False, beyond=False)
        return tuple(None if part is None else part.array for part in found)

    if not isinstance(first, tuple):
        made = wrap(first.array)
        made.node = Node(_CHECKPOINT, pullback, tuple(origins), made.array)
        return made
    bundle = Bundle(_CHECKPOINT, pullback, tuple(origins), tuple(out.array for out in outs))
    result = tuple(wrap(out.array) for out in outs)
    for i, (old, new) in enumerate(zip(outs, result, strict=True)):
        if old.node is not None:
            new.node = Pick(bundle, i, new.array)
    return result


def _origins(outs: tuple[Any, ...], start: int) -> list[Any]:
    """Return the leaves, and the nodes made before `start`, that `outs` came from."""
    found: dict[int, Any] = {}
    pending = [out.node for out in outs if isinstance(out, Variable) and out.node is not None]
    visited: set[int] = set()
    while pending:
        origin = pending.pop()
        if id(origin) in visited:
            continue
        visited.add(id(origin))
        if isinstance(origin, Leaf) or origin.sequence < start:
            found[id(origin)] = origin
        else:
            pending.extend(parent for parent in origin.parents if parent is not None)
    return list(found.values())


_CHECKPOINT = Primitive(
    "checkpoint", lambda x: (x, lambda g: (g,)), lambda rng: (rng.normal(size=2),), False, None
)
"""Names the node of a part that is run again; it is in no registry, since nobody calls it."""
