"""What a tensor can be asked for as a sample of numbers: quantiles, counts, covariances, steps."""

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.errors import shape_error
from holdfast.core.methods.reductions import ReductionMethods, numpy_names
from holdfast.core.methods.shapes import axis
from holdfast.core.ops import elementwise, gather, linear, shape
from holdfast.core.ops.ask import ask
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Interpolation = Literal["linear", "lower", "higher", "midpoint", "nearest"]
_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


class SampleMethods(ReductionMethods):
    """Statistics."""

    __slots__ = ()

    # -- quantiles ----------------------------------------------------------------------------

    @numpy_names
    def quantile(
        self,
        q: Any,
        dim: int | None = None,
        keepdim: bool = False,
        *,
        interpolation: Interpolation = "linear",
    ) -> "Tensor":
        """Return the quantiles `q`, a number or numbers along one axis, over `dim` (all if None).

        Those of several are along a new first axis. A quantile between two elements is interpolated
        between them; it is NaN where an element is.
        """
        return self._quantile("quantile", q, dim, keepdim, interpolation, skip_nan=False)

    @numpy_names
    def nanquantile(
        self,
        q: Any,
        dim: int | None = None,
        keepdim: bool = False,
        *,
        interpolation: Interpolation = "linear",
    ) -> "Tensor":
        """Return the quantiles of what is not NaN, with the options of `quantile`."""
        return self._quantile("nanquantile", q, dim, keepdim, interpolation, skip_nan=True)

    def _quantile(
        self, name: str, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip_nan: bool
    ) -> "Tensor":
        module, dtype = array_module(self.array), self.array.dtype
        if interpolation not in _INTERPOLATIONS:
            raise UsageError(f"{name}: interpolation is one of {_INTERPOLATIONS}; {interpolation}")
        if dtype not in (np.float32, np.float64) or not self.array.size:
            raise UsageError(
                f"{name} takes elements of float32 or float64; found {dtype} of shape {self.shape}"
            )
        wanted: Any = q if isinstance(q, Variable) else wrap(module.asarray(q, dtype=dtype))
        if wanted.ndim > 1 or wanted.dtype != dtype:
            raise UsageError(
                f"{name}: q is a number, or {dtype} along one axis; found {wanted.dtype} of shape "
                f"{wanted.shape}"
            )
        if not ((wanted.array >= 0) & (wanted.array <= 1)).all():
            raise UsageError(f"{name}: expected q from 0 to 1; found {q}")
        rows = self.reshape(1, -1) if dim is None else self._rows(dim)
        size = rows.shape[1]
        ordered = rows.sort(-1).values
        number = ask(ask(rows, question="isnan"), question="invert")
        last = (number.sum(1, keepdim=True) - 1).clamp(0) if skip_nan else size - 1
        # NaN comes last: so it is found where it counts.
        complete = True if skip_nan else number.all(1, keepdim=True)
        line = wanted.reshape(1, -1).expand(rows.shape[0], wanted.numel())
        places = elementwise.where(complete, line * last, size - 1)
        below, above = _around(places, interpolation)
        value: Tensor = gather.gather(ordered, below.to(np.int64), dim=-1)
        if interpolation in ("linear", "midpoint"):
            weight = places - below if interpolation == "linear" else 0.5
            beyond = gather.gather(ordered, above.to(np.int64), dim=-1)
            value = elementwise.lerp(value, beyond, weight)
        left = _left(self.array.shape, dim, keepdim)
        value = value.reshape(*_left(self.array.shape, dim, False), -1)
        value = value.movedim(-1, 0)
        return value.reshape(left if not wanted.ndim else (wanted.shape[0], *left))

    def _rows(self, dim: int) -> "Tensor":
        """Return the elements along `dim` as the rows of a matrix."""
        if not self.array.ndim:
            axis(dim, 1)
            return self.reshape(1, 1)
        moved = self.movedim(dim, -1)
        return moved.reshape(-1, moved.shape[-1])

    # -- counts -------------------------------------------------------------------------------

    def histc(self, bins: int = 100, min: float = 0, max: float = 0) -> "Tensor":
        """Return how many elements lie in each of `bins` of equal width from `min` to `max`.

        Where these are equal they are those of the elements. What lies outside is not counted.
        """
        if bins < 1 or min > max:
            raise UsageError(f"histc: bins > 0 and min <= max; found {bins}, {min} and {max}")
        if not is_floating(self.array.dtype):
            raise UsageError(f"histc takes floats; found {self.array.dtype}: use x.float()")
        return ask(self, question="histogram", bins=bins, low=float(min), high=float(max))

    # -- covariances --------------------------------------------------------------------------

    def cov(self, *, correction: float = 1, fweights: Any = None, aweights: Any = None) -> "Tensor":
        """Return the covariances of variables, which are the rows, over observations, the columns.

        `fweights` says how often each observation occurs, `aweights` how much it weighs, and
        `correction` is taken from their number.
        """
        if self.array.ndim > 2:
            raise shape_error("cov", "a matrix at most", input=self.shape)
        rows = self.reshape(1, -1) if self.array.ndim < 2 else cast("Tensor", self)
        if not is_floating(rows.dtype):
            rows = rows.float()
        weights = _weights(rows, fweights, aweights)
        if weights is None:
            total: Any = rows.shape[1]
            apart = rows - rows.mean(1, keepdim=True)
            weighed = apart
        else:
            total = weights.sum()
            apart = rows - (rows * weights).sum(1, keepdim=True) / total
            weighed = apart * weights
        free = total - correction
        if weights is not None and aweights is not None and correction:
            free = total - (weights * aweights).sum() / total * correction
        free = free.clamp(0) if hasattr(free, "clamp") else float(max(free, 0))
        found = elementwise.div(linear.matmul(weighed, apart.T), free)
        return found if self.array.ndim == 2 else found.reshape(())

    def corrcoef(self) -> "Tensor":
        """Return the correlations of variables, which are the rows, over observations."""
        found = self.cov()
        if not found.ndim:
            return found / found
        spread = found.diagonal().sqrt()
        return (found / spread.unsqueeze(-1) / spread).clamp(-1, 1)

    # -- steps --------------------------------------------------------------------------------

    @numpy_names
    def diff(self, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> "Tensor":
        """Return each element less the one before along `dim`, `n` times over.

        `prepend` and `append` are joined to it first. Of booleans: where they change.
        """
        at = axis(dim, self.array.ndim)
        parts = [part for part in (prepend, self, append) if part is not None]
        left = shape.concatenate(*parts, dim=at) if len(parts) > 1 else cast("Tensor", self)
        if n < 0:
            raise UsageError(f"diff: expected n of 0 at least; found {n}")
        for _ in range(min(n, left.shape[at])):
            late, early = (
                left.narrow(at, 1, left.shape[at] - 1),
                left.narrow(at, 0, left.shape[at] - 1),
            )
            left = late.ne(early) if left.dtype == bool else late - early
        return left


def _around(places: Any, interpolation: str) -> tuple[Any, Any]:
    """Return the places below and above fractional ones, or twice the one that counts."""
    if interpolation == "nearest":
        return (places.round(),) * 2
    below, above = places.floor(), places.ceil()
    return above if interpolation == "higher" else below, above


def _left(own: tuple[int, ...], dim: int | None, keepdim: bool) -> tuple[int, ...]:
    """Return the shape that folding `dim` (all axes if None) away leaves."""
    if dim is None or not own:
        return (1,) * len(own) if keepdim else ()
    at = axis(dim, len(own))
    return (*own[:at], *(1,) * keepdim, *own[at + 1 :])


def _weights(rows: "Tensor", counts: Any, shares: Any) -> Any:
    """Return the weights of observations in the dtype of `rows`, or None."""
    given = [weights for weights in (counts, shares) if weights is not None]
    for weights in given:
        if weights.shape != (rows.shape[1],):
            raise shape_error(
                "cov", "a weight for each observation", input=rows.shape, weights=weights.shape
            )
    typed = [weights.to(rows.dtype) for weights in given]
    return None if not typed else typed[0] if len(typed) == 1 else typed[0] * typed[1]
