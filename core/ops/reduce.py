"""Primitives that fold axes away: sums, means, spreads, extremes, norms."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.masks import kept
from holdfast.core.ops.precision import accumulator, in_float, quiet
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator
Axes = int | tuple[int, ...] | None


def _axis(rng: Rng) -> tuple[Any, ...]:
    dims: list[Axes] = [None, 1, -1, (0, -1), (0, 1, 2)]
    options = {"dim": dims[rng.integers(len(dims))], "keepdim": bool(rng.random() < 0.5)}
    return (rng.normal(size=(3, 4, 2)),), options


def unfold(g: Any, shape: tuple[int, ...], dim: Axes, keepdim: bool) -> Any:
    """Give `g` back the axes that a reduction over `dim` took, with size 1."""
    if keepdim or dim is None:
        return np.reshape(g, g.shape if keepdim else (1,) * len(shape))
    return np.expand_dims(g, dim)


def _folded(shape: tuple[int, ...], dim: Axes) -> int:
    """Return how many elements each result is made of."""
    if dim is None:
        return math.prod(shape)
    return math.prod(shape[d] for d in (dim if isinstance(dim, tuple) else (dim,)))


def _adding(dtype: Any) -> Any:
    """Return the dtype to add and multiply in: int64 for integers and booleans."""
    return accumulator(dtype) if is_floating(dtype) else np.dtype(np.int64)


@primitive(sample=_axis, second="linear")
def sum(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Add up over `dim` (all axes if None); integers and booleans give int64."""
    y = x.sum(axis=dim, keepdims=keepdim, dtype=_adding(x.dtype))
    if is_floating(x.dtype) and y.dtype != x.dtype:
        y = y.astype(x.dtype)
    return y, lambda g: (np.broadcast_to(unfold(g, x.shape, dim, keepdim), x.shape),)


@primitive(sample=_axis, second="linear")
def mean(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Average over `dim` (all axes if None)."""
    if not is_floating(x.dtype):
        raise UsageError(f"mean: expected a tensor of floats; found {x.dtype}: use x.float()")
    count = _folded(x.shape, dim)
    share = 1 / count if count else math.nan
    total = x.sum(axis=dim, keepdims=keepdim, dtype=accumulator(x.dtype))
    y = (total / count if count else total * share).astype(x.dtype, copy=False)
    return y, lambda g: (np.broadcast_to(unfold(g * share, x.shape, dim, keepdim), x.shape),)


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(3, 4, 2)),),
        {"dim": None if rng.random() < 0.3 else 1, "correction": int(rng.integers(2))},
    ),
    second="rerun",
)
@quiet
@in_float
def var(x: Any, *, dim: Axes = None, keepdim: bool = False, correction: float = 1) -> Ruled:
    """Return the variance over `dim`; `correction` is 1 for a sample, 0 for a population."""
    apart, scale = _apart(x, dim, correction)
    y = (apart * apart).sum(axis=dim, keepdims=keepdim) * scale
    return y, lambda g: (unfold(g * (2 * scale), x.shape, dim, keepdim) * apart,)


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(3, 4, 2)),),
        {"dim": None if rng.random() < 0.3 else (0, 1), "correction": int(rng.integers(2))},
    ),
    second="rerun",
)
@quiet
@in_float
def std(x: Any, *, dim: Axes = None, keepdim: bool = False, correction: float = 1) -> Ruled:
    """Return the standard deviation over `dim`; where it is 0 its gradient is 0."""
    apart, scale = _apart(x, dim, correction)
    y = np.sqrt((apart * apart).sum(axis=dim, keepdims=keepdim) * scale)

    def pullback(g: Any) -> tuple[Any]:
        return (unfold(g * scale / (y + np.equal(y, 0)), x.shape, dim, keepdim) * apart,)

    return y, pullback


def _apart(x: Any, dim: Axes, correction: float) -> tuple[Any, float]:
    """Return how far from their mean the elements are, and one over how many are free."""
    left = _folded(x.shape, dim) - correction
    return x - np.mean(x, axis=dim, keepdims=True), 1 / left if left > 0 else math.inf


@primitive(sample=_axis, second="rerun")
def amax(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the largest over `dim`; equal ones share the gradient."""
    y = np.max(x, axis=dim, keepdims=keepdim)
    return y, _shared(x, y, dim, keepdim)


@primitive(sample=_axis, second="rerun")
def amin(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the smallest over `dim`; equal ones share the gradient."""
    y = np.min(x, axis=dim, keepdims=keepdim)
    return y, _shared(x, y, dim, keepdim)


def _shared(x: Any, y: Any, dim: Axes, keepdim: bool) -> Pullback:
    def pullback(g: Any) -> tuple[Any]:
        equal = np.equal(x, unfold(y, x.shape, dim, keepdim))
        count = equal.sum(axis=dim, keepdims=True).astype(accumulator(g.dtype))
        return (unfold(g, x.shape, dim, keepdim) * equal / count,)

    return pullback


@primitive(sample=_axis, second="rerun")
@quiet
@in_float
def logsumexp(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the logarithm of the sum of exponentials over `dim`, without overflow."""
    top = np.max(raw(x), axis=dim, keepdims=True)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))
    e = np.exp(x - top)
    total = e.sum(axis=dim, keepdims=True)
    y = np.log(total) + top
    value = y if keepdim else np.squeeze(y, axis=dim)
    # Where all are -inf the total is 0, and so is the gradient.
    return value, lambda g: (unfold(g, x.shape, dim, keepdim) * (e / (total + np.equal(total, 0))),)


