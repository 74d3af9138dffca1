"""A tensor: an array, how it came about, and what can be done with it.

Names, defaults and meaning are PyTorch's; the work is done by the primitives of `ops/`.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from holdfast.core.backward import Leaf, Node, recording
from holdfast.core.errors import shape_error
from holdfast.core.methods import Methods
from holdfast.core.ops import elementwise, linear, shape
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError


class Tensor(Methods):
    """An array with PyTorch's operators and methods; make one with `holdfast.core.tensor`.

    In-place operators (`+=`) change the array where no graph is recorded; where one is, they make
    a new tensor, and refuse a leaf that requires a gradient.
    """

    __slots__ = ()

    # -- gradient and data --------------------------------------------------------------------

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that backward left here, sharing its memory; None if there is none."""
        leaf = self.node
        if not isinstance(leaf, Leaf) or not leaf.filled:
            return None
        return wrap(leaf.gradient if leaf.shown is None else leaf.shown)

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        leaf = self.node
        if not isinstance(leaf, Leaf):
            raise GradientError("only a leaf that requires a gradient has one to set")
        if value is None:
            leaf.clear()
            return
        if value.shape != leaf.shape:
            raise shape_error("grad", "the tensor's own shape", tensor=self.shape, grad=value.shape)
        if leaf.filled and leaf.shown is not None:
            leaf.shown[...] = value.array
        else:
            leaf.clear()
            leaf.receive(value.array.astype(leaf.dtype, copy=False))

    def zero_grad(self) -> None:
        """Forget the gradient: the next backward starts a new one."""
        if isinstance(self.node, Leaf):
            self.node.clear()

    def register_post_accumulate_grad_hook(self, hook: "Callable[[Tensor], None]") -> None:
        """Call `hook(tensor)` when a backward has finished with this leaf's gradient.

        That is once per backward, after the last contribution, while backward goes on elsewhere;
        not at all where backward leaves no gradient.
        """
        if not isinstance(self.node, Leaf):
            raise GradientError("hooks can be set on leaves that require a gradient only")
        self.node.hooks.append(_weak_call(hook, self))

    @property
    def data(self) -> "Tensor":
        """The same memory without history. Assigning copies into that memory."""
        return wrap(self.array)

    @data.setter
    def data(self, value: "Tensor") -> None:
        self._store(value)

    def detach(self) -> "Tensor":
        """Return a tensor over the same memory that requires no gradient."""
        return wrap(self.array)

    def requires_grad_(self, value: bool = True) -> "Tensor":
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = value
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tensor":
        """Copy a leaf: its values, outside of any arena, without gradient and hooks."""
        if isinstance(self.node, Node):
            raise GradientError("only leaves can be copied deeply: detach() this tensor first")
        copied = type(self)(self.array.copy(), self.requires_grad)
        memo[id(self)] = copied
        return copied

    def clone(self) -> "Tensor":
        """Return a copy that the gradient flows back from."""
        return elementwise.clone(self)

    def _store(self, value: Any) -> "Tensor":
        """Copy `value` into this tensor's memory."""
        if isinstance(self.node, Node) and recording.enabled:
            raise GradientError(
                f"the output of {self.node.name!r} cannot be changed in place: its gradient "
                "would be wrong; work on a clone() or under no_grad()"
            )
        self.array[...] = raw(value)
        return self

    def _update(self, result: "Callable[[Any, Any], Tensor]", other: Any) -> "Tensor":
        """Do an in-place operator: in place without a graph, else as a new tensor."""
        linked = self.node is not None or (isinstance(other, Variable) and other.node is not None)
        if not (recording.enabled and linked):
            value = result(self.detach(), raw(other)).array
            if value.shape != self.shape:
                raise shape_error(
                    "in-place operation", "a result of x's shape", x=self.shape, result=value.shape
                )
            self.array[...] = value
            return self
        if isinstance(self.node, Leaf):
            raise GradientError(
                "a leaf that requires a gradient cannot be changed in place: do it under no_grad()"
            )
        return result(self, other)

    def copy_(self, source: Any) -> "Tensor":
        """Copy `source` in, with broadcasting; for use under no_grad() or on data."""
        self._refuse_leaf()
        return self._store(source)

    def fill_(self, value: float) -> "Tensor":
        """Set every element to `value`."""
        return self.copy_(value)

    def zero_(self) -> "Tensor":
        """Set every element to 0."""
        return self.copy_(0)

    def add_(self, other: Any, *, alpha: float = 1) -> "Tensor":
        """Add `alpha * other` in place."""
        return self.copy_(self.detach() + raw(other) * alpha)

    def mul_(self, other: Any) -> "Tensor":
        """Multiply in place."""
        return self.copy_(self.detach() * raw(other))

    def _refuse_leaf(self) -> None:
        if recording.enabled and isinstance(self.node, Leaf):
            raise GradientError(
                "a leaf that requires a gradient cannot be changed in place: do it under no_grad()"
            )

    # -- operators ----------------------------------------------------------------------------

    def __add__(self, other: Any) -> "Tensor":
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> "Tensor":
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> "Tensor":
        return elementwise.sub(self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return elementwise.sub(other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return elementwise.mul(self, other)

    def __rmul__(self, other: Any) -> "Tensor":
        return elementwise.mul(other, self)

    def __truediv__(self, other: Any) -> "Tensor":
        return elementwise.div(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return elementwise.div(other, self)

    def __pow__(self, other: Any) -> "Tensor":
        return elementwise.power(self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return elementwise.power(other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return linear.matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return linear.matmul(other, self)

    def __neg__(self) -> "Tensor":
        return elementwise.neg(self)

    def __abs__(self) -> "Tensor":
        return elementwise.absolute(self)

    def __iadd__(self, other: Any) -> "Tensor":
        return self._update(elementwise.add, other)

    def __isub__(self, other: Any) -> "Tensor":
        return self._update(elementwise.sub, other)

    def __imul__(self, other: Any) -> "Tensor":
        return self._update(elementwise.mul, other)

    def __itruediv__(self, other: Any) -> "Tensor":
        return self._update(elementwise.div, other)

    def __eq__(self, other: object) -> Any:
        return wrap(self.array == raw(other))

    def __ne__(self, other: object) -> Any:
        return wrap(self.array != raw(other))

    def __lt__(self, other: Any) -> "Tensor":
        return wrap(self.array < raw(other))

    def __le__(self, other: Any) -> "Tensor":
        return wrap(self.array <= raw(other))

    def __gt__(self, other: Any) -> "Tensor":
        return wrap(self.array > raw(other))

    def __ge__(self, other: Any) -> "Tensor":
        return wrap(self.array >= raw(other))

    def __invert__(self) -> "Tensor":
        return wrap(~self.array)

    def __and__(self, other: Any) -> "Tensor":
        return wrap(self.array & raw(other))

    def __or__(self, other: Any) -> "Tensor":
        return wrap(self.array | raw(other))

    __hash__ = Variable.__hash__  # a tensor is a key by identity, though == compares elements

    def __getitem__(self, at: Any) -> "Tensor":
        return shape.index(self, at=_indices(at))

    def __setitem__(self, at: Any, value: Any) -> None:
        given = isinstance(value, Variable) and value.node is not None
        if recording.enabled and (self.node is not None or given):
            raise GradientError(
                "elements of a tensor in a graph cannot be assigned: use where(), or no_grad()"
            )
        self.array[_indices(at)] = raw(value)

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))


def _indices(at: Any) -> Any:
    return tuple(raw(part) for part in at) if isinstance(at, tuple) else raw(at)


def _weak_call(hook: Callable[[Tensor], None], owner: Tensor) -> Callable[[], None]:
    """Bind `hook` to its tensor without keeping that alive from the graph."""
    reference = weakref.ref(owner)

    def call() -> None:
        tensor = reference()
        if tensor is not None:
            hook(tensor)

    return call
