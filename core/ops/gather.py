"""Primitives that choose along one axis, for every element another place, and put there."""

import math
from typing import Any, Literal

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.accumulate import sum_elements
from holdfast.core.ops.adjoint import transpose
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


def region(x: Any, indices: Any, dim: int) -> Any:
    """Return the view of `x` that `indices` (of as many axes) reach along `dim`: on the other axes
    they may be smaller."""
    sizes = zip(indices.shape, x.shape, strict=True)
    if any(i > n for axis, (i, n) in enumerate(sizes) if axis != dim % x.ndim):
        raise ValueError(f"indices must not be larger than x but on axis {dim}")
    at = [slice(size) for size in indices.shape]
    at[dim] = slice(None)
    return x[tuple(at)]


def checked(indices: Any, size: int) -> Any:
    """Return indices from 0 to `size` - 1; those below 0 count from the end.

    Raises IndexError if one is out of range.
    """
    if indices.dtype.kind not in "iu":
        raise IndexError(f"indices are integers; found {indices.dtype}")
    if not indices.size:
        return indices
    least, most = indices.min(), indices.max()
    if least < -size or most >= size:
        raise IndexError(
            f"an index is out of range for an axis of {size} elements: found {least} to {most}"
        )
    return indices if least >= 0 else np.where(indices < 0, indices + size, indices)


def places(indices: Any, shape: tuple[int, ...], dim: int) -> Any:
    """Return where in the flat elements of an array of `shape` the indices along `dim` point."""
    module, axis = array_module(indices), dim % len(shape)
    flat: Any = 0
    for i, size in enumerate(shape):
        at = checked(indices, size) if i == axis else module.arange(indices.shape[i])
        flat = flat * size + (at if i == axis else at.reshape((-1,) + (1,) * (len(shape) - 1 - i)))
    return flat.reshape(-1)


def _picks(rng: np.random.Generator) -> tuple[Any, ...]:
    indices = np.array([[0, 2], [1, 1], [3, 0]]) if rng.random() < 0.5 else np.array([[3, 3, -1]])
    return (rng.normal(size=(3, 4)), indices), {"dim": int(rng.choice([1, -1]))}


@primitive(sample=_picks, second="linear")
def gather(x: Any, indices: Any, *, dim: int, unique: bool = False) -> Ruled:
    """Return `x[..., indices[...], ...]` along axis `dim`; `indices` has as many axes as `x`.

    `unique` promises that no element is chosen twice, as a sort does, for a quicker gradient.
    """
    shape = x.shape
    part = region(x, indices, dim)
    if x.flags.c_contiguous:
        value = np.take(x.reshape(-1), places(indices, shape, dim)).reshape(indices.shape)
    else:
        value = np.take_along_axis(part, indices, axis=dim)
    return value, lambda g: (
        transpose("deal", g, indices, dim=dim, shape=shape, unique=unique),
        None,
    )


def _dealt(rng: np.random.Generator) -> tuple[Any, ...]:
    (_, indices), options = _picks(rng)
    return (rng.normal(size=indices.shape), indices), {**options, "shape": (3, 4)}


@primitive(sample=_dealt, second="linear")
def deal(x: Any, indices: Any, *, dim: int, shape: tuple[int, ...], unique: bool = False) -> Ruled:
    """Return zeros of `shape` to which `x` is added at `indices` along `dim`: the transpose of
    `gather`. 16-bit floats are added in float32."""
    size, flat, elements = math.prod(shape), places(indices, shape, dim), x.reshape(-1)
    if unique:
        sums = array_module(x).zeros(size, dtype=x.dtype)
        sums[flat] = elements
    else:
        sums = sum_elements(size, flat, elements)
    return sums.reshape(shape), lambda g: (
        transpose("gather", g, indices, dim=dim, unique=unique),
        None,
    )


def _onto(rng: np.random.Generator) -> tuple[Any, ...]:
    indices = np.array([[0, 2], [1, 1], [2, 0]])
    return (rng.normal(size=(3, 4)), indices, rng.normal(size=(3, 2))), {"dim": 0}


@primitive(sample=_onto, second="linear")
def scatter(x: Any, indices: Any, source: Any, *, dim: int) -> Ruled:
    """Return `x` with the elements of `source`, or one number, at `indices` along `dim`.

    Where an element is hit more than once, one of them is stored.
    """
    region(x, indices, dim)  # refuses indices that reach beyond it
    value = x.copy()
    elements = source.reshape(-1) if hasattr(source, "dtype") else source
    value.reshape(-1)[places(indices, x.shape, dim)] = elements

    def pullback(g: Any) -> tuple[Any, ...]:
        return (
            lambda: transpose("scatter", g, indices, 0, dim=dim),
            None,
            lambda: transpose("gather", g, indices, dim=dim),
        )

    return value, pullback


Reduce = Literal["sum", "mean", "amax", "amin"]


def _met(rng: np.random.Generator) -> tuple[Any, ...]:
    arrays = rng.normal(size=(3, 4)), rng.integers(0, 3, (4, 3)), rng.normal(size=(4, 3))
    return arrays, {
        "dim": 0,
        "reduce": str(rng.choice(["sum", "mean", "amax", "amin"])),
        "include_self": bool(rng.random() < 0.5),
    }


@primitive(sample=_met, second="linear")
def scatter_reduce(
    x: Any, indices: Any, source: Any, *, dim: int, reduce: Reduce, include_self: bool = True
) -> Ruled:
    """Return `x` with each element reduced with those of `source` that `indices` lead to it.

    Without `include_self` the elements of `x` that are hit do not count themselves.
    """
    shape = x.shape
    flat = places(indices, shape, dim)
    hits = np.bincount(flat, minlength=x.size).reshape(shape)
    drop = None if include_self else hits > 0
    extreme = reduce in ("amax", "amin")
    floating = is_floating(x.dtype)
    half = floating and x.dtype.itemsize == 2
    total = x.astype(np.float32 if half else x.dtype, order="C")
    if drop is not None and not extreme:
        total[drop] = 0
    elif drop is not None:
        total[drop] = _neutral(total.dtype, reduce)
    combine = {"amax": np.maximum, "amin": np.minimum}.get(reduce, np.add)
    elements = total.reshape(-1)
    combine.at(elements, flat, source.reshape(-1).astype(total.dtype, copy=False))
    counts: Any = None
    if reduce == "mean":
        counts = np.maximum(hits + include_self, 1)
        if floating:
            total /= counts.astype(total.dtype)
        else:
            total //= counts
    value = total.astype(x.dtype, copy=False)

    def pullback(g: Any) -> tuple[Any, ...]:
        if not extreme:
            share = g if counts is None else g / counts.astype(g.dtype)
            by_x = share if drop is None else share * ~drop
            return by_x, None, lambda: transpose("gather", share, indices, dim=dim)
        own = x == value if drop is None else (x == value) & ~drop
        theirs = source == np.take_along_axis(region(value, indices, dim), indices, axis=dim)
        reached = np.bincount(flat, weights=theirs.reshape(-1), minlength=x.size).reshape(shape)
        share = g / np.maximum(own + reached, 1).astype(g.dtype)
        return (
            lambda: share * own,
            None,
            lambda: transpose("gather", share, indices, dim=dim) * theirs,
        )

    return value, pullback


def _neutral(dtype: Any, reduce: Reduce) -> Any:
    """Return what every other value of `dtype` replaces as the largest, or smallest."""
    if dtype.kind == "f":
        return -np.inf if reduce == "amax" else np.inf
    limits = np.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max
