"""An operation of a user's own: its forward and its backward, both on tensors, as PyTorch has it.

The rule: `forward` leaves no graph; what it returns is the output of one node, whose pullback calls
`backward`. Where the gradient is to have a graph, `backward` runs with one, and what it computes
with is differentiated as anything else.
"""

import inspect
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import numpy as np

from holdfast.core.backend import Array, is_floating
from holdfast.core.backward import Bundle, Leaf, Node, Pick, Pullback
from holdfast.core.changes import changed_since
from holdfast.core.errors import shape_error
from holdfast.core.primitive import Primitive, wrap
from holdfast.core.recording import no_grad, recording
from holdfast.core.tensor import Tensor
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError, UsageError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Saved:
    """A tensor as it was saved: whose output it is, or the place where its gradient goes."""

    array: Array
    origin: Node | Leaf | None
    output: int | None
    """Which output of the function itself it is: these have no origin here, as that would be a
    cycle which keeps the memory until Python looks for such."""


class FunctionCtx:
    """What `forward` hands on to `backward`: saved tensors, and any attribute that is set.

    `needs_input_grad` says of each argument of `apply` whether its gradient is needed.
    """

    def __init__(self, name: str, origins: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(origin is not None for origin in origins)
        self._name = name
        self._origins = origins
        self._to_save: tuple[Tensor | None, ...] = ()
        self._saved: tuple[_Saved | None, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._zeros = True
        self._made: weakref.ref[Any] | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep arguments, outputs or other tensors for backward; to be called once.

        Unlike attributes they are watched: backward refuses one that was changed in place. Only
        arguments and outputs have gradients of their own in a second derivative.
        """
        for i, tensor in enumerate(tensors):
            if not (tensor is None or isinstance(tensor, Tensor)):
                raise TypeError(
                    f"save_for_backward takes tensors and None, argument {i} is of type "
                    f"{type(tensor).__name__}: keep that as an attribute, ctx.name = value"
                )
        self._to_save = tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say which outputs have no gradient: backward gets zeros for them. Integers never have."""
        self._constant = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Let backward have zeros (the default), or None, for outputs that no gradient came to."""
        self._zeros = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What was saved for backward, in order.

        Raises GradientError if one of them was changed in place since.
        """
        return tuple(None if saved is None else self._found(saved) for saved in self._saved)

    def _found(self, saved: _Saved) -> Tensor:
        made = None if self._made is None else self._made()
        tensor = wrap(saved.array)
        tensor.node = saved.origin
        if made is None:
            return tensor
        at = made.sequence
        changed = saved.origin is not None and saved.origin.changed > at
        if changed or changed_since((saved.array,), at) is not None:
            raise GradientError(
                f"a tensor of shape {tensor.shape} that {self._name!r} saved for backward was "
                "changed in place: its gradient would be wrong; change a clone(), or run the "
                "forward pass again after the change"
            )
        if saved.output is not None:
            several = isinstance(made, Bundle)
            tensor.node = Pick(made, saved.output, saved.array) if several else made
        return tensor

    def _keep(self, made: "_One | _Several") -> None:
        """Take hold of what is to be saved, once the outputs are known."""
        self._made = weakref.ref(made)
        self._saved = tuple(None if t is None else _saved(t, made) for t in self._to_save)
        self._to_save, self._constant = (), ()


def _saved(tensor: Tensor, made: "_One | _Several") -> _Saved:
    node = tensor.node
    if node is made:
        return _Saved(tensor.array, None, 0)
    if isinstance(node, Pick) and node.parents[0] is made:
        return _Saved(tensor.array, None, node.at)
    return _Saved(tensor.array, node, None)


class _One(Node):
    """The output of a function that has one."""

    __slots__ = ("__weakref__",)


class _Several(Bundle):
    """The outputs of a function that has several; what no cotangent came to is None."""

    __slots__ = ("__weakref__",)

    def whole(self, parts: dict[int, Any]) -> tuple[Any, ...]:
        """Return one entry per output."""
        return tuple(parts.get(i) for i in range(len(self.values)))


class Function:
    """Base of operations with a backward of their own: define `forward` and `backward`.

        class Cube(Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x**3

            @staticmethod
            def backward(ctx, g):
                (x,) = ctx.saved_tensors
                return 3 * x**2 * g

        y = Cube.apply(x)

    As torch.autograd.Function, without `mark_dirty`, `jvp` and `vmap`: forward changes none of its
    arguments.
    """

    _primitive: ClassVar[Primitive]

    def __init_subclass__(cls) -> None:
        # Names the node. Saved tensors are checked for changes when backward asks for them, and
        # nothing else is read: to the driver the pullback is a linear one.
        cls._primitive = Primitive(cls.__name__, _same, _drawn, promote=False, second="linear")

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Return a tensor, or a tuple that holds some, of `(ctx, *arguments)`.

        Without `ctx` where there is a `setup_context`.
        """
        raise NotImplementedError("a Function has no forward(): define it, as a staticmethod")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Fill `ctx` from the arguments and the result of a `forward` that does not know it."""
        raise NotImplementedError("setup_context() is defined by functions that need it")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Return the gradients of the arguments, of which those of the outputs are given.

        One per argument of `apply`, in a tuple if there are several, None for what has no gradient.
        """
        raise NotImplementedError("a Function has no backward(): define it, as a staticmethod")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Return what `forward` does, as the output of one operation.

        Gradients flow to the tensors among `args`, not to those within lists and the like. Keyword
        arguments are for functions with a `setup_context`. Raises UsageError if forward returns no
        tensor; backward raises GradientError for another number of gradients than of arguments,
        and ShapeError for one of another shape.
        """
        name = cls.__name__
        split = cls.setup_context is not Function.setup_context
        if split:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        elif kwargs:
            raise TypeError(
                f"{name}.apply takes keyword arguments only where {name} has a setup_context"
            )
        origins = tuple(arg.node if isinstance(arg, Variable) else None for arg in args)
        ctx = FunctionCtx(name, origins)
        with no_grad():
            if split:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        outs = list(result) if isinstance(result, tuple) else [result]
        if not any(isinstance(out, Tensor) for out in outs):
            kinds = ", ".join(type(out).__name__ for out in outs)
            raise UsageError(
                f"{name}.forward returns a tensor, or a tuple that holds some; found {kinds}"
            )
        cls._record(ctx, args, outs)
        return tuple(outs) if isinstance(result, tuple) else outs[0]

    @classmethod
    def _record(cls, ctx: FunctionCtx, args: tuple[Any, ...], outs: list[Any]) -> None:
        """Make the tensors among `outs`, which may be replaced, outputs of one node."""
        places = [i for i, out in enumerate(outs) if isinstance(out, Tensor)]
        recorded = recording.enabled and any(ctx.needs_input_grad)
        constant = {id(out) for out in ctx._constant}
        linked = {
            i
            for i in places
            if recorded and is_floating(outs[i].dtype) and id(outs[i]) not in constant
        }
        # What is no new tensor, or is there twice, keeps its own place in the graph.
        known = {id(arg) for arg in args}
        for i in places:
            out = outs[i]
            foreign = type(out) is not Tensor or id(out) in known
            if out.node is not None or (foreign and i in linked):
                outs[i] = wrap(out.array)
            known.add(id(out))
        if not linked:
            return
        values = tuple(outs[i].array for i in places)
        pullback = _pullback(cls, ctx, args, len(outs), places, values)
        made: _One | _Several
        if len(outs) == 1:
            made = outs[0].node = _One(cls._primitive, pullback, ctx._origins, values[0])
        else:
            made = _Several(cls._primitive, pullback, ctx._origins, values)
            for at, i in enumerate(places):
                if i in linked:
                    outs[i].node = Pick(made, at, values[at])
        ctx._keep(made)


def _pullback(
    function: type[Function],
    ctx: FunctionCtx,
    args: tuple[Any, ...],
    count: int,
    places: list[int],
    values: tuple[Array, ...],
) -> Pullback:
    """Return what calls the function's backward, on tensors, with the cotangents of its outputs."""
    name = function.__name__
    kinds = [(value.shape, value.dtype) for value in values]
    shapes = [arg.shape if isinstance(arg, Variable) else None for arg in args]

    def pullback(g: Any) -> tuple[Any, ...]:
        came = g if isinstance(g, tuple) else (g,)
        some = next(raw(part) for part in came if part is not None)
        # The driver carries tensors where their graph is wanted, and arrays where it is not.
        with_graph = any(isinstance(part, Variable) for part in came)
        grads: list[Any] = [None] * count
        for place, part, (shape, dtype) in zip(places, came, kinds, strict=True):
            if part is None and ctx._zeros:
                part = np.zeros_like(some, dtype=dtype, shape=shape)
            grads[place] = part if part is None or isinstance(part, Variable) else wrap(part)
        with nullcontext() if with_graph else no_grad():
            found = function.backward(ctx, *grads)
        parts = _checked(name, found, shapes)
        return parts if with_graph else tuple(raw(part) for part in parts)

    return pullback


def _checked(name: str, found: Any, shapes: list[Shape | None]) -> tuple[Any, ...]:
    """Return what a backward returned as one tensor or None per argument of the function."""
    parts = found if isinstance(found, tuple) else (found,)
    count = len(shapes)
    if len(parts) < count or any(part is not None for part in parts[count:]):
        raise GradientError(
            f"{name}.backward returned {len(parts)} gradients, and {name} has {count} arguments: "
            "return one for each, None for those that have no gradient"
        )
    for i, (part, shape) in enumerate(zip(parts, shapes, strict=False)):
        if part is None:
            continue
        if not isinstance(part, Tensor):
            raise GradientError(
                f"{name}.backward returns tensors and None; gradient {i} is of type "
                f"{type(part).__name__}"
            )
        if shape is None:
            raise GradientError(
                f"{name}.backward returned a gradient for argument {i}, which is no tensor: "
                "return None for it"
            )
        if part.shape != shape and not _broadcasts(shape, part.shape):
            raise shape_error(
                f"{name}.backward", f"gradient {i} in its argument's shape",
                argument=shape, gradient=part.shape,
            )  # fmt: skip
    return parts[:count]


def _broadcasts(shape: Shape, wide: Shape) -> bool:
    """Return whether `shape` broadcasts to `wide`: then the gradient is summed back, as always."""
    return len(shape) <= len(wide) and all(
        n in (1, m) for n, m in zip(shape[::-1], wide[::-1], strict=False)
    )


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Run a `backward` without a graph, so that a second derivative is refused, not wrong.

    For one that leaves primitives, to compute with NumPy say; to be put below `@staticmethod`.
    """

    @wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            found = backward(ctx, *grads)
        if not recording.enabled:
            return found
        origins = (*ctx._origins, *(g.node for g in grads if isinstance(g, Variable)))

        def refuse(_: Any) -> tuple[Any, ...]:
            raise GradientError(
                f"the gradient of {ctx._name!r} cannot be differentiated again: its backward is "
                "once_differentiable"
            )

        def refusing(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            tensor = wrap(part.array)
            tensor.node = Node(_ONCE, refuse, origins, part.array)
            return tensor

        return tuple(map(refusing, found)) if isinstance(found, tuple) else refusing(found)

    return once


def _same(x: Any) -> tuple[Any, Pullback]:
    """Stand for the rule of what only names a node; nobody calls it."""
    return x, lambda g: (g,)


def _drawn(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=2),)


_ONCE = Primitive("once_differentiable", _same, _drawn, promote=False, second="linear")