def _product(x: "Tensor", *, dim: Axes = None, keepdim: bool = False) -> "Tensor":
    """Multiply halves until one is left: that has every derivative, also at zeros."""
    left = x.reshape((-1,)) if dim is None else x
    axis = 0 if dim is None else int(dim)  # type: ignore[arg-type]
    front = (slice(None),) * (axis % left.ndim)
    while (size := left.shape[axis]) > 1:
        half = size // 2
        folded = left[(*front, slice(half))] * left[(*front, slice(half, 2 * half))]
        odd = left[(*front, slice(2 * half, None))]
        left = np.concatenate([folded, odd], axis=axis) if size % 2 else folded  # type: ignore
    if dim is None:
        return left.reshape((1,) * x.ndim if keepdim else ())
    return left if keepdim else left[(*front, 0)]


def _factors(rng: Rng) -> tuple[Any, ...]:
    x = rng.normal(size=(3, 4, 2))
    x[0, :, 0] *= rng.random(4) < 0.7
    return (x,), {"dim": None if rng.random() < 0.3 else int(rng.integers(-3, 3))}


@primitive(sample=_factors, second=_product)
def prod(x: Any, *, dim: int | None = None, keepdim: bool = False) -> Ruled:
    """Multiply over `dim` (all axes if None); integers and booleans give int64."""
    y = np.prod(x, axis=dim, keepdims=keepdim, dtype=_adding(x.dtype))
    if is_floating(x.dtype) and y.dtype != x.dtype:
        y = y.astype(x.dtype)

    def pullback(g: Any) -> tuple[Any]:
        # The product of the others: of all but the zeros, unless a zero is left among them.
        zero = np.equal(x, 0)
        others = np.where(zero, np.ones_like(x), x)
        product = np.prod(others, axis=dim, keepdims=True)
        alone = zero.sum(axis=dim, keepdims=True) == zero
        return (kept(alone, unfold(g, x.shape, dim, keepdim) * product / others),)

    return y, pullback


def _norms(rng: Rng) -> tuple[Any, ...]:
    (x,), options = _axis(rng)
    orders = [0, 0.5, 1, 1.5, 2, 3, math.inf, -math.inf]
    return (x,), {**options, "p": float(orders[rng.integers(len(orders))])}


@primitive(sample=_norms, second="rerun")
@quiet
@in_float
def norm(x: Any, *, p: float = 2.0, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the p-norm over `dim`: (sum |x|^p)^(1/p), the extremes of |x| for infinite `p`.

    For p = 0 it counts what is not 0. Its gradient where it is 0 is 0.
    """
    if p == 2:
        y = np.sqrt((x * x).sum(axis=dim, keepdims=keepdim))
        return y, lambda g: (x * unfold(g / (y + np.equal(y, 0)), x.shape, dim, keepdim),)
    if p == 0:
        y = np.not_equal(x, 0).sum(axis=dim, keepdims=keepdim).astype(x.dtype)
        return y, lambda g: (np.zeros_like(x),)
    size = np.abs(x)
    if p == 1:
        y = size.sum(axis=dim, keepdims=keepdim)
        return y, lambda g: (np.sign(x) * unfold(g, x.shape, dim, keepdim),)
    if math.isinf(p):
        y = (np.max if p > 0 else np.min)(size, axis=dim, keepdims=keepdim)
        spread = _shared(raw(size), raw(y), dim, keepdim)
        return y, lambda g: (np.sign(x) * spread(g)[0],)
    y = (size**p).sum(axis=dim, keepdims=keepdim) ** (1 / p)

    def pullback(g: Any) -> tuple[Any]:
        share = g / (y + np.equal(y, 0)) ** (p - 1)
        slope = np.sign(x) * (size + np.equal(size, 0)) ** (p - 1)
        return (slope * unfold(share, x.shape, dim, keepdim),)

    return y, pullback
