"""Primitives that multiply matrices."""

import math
from typing import Any

import numpy as np

from holdfast.core.backend import BFLOAT16, array_module
from holdfast.core.backward import Into, Pullback
from holdfast.core.errors import check_dtypes, shape_error
from holdfast.core.ops import elementwise
from holdfast.core.ops.shape import permute
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]

FLOAT16 = np.dtype(np.float16)


def product(x: Any, y: Any, out: Any = None) -> Any:
    """Return `np.matmul(x, y)`, in `out` if given, in the arguments' dtype.

    16-bit floats are multiplied and added as float32, and the result is rounded: NumPy has no fast
    product of theirs. (A GPU has for float16, and adds in float32 itself.)
    """
    dtype = x.dtype
    if dtype.itemsize != 2 or not (
        dtype == BFLOAT16 or (dtype == FLOAT16 and array_module(x) is np)
    ):
        return np.matmul(x, y, out=out)
    wide = np.matmul(x.astype(np.float32), y.astype(np.float32))
    if out is None:
        return wide.astype(dtype)
    out[...] = wide
    return out


def _factors(rng: np.random.Generator) -> tuple[Any, ...]:
    left, right = [
        ((2, 1, 3, 4), (5, 4, 2)),
        ((2, 3, 4), (4, 2)),
        ((3, 4), (4,)),
        ((4,), (2, 4, 3)),
        ((4,), (4,)),
    ][int(rng.integers(5))]
    return rng.normal(size=left), rng.normal(size=right)


@primitive(sample=_factors, second="rerun")
def matmul(x: Any, y: Any) -> Ruled:
    """Multiply matrices; axes before the last two are batches and broadcast, a single axis is a
    row on the left and a column on the right."""
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise shape_error("matmul", "x (..., n, k) and y (..., k, m)", x=x.shape, y=y.shape)
    check_dtypes("matmul", x=x, y=y)
    if x.ndim > 2 and y.ndim == 2:  # one product of all rows rather than one for each batch
        shape, count, width = x.shape, math.prod(x.shape[:-1]), y.shape[1]
        value, pullback = _by_matrix(x.reshape(count, shape[-1]), y)

        def of_batches(g: Any) -> tuple[Any, ...]:
            by_rows, by_matrix = pullback(g.reshape(count, width))
            return lambda: by_rows().reshape(shape), by_matrix

        return value.reshape(*shape[:-1], width), of_batches
    if x.ndim == 2 and y.ndim == 2:
        return _by_matrix(x, y)

    def general(g: Any) -> tuple[Any, ...]:
        left = x if x.ndim > 1 else x[None, :]
        right = y if y.ndim > 1 else y[:, None]
        if y.ndim == 1:
            g = g[..., None]
        if x.ndim == 1:
            g = g[..., None, :]

        def by_left() -> Any:
            part = product(g, right.swapaxes(-1, -2))
            return part if x.ndim > 1 else part[..., 0, :]

        def by_right() -> Any:
            part = product(left.swapaxes(-1, -2), g)
            return part if y.ndim > 1 else part[..., 0]

        return by_left, by_right

    return product(x, y), general


def _by_matrix(x: Any, y: Any) -> Ruled:
    """Multiply two matrices; the gradient of the right one, often a weight, may be written into
    its place."""
    return product(x, y), lambda g: (
        lambda: product(g, y.T),
        Into(lambda out: product(x.T, g, out)),
    )


def _affine(rng: np.random.Generator) -> tuple[Any, ...]:
    shape = [(2, 5, 3), (4, 3), (3,)][int(rng.integers(3))]
    bias = rng.normal(size=4) if rng.random() < 0.7 else None
    return rng.normal(size=shape), rng.normal(size=(4, 3)), bias


def _affine_of_parts(x: Any, weight: Any, bias: Any = None) -> Any:
    y = matmul(x, permute(weight, dims=(1, 0)))
    return y if bias is None else elementwise.add(y, bias)


@primitive(sample=_affine, second=_affine_of_parts)
def linear(x: Any, weight: Any, bias: Any = None) -> Ruled:
    """Return `x @ weight.T + bias`: x (..., in), weight (out, in), bias (out,) or None."""
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise shape_error(
            "linear", "x (..., in) and weight (out, in)", x=x.shape, weight=weight.shape
        )
    check_dtypes("linear", x=x, weight=weight, bias=bias)
    outputs, inputs = weight.shape
    if bias is not None and bias.shape != (outputs,):
        raise shape_error(
            "linear", "weight (out, in) and bias (out,)", weight=weight.shape, bias=bias.shape
        )
    shape, count = x.shape, math.prod(x.shape[:-1])
    rows = x if x.ndim == 2 else x.reshape(count, inputs)
    y = product(rows, weight.T)
    if bias is not None:
        y += bias

    def pullback(g: Any) -> tuple[Any, ...]:
        flat = g if g.ndim == 2 else g.reshape(count, outputs)
        return (
            lambda: product(flat, weight).reshape(shape),
            Into(lambda out: product(flat.T, rows, out)),
            Into(lambda out: column_sums(flat, out)),
        )

    return (y if x.ndim == 2 else y.reshape(*shape[:-1], outputs)), pullback


def column_sums(g: Any, out: Any = None) -> Any:
    """Return the sums of the columns of a matrix, in `out` if given; 16-bit floats are added in
    float32."""
    if g.dtype.itemsize > 2:
        return np.add.reduce(g, axis=0, out=out)
    sums = g.astype(np.float32).sum(axis=0)
    if out is None:
        return sums.astype(g.dtype)
    out[...] = sums
    return out
