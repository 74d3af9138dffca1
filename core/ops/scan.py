"""Primitives whose elements fold all those before them: running sums, products, log-sums."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.ask import question
from holdfast.core.ops.masks import kept
from holdfast.core.ops.precision import accumulator, in_float, quiet
from holdfast.core.primitive import primitive

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Ruled = tuple[Any, Pullback]


def _axis(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 5, 2)),), {"dim": int(rng.integers(-3, 3))}


def _at(ndim: int, dim: int, part: slice) -> tuple[slice, ...]:
    """Return the index that takes `part` along `dim`."""
    return (slice(None),) * (dim % ndim) + (part,)


def _backwards(g: Any, dim: int) -> Any:
    """Add up from the end."""
    turned = _at(g.ndim, dim, slice(None, None, -1))
    return g[turned].cumsum(dim)[turned]


def _scan(x: Any, dim: int, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine each element with all before it, in log2(n) steps over arrays or tensors.

    W. D. Hillis and G. L. Steele, "Data Parallel Algorithms", 1986.
    """
    step = 1
    while step < x.shape[dim]:
        head, tail = _at(x.ndim, dim, slice(step)), _at(x.ndim, dim, slice(step, None))
        moved = combine(x[tail], x[_at(x.ndim, dim, slice(None, -step))])
        x = np.concatenate([x[head], moved], axis=dim)
        step *= 2
    return x


@primitive(sample=_axis, second="linear")
def cumsum(x: Any, *, dim: int) -> Ruled:
    """Add up along `dim`; integers and booleans give int64."""
    if not x.ndim:
        return x.copy(), lambda g: (g,)
    floating = is_floating(x.dtype)
    y = np.cumsum(x, axis=dim, dtype=accumulator(x.dtype) if floating else np.int64)
    return y.astype(x.dtype, copy=False) if floating else y, lambda g: (_backwards(g, dim),)


def _cumprod(x: "Tensor", *, dim: int) -> "Tensor":
    """Compute the same of other primitives."""
    made: Tensor = _scan(x, dim, lambda a, b: a * b) if x.ndim else x.clone()
    return made


def _factors(rng: np.random.Generator) -> tuple[Any, ...]:
    (x,), options = _axis(rng)
    return (x * (rng.random(x.shape) < 0.8),), options


@primitive(sample=_factors, second=_cumprod)
def cumprod(x: Any, *, dim: int) -> Ruled:
    """Multiply along `dim`; integers and booleans give int64."""
    if not x.ndim:
        return x.copy(), lambda g: (g,)
    wide = accumulator(x.dtype) if is_floating(x.dtype) else np.int64
    y = np.cumprod(x, axis=dim, dtype=wide)

    def pullback(g: Any) -> tuple[Any]:
        zero = np.equal(x, 0)
        if not zero.any():
            return (_backwards(g * y, dim) / x,)
        # What comes after the first zero has no influence, and before it all is as ever. Its own
        # gradient is the sum of the products without it.
        zeros = np.cumsum(zero, axis=dim)
        first = zero & (zeros == 1)
        others = np.where(zero, np.ones_like(x), x)
        without = np.cumprod(np.where(first, np.ones_like(x), x), axis=dim, dtype=wide)
        before = kept(zeros == 0, _backwards(g * y, dim) / others)
        return (before + kept(first, _backwards(g * without, dim)),)

    return y.astype(x.dtype, copy=False) if is_floating(x.dtype) else y, pullback


def _logcumsumexp(x: "Tensor", *, dim: int) -> "Tensor":
    """Compute the same of other primitives."""

    def combine(a: "Tensor", b: "Tensor") -> "Tensor":
        return a.maximum(b) + (-(a - b).abs()).exp().log1p()

    made: Tensor = _scan(x, dim, combine) if x.ndim else x.clone()
    return made


@primitive(sample=_axis, second=_logcumsumexp)
@quiet
@in_float
def logcumsumexp(x: Any, *, dim: int) -> Ruled:
    """Return the logarithms of the sums of exponentials along `dim`, without overflow."""
    if not x.ndim:
        return x.copy(), lambda g: (g,)
    y = _scan(x, dim, np.logaddexp)
    turned = _at(x.ndim, dim, slice(None, None, -1))

    def carried(weights: Any) -> Any:
        """Return exp(x) times the sums from the end of weights * exp(-y), all in logarithms."""
        return np.exp(x + _scan((np.log(weights) - y)[turned], dim, np.logaddexp)[turned])

    def pullback(g: Any) -> tuple[Any]:
        with np.errstate(divide="ignore"):  # the logarithm of 0 is to be -inf
            return (carried(np.maximum(g, 0)) - carried(np.maximum(-g, 0)),)

    return y, pullback


@question
def running_max(x: Any, dim: int) -> Any:
    """Return where the largest so far along `dim` is: the latest of equal ones, or a NaN."""
    return _latest(np.maximum.accumulate(x, axis=dim), x, dim)


@question
def running_min(x: Any, dim: int) -> Any:
    """Return where the smallest so far along `dim` is: the latest of equal ones, or a NaN."""
    return _latest(np.minimum.accumulate(x, axis=dim), x, dim)


def _latest(extreme: Any, x: Any, dim: int) -> Any:
    """Return the latest place up to each along `dim` where `x` is the extreme so far."""
    counted = array_module(x).arange(x.shape[dim]).reshape((-1,) + (1,) * (x.ndim - 1 - dim))
    places = np.where(np.equal(x, extreme) | np.isnan(x), counted, 0)
    return np.maximum.accumulate(places, axis=dim)
