"""Primitives that normalise each row by its own mean and deviation: layer and RMS normalisation.

The rule: rows are taken in blocks, and numbers that scale or shift them are first made a block of
their own, by a product of two thin matrices: BLAS does that quicker than NumPy broadcasts, and for
rows and columns at once. Kept for the pullback are the input, and of each row the mean and the
reciprocal of the deviation.
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.kernels import loops_for
from holdfast.core.ops.precision import accumulator
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]
Shape = tuple[int, ...]

BLOCK_BYTES = {"numpy": 512 * 1024, "cupy": 256 * 1024 * 1024}
"""Of a block of rows: with smaller ones, calls cost more than a cache gains."""

FAR = 4
"""A mean square within this times the variance gives it, less the mean's square, for the loss of
two bits at most; where it is larger, the rows are centred first."""


class _Rows:
    """Rows in blocks, and the memory that the work on one of them needs."""

    def __init__(self, x: Any, width: int) -> None:
        self.module, self.width, self.dtype = array_module(x), width, accumulator(x.dtype)
        self.count = x.size // max(width, 1)
        bytes_of_row = max(width * np.dtype(self.dtype).itemsize, 1)
        tall = max(1, BLOCK_BYTES[self.module.__name__] // bytes_of_row)
        self.tall = max(1, min(self.count, tall))
        self._columns = self.module.zeros((self.tall, 2), dtype=self.dtype)

    def __iter__(self) -> Iterator[slice]:
        return (slice(at, at + self.tall) for at in range(0, self.count, self.tall))

    def scratch(self) -> Any:
        """Return memory for a block."""
        return self.module.empty((self.tall, self.width), dtype=self.dtype)

    def wide(self, array: Any) -> Any:
        """Return `array` in the dtype to compute in."""
        return array.astype(self.dtype, copy=False)

    def pair(self, first: Any, second: Any) -> Any:
        """Return two rows over each other, of ones or zeros where a number is given."""
        both = self.module.empty((2, self.width), dtype=self.dtype)
        for row, given in zip(both, (first, second), strict=True):
            row[...] = given.reshape(-1) if hasattr(given, "shape") else given
        return both

    def outer(self, column: Any, pair: Any, second: float, out: Any) -> Any:
        """Fill `out` with `column x the first row of the pair + second x the other`."""
        columns = self._columns[: len(column)]
        columns[:, 0] = column
        columns[:, 1] = second
        return np.matmul(columns, pair, out=out[: len(column)])


def _squares(rows: Any) -> Any:
    """Return the mean square of each row."""
    sums = np.matmul(rows[:, None], rows[:, :, None])[:, 0, 0]
    sums /= max(rows.shape[1], 1)
    return sums


def _normalised(x: Any, weight: Any, bias: Any, width: int, eps: float, centred: bool) -> Ruled:
    """Normalise rows of `width` elements by their root mean square, `centred` at their mean."""
    loops = loops_for(x, weight, bias) if centred else None
    if loops is not None:
        return _compiled(loops, x, weight, bias, width, eps)
    rows = _Rows(x, width)
    module, count, same = rows.module, rows.count, rows.dtype == x.dtype
    flat = x.reshape(count, width)
    y = module.empty((count, width), dtype=x.dtype)
    means, scales = (module.zeros(count, dtype=rows.dtype) for _ in range(2))
    affine = rows.pair(1 if weight is None else weight, 0 if bias is None else bias)
    ones, block = rows.pair(1, 0), rows.scratch()
    share = ones[0] / max(width, 1)
    wide: Any = None if same else rows.scratch()
    for at in rows:
        part = rows.wide(flat[at])
        out = y[at] if same else wide[: len(part)]
        scale = _squares(part)
        if centred:
            mean = np.matmul(part, share, out=means[at])
            shift = mean * mean
            if (scale > FAR * (scale - shift)).any():
                part = np.subtract(part, rows.outer(mean, ones, 0, block), out=out)
                scale, mean = _squares(part), 0 * mean
            else:
                scale -= shift
        scale += eps
        np.sqrt(scale, out=scale)
        scale = np.divide(1, scale, out=scales[at])
        np.multiply(part, rows.outer(scale, affine, 0, block), out=out)
        if centred:
            out += rows.outer(-mean * scale, affine, 1, block)
        if not same:
            y[at] = out

    def pullback(g: Any) -> tuple[Any, ...]:
        given = g.reshape(count, width)
        by_x = module.empty((count, width), dtype=x.dtype)
        by_weight, by_bias = (module.zeros(width, dtype=rows.dtype) for _ in range(2))
        share = affine[0] / max(width, 1)
        block, product = rows.scratch(), rows.scratch()
        wide: Any = None if same else rows.scratch()
        for at in rows:
            part, change = rows.wide(flat[at]), rows.wide(given[at])
            scale, mean, size = scales[at], means[at], len(part)
            out, products = by_x[at] if same else wide[:size], product[:size]
            np.multiply(change, part, out=products)
            slope = products @ share
            by_weight += scale @ products
            if centred:
                level = change @ share
                slope -= mean * level
                sums = np.stack((scale * mean, module.ones_like(mean))) @ change
                by_weight -= sums[0]
                by_bias += sums[1]
            slope *= scale * scale * scale
            np.multiply(change, rows.outer(scale, affine, 0, block), out=out)
            np.multiply(part, rows.outer(slope, ones, 0, block), out=products)
            out -= products
            if centred:
                level = mean * slope - scale * level
                out += rows.outer(level, ones, 0, block)
            if not same:
                by_x[at] = out
        return (
            by_x.reshape(x.shape),
            None if weight is None else by_weight.reshape(weight.shape),
            None if bias is None else by_bias.reshape(bias.shape),
        )

    return y.reshape(x.shape), pullback


def _compiled(loops: ModuleType, x: Any, weight: Any, bias: Any, width: int, eps: float) -> Ruled:
    """Normalise rows at their mean, of float32 in row-major memory."""
    rows, count = x.reshape(-1, width), x.size // width
    gain = np.ones(width, x.dtype) if weight is None else weight.reshape(-1)
    level = np.zeros(width, x.dtype) if bias is None else bias.reshape(-1)
    y, numbers = np.empty_like(rows), np.empty((2, count), x.dtype)
    loops.layer_norm(rows, gain, level, x.dtype.type(eps), y, *numbers)

    def pullback(g: Any) -> tuple[Any, ...]:
        given = np.ascontiguousarray(g).reshape(rows.shape)
        by_x, affine = np.empty_like(rows), np.empty((2, width), x.dtype)
        loops.layer_norm_back(rows, gain, given, *numbers, by_x, *affine)
        return (
            by_x.reshape(x.shape),
            None if weight is None else affine[0].reshape(weight.shape),
            None if bias is None else affine[1].reshape(bias.shape),
        )

    return y.reshape(x.shape), pullback


def _width(name: str, x: Any, weight: Any, bias: Any, shape: Shape) -> int:
    """Return the elements of a row, once the shapes are seen to fit."""
    affine = {
        key: array.shape for key, array in (("weight", weight), ("bias", bias)) if array is not None
    }
    if not shape or x.shape[-len(shape) :] != shape or any(s != shape for s in affine.values()):
        raise shape_error(
            name,
            f"x (..., {', '.join(map(str, shape))}), weight and bias {shape}",
            x=x.shape,
            **affine,
        )
    return math.prod(shape)


def _layer_norm_of_parts(
    x: Any, weight: Any = None, bias: Any = None, *, shape: Shape, eps: float = 1e-5
) -> Any:
    """Compute a layer normalisation by other primitives."""
    axes = tuple(range(-len(shape), 0))
    return _scaled(x - np.mean(x, axis=axes, keepdims=True), axes, weight, bias, eps)


def _rms_norm_of_parts(x: Any, weight: Any = None, *, shape: Shape, eps: float) -> Any:
    """Compute an RMS normalisation by other primitives."""
    return _scaled(x, tuple(range(-len(shape), 0)), weight, None, eps)


def _scaled(x: Any, axes: Shape, weight: Any, bias: Any, eps: float) -> Any:
    y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _sample_layer(rng: np.random.Generator) -> tuple[Any, ...]:
    shape = ((4,), (3, 4))[rng.integers(2)]
    x = rng.normal(size=(2, 3, 4)) + 1
    parts = [rng.normal(size=shape), rng.normal(size=shape)][: rng.integers(3)]
    return (x, *parts), {"shape": shape}


@primitive(sample=_sample_layer, second=_layer_norm_of_parts)
def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, *, shape: Shape, eps: float = 1e-5
) -> Ruled:
    """Give the last axes, of the sizes `shape`, mean 0 and variance 1; times weight, plus bias.

    J. L. Ba and others, "Layer Normalization", arXiv:1607.06450.
    """
    width = _width("layer_norm", x, weight, bias, shape)
    return _normalised(x, weight, bias, width, eps, centred=True)


def _sample_rms(rng: np.random.Generator) -> tuple[Any, ...]:
    shape = ((4,), (3, 4))[rng.integers(2)]
    x, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=shape)
    return (x, None if rng.integers(2) else weight), {"shape": shape, "eps": 1e-3}


@primitive(sample=_sample_rms, second=_rms_norm_of_parts)
def rms_norm(x: Any, weight: Any = None, *, shape: Shape, eps: float) -> Ruled:
    """Divide the last axes, of the sizes `shape`, by their root mean square; times weight.

    B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    width = _width("rms_norm", x, weight, None, shape)
    return _normalised(x, weight, None, width, eps, centred=False)
