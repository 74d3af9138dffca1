"""Primitives that fold axes away: sums, means, extremes."""

from typing import Any

import numpy as np

from holdfast.core.backend import Array
from holdfast.core.backward import Pullback
from holdfast.core.primitive import DEFAULT_FLOAT, primitive

Ruled = tuple[Any, Pullback]
Axes = int | tuple[int, ...] | None


def _axis(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4, 2)),), {"dim": (0, -1)}


def unfold(g: Any, shape: tuple[int, ...], dim: Axes, keepdim: bool) -> Any:
    """Give `g` back the axes that a reduction over `dim` took, with size 1."""
    if keepdim or dim is None:
        return np.reshape(g, g.shape if keepdim else (1,) * len(shape))
    return np.expand_dims(g, dim)


@primitive(sample=_axis)
def sum(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Add up over `dim` (all axes if None)."""
    y = x.sum(axis=dim, keepdims=keepdim)
    return y, lambda g: (np.broadcast_to(unfold(g, x.shape, dim, keepdim), x.shape),)


@primitive(sample=_axis)
def mean(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Average over `dim` (all axes if None)."""
    y = np.mean(x, axis=dim, keepdims=keepdim, dtype=None if x.dtype.kind == "f" else DEFAULT_FLOAT)
    share = np.size(y) / max(x.size, 1)
    return y, lambda g: (np.broadcast_to(unfold(g * share, x.shape, dim, keepdim), x.shape),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4, 2)),), {"dim": 1, "correction": 1}))
def var(x: Any, *, dim: Axes = None, keepdim: bool = False, correction: int = 1) -> Ruled:
    """Return the variance over `dim`; `correction` is 1 for a sample, 0 for a population."""
    apart = x - np.mean(x, axis=dim, keepdims=True)
    total = (apart * apart).sum(axis=dim, keepdims=keepdim)
    left = x.size / max(np.size(total), 1) - correction
    scale = 1 / left if left > 0 else float("nan")
    return total * scale, lambda g: (unfold(g * (2 * scale), x.shape, dim, keepdim) * apart,)


@primitive(sample=_axis)
def amax(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the largest over `dim`; equal ones share the gradient."""
    y = np.max(x, axis=dim, keepdims=keepdim)
    return y, _shared(x, y, dim, keepdim)


@primitive(sample=_axis)
def amin(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the smallest over `dim`; equal ones share the gradient."""
    y = np.min(x, axis=dim, keepdims=keepdim)
    return y, _shared(x, y, dim, keepdim)


def _shared(x: Array, y: Array, dim: Axes, keepdim: bool) -> Pullback:
    def pullback(g: Any) -> tuple[Any, ...]:
        chosen = np.equal(x, unfold(y, x.shape, dim, keepdim))
        count = chosen.sum(axis=dim, keepdims=True).astype(g.dtype)
        return (unfold(g, x.shape, dim, keepdim) * chosen / count,)

    return pullback


@primitive(sample=_axis)
def logsumexp(x: Any, *, dim: Axes = None, keepdim: bool = False) -> Ruled:
    """Return the logarithm of the sum of exponentials over `dim`, without overflow."""
    top = np.max(x, axis=dim, keepdims=True)
    e = np.exp(x - top)
    total = e.sum(axis=dim, keepdims=True)
    y = np.log(total) + top
    value = y if keepdim else np.squeeze(y, axis=dim)
    return value, lambda g: (unfold(g, x.shape, dim, keepdim) * (e / total),)
