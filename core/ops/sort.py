"""Where elements come in an order, and how often: what sorting, searching and counting lead to.

These are questions (see `ask.py`), without a gradient: that of sorted elements is `gather`'s, at
the indices found here. NaN counts as larger than any number, as in PyTorch.
"""

import math
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.ops.ask import question
from holdfast.errors import UsageError

FEW = 16
"""So few of the largest are sought one by one."""


@question
def order(x: Any, dim: int, descending: bool = False, stable: bool = False) -> Any:
    """Return the indices that sort `x` along `dim`; with `stable` equal elements keep their order.

    Sorting is stable on every path where that is no slower.
    """
    kind: Any = "stable" if stable else None
    if not descending:
        return np.argsort(x, axis=dim, kind=kind)
    # Backwards, so that the larger come first, and equal ones from the end keep their order.
    last = x.shape[dim] - 1
    return last - np.flip(np.argsort(np.flip(x, dim), axis=dim, kind=kind), dim)


@question
def leading(x: Any, k: int, dim: int, largest: bool = True, ordered: bool = True) -> Any:
    """Return the indices of the `k` largest (or smallest) along `dim`, in their order if asked."""
    size = x.shape[dim]
    if 0 < k <= FEW and x.dtype.kind == "f":
        found = _one_by_one(x, k, dim, largest)
        if found is not None:
            return found
    if 2 * k > size or not k or x.dtype.kind not in "biuf":
        return _part(order(x, dim, descending=largest), 0, k, dim)
    at = np.argpartition(x, size - k if largest else k - 1, axis=dim)
    chosen = _part(at, size - k, size, dim) if largest else _part(at, 0, k, dim)
    if not ordered:
        return chosen
    among = order(np.take_along_axis(x, chosen, axis=dim), dim, descending=largest)
    return np.take_along_axis(chosen, among, axis=dim)


def _one_by_one(x: Any, k: int, dim: int, largest: bool) -> Any:
    """Return the indices of the leading floats, one search for each: quicker than a partition for
    few. None where an infinity or NaN among them cannot be told from one found before."""
    left = x.copy() if largest else -x
    found = []
    for _ in range(k):
        at = np.argmax(left, axis=dim, keepdims=True)
        found.append(at)
        np.put_along_axis(left, at, -np.inf, axis=dim)
    places = np.concatenate(found, axis=dim)
    values = np.take_along_axis(x, places, axis=dim)
    unsure = np.isneginf(values) if largest else ~(values < np.inf)
    return None if unsure.any() else places


@question
def kth(x: Any, k: int, dim: int) -> Any:
    """Return the indices (with an axis of size 1) of the `k`-th smallest along `dim`."""
    return _part(np.argsort(x, axis=dim, kind="stable"), k - 1, k, dim)


def _part(x: Any, start: int, stop: int, dim: int) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, stop),)]


@question
def commonest(x: Any, axis: int) -> Any:
    """Return where the most frequent is along `axis`: the smallest of them, its last place."""
    places = np.moveaxis(order(x, axis, stable=True), axis, -1)
    values = np.take_along_axis(np.moveaxis(x, axis, -1), places, axis=-1)
    counted = array_module(x).arange(values.shape[-1])
    first = np.ones_like(values, dtype=bool)
    first[..., 1:] = values[..., 1:] != values[..., :-1]
    starts = np.maximum.accumulate(np.where(first, counted, 0), axis=-1)
    # The longest run's length is first reached at its last element.
    best = np.argmax(counted - starts, axis=-1)
    return np.take_along_axis(places, best[..., None], axis=-1)[..., 0]


@question
def within(x: Any, sought: Any, invert: bool = False) -> Any:
    """Return where the elements are among those of `sought`, or where not if `invert`."""
    return np.isin(x, sought, invert=invert)


@question
def histogram(x: Any, bins: int, low: float, high: float) -> Any:
    """Return how many elements lie in each of the bins of equal width from `low` to `high`, or
    where these are equal from the least element to the largest."""
    if low == high and x.size:
        low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"histc: a finite range is expected; found {low} to {high}")
    counts, _ = np.histogram(x, bins=bins, range=(low, high))
    return counts.astype(x.dtype)


@question
def repeated(counts: Any) -> Any:
    """Return the places 0, 1, …, each as often as `counts` has it."""
    return np.repeat(array_module(counts).arange(counts.size), counts)


@question
def ranks(boundaries: Any, values: Any, right: bool = False) -> Any:
    """Return for each value how many of the sorted boundaries lie below it (or at it, if `right`).

    `boundaries` is (n,), or (..., n) beside values (..., m) of the same rows.
    """
    side: Any = "right" if right else "left"
    if boundaries.ndim == 1:
        return np.searchsorted(boundaries, values, side=side)
    if boundaries.shape[:-1] != values.shape[:-1]:
        raise ValueError("the rows of sorted_sequence and of the values must be the same")
    rows = boundaries.reshape(-1, boundaries.shape[-1])
    sought = values.reshape(len(rows), values.shape[-1])
    module = array_module(boundaries)
    found = module.empty(sought.shape, dtype=np.int64)
    for i in range(len(rows)):
        found[i] = np.searchsorted(rows[i], sought[i], side=side)
    return found.reshape(values.shape)


@question
def different(x: Any, dim: int | None = None) -> tuple[Any, Any, Any]:
    """Return the different elements, or slices along `dim`, in order; which of them each element
    is; and how often each occurs."""
    values, inverse, counts = np.unique(
        x, return_inverse=True, return_counts=True, axis=dim, equal_nan=False
    )
    return values, inverse.reshape(x.shape if dim is None else -1), counts


@question
def runs(x: Any) -> tuple[Any, Any, Any]:
    """Return the flat elements without those equal to the one before; in which run each element is;
    and how long each run is."""
    flat = x.reshape(-1)
    new = array_module(flat).ones(flat.size, dtype=bool)
    new[1:] = flat[1:] != flat[:-1]
    starts = np.flatnonzero(new)
    inverse = (np.cumsum(new) - 1).reshape(x.shape)
    return flat[starts], inverse, np.diff(starts, append=flat.size)


@question
def occurrences(x: Any, minlength: int = 0) -> Any:
    """Return how often each of 0, 1, … occurs."""
    return np.bincount(x, minlength=minlength)


@question
def nonzero(x: Any) -> Any:
    """Return the places (n, axes) of what is not zero."""
    return np.argwhere(x)


@question
def one_hot(x: Any, count: int) -> Any:
    """Return int64 zeros with a 1 at each of the integers, along a new last axis of `count`."""
    return (x[..., None] == array_module(x).arange(count)).astype(np.int64)
