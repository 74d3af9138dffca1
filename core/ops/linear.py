"""Primitives that multiply matrices."""

from typing import Any

import numpy as np

from holdfast.core.backward import Into, Pullback
from holdfast.core.errors import shape_error
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


def _batches(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(2, 1, 3, 4)), rng.normal(size=(5, 4, 2))


@primitive(sample=_batches, promote=True)
def matmul(x: Any, y: Any) -> Ruled:
    """Multiply matrices; axes before the last two are batches and broadcast, a single axis is a
    row on the left and a column on the right."""
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise shape_error("matmul", "x (..., n, k) and y (..., k, m)", x=x.shape, y=y.shape)

    def pullback(g: Any) -> tuple[Any, ...]:
        left = x if x.ndim > 1 else x[None, :]
        right = y if y.ndim > 1 else y[:, None]
        if y.ndim == 1:
            g = g[..., None]
        if x.ndim == 1:
            g = g[..., None, :]

        def by_left() -> Any:
            part = g @ right.swapaxes(-1, -2)
            return part if x.ndim > 1 else part[..., 0, :]

        def by_right() -> Any:
            part = left.swapaxes(-1, -2) @ g
            return part if y.ndim > 1 else part[..., 0]

        return by_left, by_right

    return np.matmul(x, y), pullback


def _affine(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(2, 5, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)


@primitive(sample=_affine)
def linear(x: Any, weight: Any, bias: Any = None) -> Ruled:
    """Return `x @ weight.T + bias`: x (..., in), weight (out, in), bias (out,) or None."""
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise shape_error(
            "linear", "x (..., in) and weight (out, in)", x=x.shape, weight=weight.shape
        )
    rows = x if x.ndim == 2 else x.reshape(-1, weight.shape[1])
    y = np.matmul(rows, weight.T)
    if bias is not None:
        y += bias

    def pullback(g: Any) -> tuple[Any, ...]:
        flat = g if g.ndim == 2 else g.reshape(-1, weight.shape[0])
        return (
            lambda: np.matmul(flat, weight).reshape(x.shape),
            Into(lambda out: np.matmul(flat.T, rows, out=out)),
            Into(lambda out: flat.sum(axis=0, out=out)),
        )

    return (y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])), pullback
