"""How a tensor is folded along axes: PyTorch's methods."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from holdfast.core.methods.shapes import ShapeMethods
from holdfast.core.ops import reduce, shape
from holdfast.core.primitive import wrap

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Dims = int | Sequence[int] | None


class Extremes(NamedTuple):
    """What `max` and `min` along an axis return."""

    values: "Tensor"
    indices: "Tensor"


class ReductionMethods(ShapeMethods):
    """Sums, means, extremes."""

    __slots__ = ()

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


def _axes(dim: Dims) -> int | tuple[int, ...] | None:
    return dim if dim is None or isinstance(dim, int) else tuple(dim)
