"""A tensor: an array, how it came about, and what can be done with it.

Names, defaults and meaning are PyTorch's; the work is done by the primitives of `ops/`.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from holdfast.core.backend import to_device
from holdfast.core.backward import Leaf, Node, recording
from holdfast.core.errors import shape_error
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError

Dims = int | Sequence[int] | None


def wrap(value: Any) -> "Tensor":
    """Return a tensor over `value`, an array or a NumPy scalar; it requires no gradient."""
    out = Tensor.__new__(Tensor)
    out.array = np.asarray(value) if isinstance(value, np.generic) else value
    out.node = None
    return out


class Extremes(NamedTuple):
    """What `max` and `min` along an axis return."""

    values: "Tensor"
    indices: "Tensor"


class Tensor(Variable):
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
            raise shape_error(
                "grad", "the tensor's own shape", tensor=self.shape, grad=value.shape
            )
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

        That is once per backward, after the last contribution, while backward goes on elsewhere.
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
                raise shape_error("in-place operation", "a result of x's shape",
                                  x=self.shape, result=value.shape)
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

    # -- element by element -------------------------------------------------------------------

    def exp(self) -> "Tensor":
        """Return e to the power of each element."""
        return elementwise.exp(self)

    def log(self) -> "Tensor":
        """Return the natural logarithms."""
        return elementwise.log(self)

    def sqrt(self) -> "Tensor":
        """Return the square roots."""
        return elementwise.sqrt(self)

    def abs(self) -> "Tensor":
        """Return the absolute values."""
        return elementwise.absolute(self)

    def pow(self, exponent: Any) -> "Tensor":
        """Return the elements to the power `exponent`."""
        return elementwise.power(self, exponent)

    def relu(self) -> "Tensor":
        """Return max(x, 0)."""
        return activation.relu(self)

    def sigmoid(self) -> "Tensor":
        """Return 1 / (1 + exp(-x))."""
        return activation.sigmoid(self)

    def tanh(self) -> "Tensor":
        """Return the hyperbolic tangents."""
        return activation.tanh(self)

    def softmax(self, dim: int) -> "Tensor":
        """Return the exponentials along `dim`, scaled to sum to 1."""
        return activation.softmax(self, dim=dim)

    def log_softmax(self, dim: int) -> "Tensor":
        """Return the logarithms of the softmax along `dim`."""
        return activation.log_softmax(self, dim=dim)

    def clamp(self, min: float | None = None, max: float | None = None) -> "Tensor":
        """Limit to `min` and `max`."""
        return elementwise.clamp(self, low=min, high=max)

    def matmul(self, other: Any) -> "Tensor":
        """Multiply matrices; batches broadcast."""
        return linear.matmul(self, other)

    def to(self, target: Any) -> "Tensor":
        """Convert to a dtype, or move to the device "cpu" or "cuda" (a move leaves the graph)."""
        if isinstance(target, str) and target in ("cpu", "cuda"):
            return self if self.device == target else wrap(to_device(self.array, target))
        if np.dtype(target) == self.array.dtype:
            return self
        return elementwise.cast(self, dtype=np.dtype(target))

    def float(self) -> "Tensor":
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> "Tensor":
        """Convert to float64."""
        return self.to(np.float64)

    def long(self) -> "Tensor":
        """Convert to int64."""
        return self.to(np.int64)

    # -- reductions ---------------------------------------------------------------------------

    def sum(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Add up over `dim` (all axes if None)."""
        return reduce.sum(self, dim=_axes(dim), keepdim=keepdim)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Average over `dim` (all axes if None)."""
        return reduce.mean(self, dim=_axes(dim), keepdim=keepdim)

    def var(self, dim: Dims = None, keepdim: bool = False, correction: int = 1) -> "Tensor":
        """Return the variance over `dim` (all axes if None)."""
        return reduce.var(self, dim=_axes(dim), keepdim=keepdim, correction=correction)

    def std(self, dim: Dims = None, keepdim: bool = False, correction: int = 1) -> "Tensor":
        """Return the standard deviation over `dim` (all axes if None)."""
        return self.var(dim, keepdim, correction).sqrt()

    def logsumexp(self, dim: Dims, keepdim: bool = False) -> "Tensor":
        """Return the logarithm of the sum of exponentials over `dim`."""
        return reduce.logsumexp(self, dim=_axes(dim), keepdim=keepdim)

    def amax(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Return the largest over `dim`; equal ones share the gradient."""
        return reduce.amax(self, dim=_axes(dim), keepdim=keepdim)

    def amin(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Return the smallest over `dim`; equal ones share the gradient."""
        return reduce.amin(self, dim=_axes(dim), keepdim=keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Return the largest element; along `dim`, the named tuple (values, indices)."""
        return self.amax() if dim is None else self._extremes(np.argmax, dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Return the smallest element; along `dim`, the named tuple (values, indices)."""
        return self.amin() if dim is None else self._extremes(np.argmin, dim, keepdim)

    def _extremes(self, where: Callable[..., Any], dim: int, keepdim: bool) -> Extremes:
        at = np.expand_dims(where(self.array, axis=dim), dim)
        values, indices = shape.gather(self, at, dim=dim), wrap(at)
        return Extremes(values, indices) if keepdim else Extremes(
            values.squeeze(dim), indices.squeeze(dim)
        )

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        """Return where the largest is: an index into the flat elements, or along `dim`."""
        return wrap(np.argmax(self.array, axis=dim, keepdims=keepdim))

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        """Return where the smallest is: an index into the flat elements, or along `dim`."""
        return wrap(np.argmin(self.array, axis=dim, keepdims=keepdim))

    def gather(self, dim: int, index: "Tensor") -> "Tensor":
        """Return the elements at `index` along `dim`."""
        return shape.gather(self, raw(index), dim=dim)

    # -- shapes -------------------------------------------------------------------------------

    def reshape(self, *shape_: Any) -> "Tensor":
        """Return the elements in another shape; one size may be -1."""
        return shape.reshape(self, shape=_sizes(shape_))

    def view(self, *shape_: Any) -> "Tensor":
        """Do what `reshape` does: share memory where the layout allows it, else copy."""
        return shape.reshape(self, shape=_sizes(shape_))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Merge the axes from `start_dim` to `end_dim`."""
        sizes, ndim = self.array.shape, self.array.ndim
        if not ndim:
            return self.reshape(1)
        first, last = range(ndim)[start_dim], range(ndim)[end_dim]
        return self.reshape(*sizes[:first], -1, *sizes[last + 1 :]) if first != last else self

    def permute(self, *dims: Any) -> "Tensor":
        """Return a view with the axes in the order `dims`."""
        return shape.permute(self, dims=_sizes(dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Return a view with two axes exchanged."""
        dims = list(range(self.array.ndim))
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return shape.permute(self, dims=tuple(dims))

    def t(self) -> "Tensor":
        """Return the transpose of a matrix."""
        return self.T

    @property
    def T(self) -> "Tensor":
        """A view with the axes in reverse order."""
        return shape.permute(self, dims=tuple(range(self.array.ndim))[::-1])

    def squeeze(self, dim: int | None = None) -> "Tensor":
        """Drop axes of size 1: all of them, or `dim` if it is one."""
        sizes = self.array.shape
        drop = range(len(sizes)) if dim is None else [range(len(sizes))[dim]]
        return self.reshape(tuple(n for i, n in enumerate(sizes) if n != 1 or i not in drop))

    def unsqueeze(self, dim: int) -> "Tensor":
        """Add an axis of size 1 before `dim`."""
        sizes = list(self.array.shape)
        sizes.insert(range(len(sizes) + 1)[dim], 1)
        return self.reshape(tuple(sizes))

    def expand(self, *shape_: Any) -> "Tensor":
        """Return a view that repeats axes of size 1; -1 keeps an axis as it is."""
        sizes = _sizes(shape_)
        own = (1,) * (len(sizes) - self.array.ndim) + self.array.shape
        return shape.broadcast(
            self, shape=tuple(o if s == -1 else s for s, o in zip(sizes, own, strict=False))
        )

    def contiguous(self) -> "Tensor":
        """Return the tensor in row-major memory: itself if it is, else a copy."""
        return self if self.array.flags.c_contiguous else self.clone()


def _axes(dim: Dims) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Take sizes given one by one or as one sequence."""
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return tuple(sizes[0])
    return sizes


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


# The operations need the class above to make their results, hence at the end.
from holdfast.core.ops import activation, elementwise, linear, reduce, shape  # noqa: E402
