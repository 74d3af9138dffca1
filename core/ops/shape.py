"""Primitives that rearrange elements: views, transposes, indexing, joining."""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"shape": (2, 6)}))
def reshape(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """Return the elements in another shape: a view where the memory allows it, else a copy."""
    return x.reshape(shape), lambda g: (g.reshape(x.shape),)


@primitive(sample=lambda rng: ((rng.normal(size=(2, 3, 4)),), {"dims": (2, 0, 1)}))
def permute(x: Any, *, dims: tuple[int, ...]) -> Ruled:
    """Return a view with the axes in another order."""
    return x.transpose(dims), lambda g: (g.transpose(np.argsort([d % x.ndim for d in dims])),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 1)),), {"shape": (2, 3, 4)}))
def broadcast(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """Return a view that repeats axes of size 1, and adds axes in front."""
    return np.broadcast_to(x, shape), lambda g: (g,)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"at": (slice(None), [0, 2, 2])}))
def index(x: Any, *, at: Any) -> Ruled:
    """Return the elements that an index of NumPy's kind selects."""

    def pullback(g: Any) -> tuple[Any, ...]:
        whole = array_module(x).zeros(x.shape, dtype=g.dtype)
        if _is_basic(at):
            whole[at] = g
        else:  # an element may have been selected more than once
            array_module(x).add.at(whole, at, g)
        return (whole,)

    return x[at], pullback


def _is_basic(at: Any) -> bool:
    """Say whether an index selects no element twice: slices, integers, new axes, masks."""
    parts = at if isinstance(at, tuple) else (at,)
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (slice, int, np.integer))
        or (hasattr(part, "dtype") and part.dtype == bool)
        for part in parts
    )


@primitive(
    sample=lambda rng: ((rng.normal(size=(3, 4)), np.array([[0, 2], [1, 1], [3, 0]])), {"dim": 1})
)
def gather(x: Any, indices: Any, *, dim: int) -> Ruled:
    """Return `x[..., indices[...], ...]` along axis `dim`; `indices` has as many axes as `x`."""

    def pullback(g: Any) -> tuple[Any, ...]:
        module = array_module(x)
        whole = module.zeros(x.shape, dtype=g.dtype)
        at = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
        at[dim] = indices
        module.add.at(whole, tuple(module.asarray(i) for i in at), g)
        return whole, None

    if any(
        i != n
        for a, (i, n) in enumerate(zip(indices.shape, x.shape, strict=True))
        if a != dim % x.ndim
    ):
        raise ValueError(f"indices must have the sizes of x but on axis {dim}")
    return np.take_along_axis(x, indices, axis=dim), pullback


def _three(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(2, 3)), rng.normal(size=(1, 3)), rng.normal(size=(3, 3))), {"dim": 0}


@primitive(sample=_three, promote=True)
def concatenate(*parts: Any, dim: int = 0) -> Ruled:
    """Join along an existing axis."""
    ends = np.cumsum([part.shape[dim] for part in parts])[:-1].tolist()
    return np.concatenate(parts, axis=dim), lambda g: tuple(np.split(g, ends, axis=dim))


def _twins(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(2, 3)), rng.normal(size=(2, 3))), {"dim": 1}


@primitive(sample=_twins, promote=True)
def stack(*parts: Any, dim: int = 0) -> Ruled:
    """Join along a new axis."""
    return np.stack(parts, axis=dim), lambda g: tuple(np.moveaxis(g, dim, 0))
