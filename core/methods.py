"""What a tensor can be asked for by name, other than operators: PyTorch's methods.

Each passes its arguments on to a primitive of `ops/`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from holdfast.core.backend import to_device
from holdfast.core.ops import activation, elementwise, linear, reduce, shape
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable, raw

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Dims = int | Sequence[int] | None


class Extremes(NamedTuple):
    """What `max` and `min` along an axis return."""

    values: "Tensor"
    indices: "Tensor"


class Methods(Variable):
    """The methods of a tensor that make another one."""

    __slots__ = ()

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
            same = self.device == target
            return cast("Tensor", self) if same else wrap(to_device(self.array, target))
        if np.dtype(target) == self.array.dtype:
            return cast("Tensor", self)
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
        return (
            Extremes(values, indices)
            if keepdim
            else Extremes(values.squeeze(dim), indices.squeeze(dim))
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
        merged = first != last
        return (
            self.reshape(*sizes[:first], -1, *sizes[last + 1 :]) if merged else cast("Tensor", self)
        )

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
        ordered = self.array.flags.c_contiguous
        return cast("Tensor", self) if ordered else elementwise.clone(self)


def _axes(dim: Dims) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Take sizes given one by one or as one sequence."""
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return tuple(sizes[0])
    return sizes
