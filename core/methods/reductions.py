"""How a tensor is folded along axes: PyTorch's methods."""

import builtins
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np

from holdfast.core.methods.shapes import ShapeMethods, axis
from holdfast.core.ops import elementwise, gather, median, reduce, scan
from holdfast.core.ops.ask import ask
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Dims = int | Sequence[int] | None
Method = TypeVar("Method", bound=Callable[..., Any])
Truth = builtins.bool


class Extremes(NamedTuple):
    """What `max`, `min` and `median` along an axis return."""

    values: "Tensor"
    indices: "Tensor"


class Bounds(NamedTuple):
    """What `aminmax` returns."""

    min: "Tensor"
    max: "Tensor"


def numpy_names(method: Method) -> Method:
    """Let a method take NumPy's `axis` and `keepdims` for `dim` and `keepdim`, as PyTorch's do.

    As a function it takes its tensor as `input`.
    """

    @wraps(method)
    def call(input: Any, *arguments: Any, **options: Any) -> Any:
        if "axis" in options:
            options["dim"] = options.pop("axis")
        if "keepdims" in options:
            options["keepdim"] = options.pop("keepdims")
        return method(input, *arguments, **options)

    return cast(Method, call)


class ReductionMethods(ShapeMethods):
    """Sums, means, extremes. `dim` is an axis, several, or None for all of them."""

    __slots__ = ()

    # -- sums and products --------------------------------------------------------------------

    @numpy_names
    def sum(self, dim: Dims = None, keepdim: Truth = False, *, dtype: Any = None) -> "Tensor":
        """Add up over `dim`; integers and booleans give int64. `dtype` is converted to first."""
        total = reduce.sum(_as(self, dtype), dim=_axes(self, dim), keepdim=keepdim)
        return total if dtype is None else total.to(dtype)

    @numpy_names
    def nansum(self, dim: Dims = None, keepdim: Truth = False, *, dtype: Any = None) -> "Tensor":
        """Add up over `dim` what is not NaN."""
        numbers = elementwise.where(ask(self, question="isnan"), 0, _as(self, dtype))
        return reduce.sum(numbers, dim=_axes(self, dim), keepdim=keepdim)

    @numpy_names
    def mean(self, dim: Dims = None, keepdim: Truth = False, *, dtype: Any = None) -> "Tensor":
        """Average over `dim`. Raises UsageError for integers: give a `dtype` or convert them."""
        return reduce.mean(_as(self, dtype), dim=_axes(self, dim), keepdim=keepdim)

    @numpy_names
    def nanmean(self, dim: Dims = None, keepdim: Truth = False, *, dtype: Any = None) -> "Tensor":
        """Average over `dim` what is not NaN."""
        mine: Tensor = _as(self, dtype)
        numbers = ask(ask(self, question="isnan"), question="invert")
        return mine.nansum(dim, keepdim) / numbers.sum(dim, keepdim).to(mine.dtype)

    @numpy_names
    def prod(
        self, dim: int | None = None, keepdim: Truth = False, *, dtype: Any = None
    ) -> "Tensor":
        """Multiply over `dim`; integers and booleans give int64. `dtype` is converted to first."""
        total = reduce.prod(_as(self, dtype), dim=_axis(self, dim), keepdim=keepdim)
        return total if dtype is None else total.to(dtype)

    @numpy_names
    def logsumexp(self, dim: Dims, keepdim: Truth = False) -> "Tensor":
        """Return the logarithm of the sum of exponentials over `dim`."""
        return reduce.logsumexp(self, dim=_axes(self, dim), keepdim=keepdim)

    @numpy_names
    def cumsum(self, dim: int, dtype: Any = None) -> "Tensor":
        """Add up along `dim`, keeping every sum on the way. `dtype` is converted to first."""
        found = scan.cumsum(_as(self, dtype), dim=axis(dim, max(self.ndim, 1)))
        return found if dtype is None else found.to(dtype)

    @numpy_names
    def cumprod(self, dim: int, dtype: Any = None) -> "Tensor":
        """Multiply along `dim`, keeping every product on the way. `dtype` is converted to first."""
        found = scan.cumprod(_as(self, dtype), dim=axis(dim, max(self.ndim, 1)))
        return found if dtype is None else found.to(dtype)

    @numpy_names
    def logcumsumexp(self, dim: int) -> "Tensor":
        """Return the logarithms of the running sums of exponentials along `dim`."""
        return scan.logcumsumexp(self, dim=axis(dim, max(self.ndim, 1)))

    @numpy_names
    def cummax(self, dim: int) -> Extremes:
        """Return the named tuple (values, indices) of the largest so far along `dim`.

        Of equal ones it is the latest.
        """
        return self._running("running_max", dim)

    @numpy_names
    def cummin(self, dim: int) -> Extremes:
        """Return the named tuple (values, indices) of the smallest so far along `dim`.

        Of equal ones it is the latest.
        """
        return self._running("running_min", dim)

    def _running(self, where: str, dim: int) -> Extremes:
        at = axis(dim, max(self.ndim, 1))
        if not self.ndim:
            return self._extremes("argmax", dim, False)
        places = ask(self, question=where, dim=at)
        return Extremes(gather.gather(self, places, dim=at), places)

    # -- spreads and norms --------------------------------------------------------------------

    @numpy_names
    def var(
        self,
        dim: Any = None,
        unbiased: Truth | None = None,
        keepdim: Truth = False,
        *,
        correction: float | None = None,
    ) -> "Tensor":
        """Return the variance over `dim`.

        `correction` is taken from the number of elements: 1 by default, 0 where `unbiased` is
        False, which may also be given in the place of `dim`.
        """
        dim, correction = _corrected("var", self, dim, unbiased, correction)
        return reduce.var(self, dim=_axes(self, dim), keepdim=keepdim, correction=correction)

    @numpy_names
    def std(
        self,
        dim: Any = None,
        unbiased: Truth | None = None,
        keepdim: Truth = False,
        *,
        correction: float | None = None,
    ) -> "Tensor":
        """Return the standard deviation over `dim`, with the options of `var`."""
        dim, correction = _corrected("std", self, dim, unbiased, correction)
        return reduce.std(self, dim=_axes(self, dim), keepdim=keepdim, correction=correction)

    @numpy_names
    def norm(
        self, p: float | str | None = "fro", dim: Dims = None, keepdim: Truth = False,
        dtype: Any = None,
    ) -> "Tensor":  # fmt: skip
        """Return the vector norm over `dim`: `p` is any number, infinite ones too, or "fro" (2)."""
        if isinstance(p, str) and p != "fro":
            raise UsageError(f"norm: expected a number or 'fro' as p; found {p!r}")
        order = 2.0 if p is None or p == "fro" else float(p)
        return reduce.norm(_as(self, dtype), p=order, dim=_axes(self, dim), keepdim=keepdim)

    def dist(self, other: "Tensor", p: float = 2) -> "Tensor":
        """Return the p-norm of the difference."""
        return reduce.norm(elementwise.sub(self, other), p=float(p))

    # -- extremes -----------------------------------------------------------------------------

    @numpy_names
    def amax(self, dim: Dims = None, keepdim: Truth = False) -> "Tensor":
        """Return the largest over `dim`; equal ones share the gradient."""
        return reduce.amax(self, dim=_axes(self, dim), keepdim=keepdim)

    @numpy_names
    def amin(self, dim: Dims = None, keepdim: Truth = False) -> "Tensor":
        """Return the smallest over `dim`; equal ones share the gradient."""
        return reduce.amin(self, dim=_axes(self, dim), keepdim=keepdim)

    @numpy_names
    def aminmax(self, *, dim: int | None = None, keepdim: Truth = False) -> Bounds:
        """Return the smallest and the largest over `dim`, as the named tuple (min, max)."""
        return Bounds(self.amin(dim, keepdim), self.amax(dim, keepdim))

    @numpy_names
    def max(self, dim: Any = None, keepdim: Truth = False, *, other: Any = None) -> Any:
        """Return the largest element; along `dim`, the named tuple (values, indices).

        With a tensor `other`, also in the place of `dim`, return the larger of the two by element.
        """
        if other is not None or isinstance(dim, Variable):
            return elementwise.maximum(self, dim if other is None else other)
        return self.amax() if dim is None else self._extremes("argmax", dim, keepdim)

    @numpy_names
    def min(self, dim: Any = None, keepdim: Truth = False, *, other: Any = None) -> Any:
        """Return the smallest element; along `dim`, the named tuple (values, indices).

        With a tensor `other`, also in the place of `dim`, return the smaller of the two by element.
        """
        if other is not None or isinstance(dim, Variable):
            return elementwise.minimum(self, dim if other is None else other)
        return self.amin() if dim is None else self._extremes("argmin", dim, keepdim)

    @numpy_names
    def median(self, dim: int | None = None, keepdim: Truth = False) -> Any:
        """Return the median, whose gradient equal ones share; along `dim`, the named tuple (values,
        indices).

        Of two in the middle it is the lower one, and NaN where one is NaN.
        """
        return median.median(self) if dim is None else self._extremes("middle", dim, keepdim)

    @numpy_names
    def nanmedian(self, dim: int | None = None, keepdim: Truth = False) -> Any:
        """Return the median of what is not NaN, or along `dim` as `median` does."""
        if dim is None:
            return median.median(self, skip_nan=True)
        return self._extremes("middle", dim, keepdim, skip_nan=True)

    @numpy_names
    def mode(self, dim: int = -1, keepdim: Truth = False) -> Extremes:
        """Return the named tuple (values, indices) of what is most often along `dim`.

        Of several it is the smallest, at the last of its places.
        """
        return self._extremes("commonest", dim, keepdim)

    def _extremes(self, where: str, dim: int, keepdim: Truth, **options: Any) -> Extremes:
        if not self.ndim:
            axis(dim, 1)
            return Extremes(
                elementwise.clone(self), wrap(np.zeros_like(self.array, dtype=np.int64))
            )
        dim = axis(dim, self.ndim)
        indices = ask(self, question=where, axis=dim, **options).unsqueeze(dim)
        values = gather.gather(self, indices, dim=dim, unique=True)
        return (
            Extremes(values, indices)
            if keepdim
            else Extremes(values.squeeze(dim), indices.squeeze(dim))
        )

    @numpy_names
    def argmax(self, dim: int | None = None, keepdim: Truth = False) -> "Tensor":
        """Return where the largest is: an index into the flat elements, or along `dim`."""
        return ask(self, question="argmax", axis=_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def argmin(self, dim: int | None = None, keepdim: Truth = False) -> "Tensor":
        """Return where the smallest is: an index into the flat elements, or along `dim`."""
        return ask(self, question="argmin", axis=_axis(self, dim), keepdims=keepdim)

    # -- counts -------------------------------------------------------------------------------

    @numpy_names
    def all(self, dim: Dims = None, keepdim: Truth = False) -> "Tensor":
        """Return whether no element over `dim` is 0."""
        return ask(self, question="all", axis=_axes(self, dim), keepdims=keepdim)

    @numpy_names
    def any(self, dim: Dims = None, keepdim: Truth = False) -> "Tensor":
        """Return whether an element over `dim` is other than 0."""
        return ask(self, question="any", axis=_axes(self, dim), keepdims=keepdim)

    @numpy_names
    def count_nonzero(self, dim: Dims = None) -> "Tensor":
        """Return how many elements over `dim` are other than 0."""
        return ask(self, question="count_nonzero", axis=_axes(self, dim))


def var_mean(
    input: "Tensor",
    dim: Any = None,
    unbiased: Truth | None = None,
    keepdim: Truth = False,
    *,
    correction: float | None = None,
) -> "tuple[Tensor, Tensor]":
    """Return variance and mean over `dim`, with the options of `Tensor.var`."""
    over = None if isinstance(dim, Truth) else dim
    spread = input.var(dim, unbiased, keepdim, correction=correction)
    return spread, input.mean(over, keepdim)


def std_mean(
    input: "Tensor",
    dim: Any = None,
    unbiased: Truth | None = None,
    keepdim: Truth = False,
    *,
    correction: float | None = None,
) -> "tuple[Tensor, Tensor]":
    """Return standard deviation and mean over `dim`, with the options of `Tensor.var`."""
    over = None if isinstance(dim, Truth) else dim
    spread = input.std(dim, unbiased, keepdim, correction=correction)
    return spread, input.mean(over, keepdim)


def _as(tensor: Any, dtype: Any) -> Any:
    return tensor if dtype is None else tensor.to(dtype)


def _axes(tensor: Variable, dim: Dims) -> int | tuple[int, ...] | None:
    """Return axes as NumPy takes them, counted from the front; PyTorch means all by none."""
    if dim is None or isinstance(dim, int):
        return _axis(tensor, dim)
    ndim = tensor.array.ndim
    axes = tuple(axis(d, max(ndim, 1)) for d in dim)
    return axes if ndim and axes else None


def _axis(tensor: Variable, dim: int | None) -> int | None:
    """Return one axis counted from the front, or None for all; a number has an axis 0 too."""
    ndim = tensor.array.ndim
    at = None if dim is None else axis(dim, max(ndim, 1))
    return at if ndim else None


def _corrected(
    name: str, tensor: Variable, dim: Any, unbiased: Truth | None, correction: float | None
) -> tuple[Any, float]:
    """Return the axes and the correction of a variance."""
    if tensor.dtype.kind in "biu":
        raise UsageError(
            f"{name}: expected a tensor of floats; found {tensor.dtype}: use x.float()"
        )
    if isinstance(dim, Truth):
        dim, unbiased = None, dim
    if unbiased is not None:
        if correction is not None:
            raise UsageError(f"{name}: expected one of unbiased and correction; found both")
        return dim, float(unbiased)
    return dim, 1 if correction is None else correction
