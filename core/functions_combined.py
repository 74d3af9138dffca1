"""Functions that combine tensors, or their elements: grids, blocks, powers, distances, areas."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.core.errors import shape_error
from holdfast.core.functions_shape import cat, meshgrid, stack, with_axes
from holdfast.core.ops import elementwise, shape
from holdfast.core.ops.index import choose
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "block_diag",
    "broadcast_shapes",
    "cartesian_prod",
    "cdist",
    "combinations",
    "trapezoid",
    "trapz",
    "vander",
]


# -- axes -----------------------------------------------------------------------------------------


def atleast_1d(*tensors: Any) -> Any:
    """Return the tensor, or a tuple of several, with one axis at least."""
    return _each(tensors, 1)


def atleast_2d(*tensors: Any) -> Any:
    """Return the tensor, or a tuple of several, with two axes at least: vectors are rows."""
    return _each(tensors, 2)


def atleast_3d(*tensors: Any) -> Any:
    """Return the tensor, or a tuple of several, with three axes at least: a vector lies along the
    second, a matrix along the first two."""
    return _each(tensors, 3)


def _each(tensors: tuple[Any, ...], ndim: int) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return with_axes(tensors[0], ndim)
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(with_axes(tensor, ndim) for tensor in given)


def broadcast_shapes(*shapes: int | Sequence[int]) -> tuple[int, ...]:
    """Return the shape that these broadcast to. Raises ShapeError where they do not."""
    sizes = [(size,) if isinstance(size, int) else tuple(size) for size in shapes]
    try:
        return np.broadcast_shapes(*sizes)
    except ValueError:
        named = {f"shape {i}": size for i, size in enumerate(sizes)}
        raise shape_error("broadcast_shapes", "shapes that fit", **named) from None


# -- grids and blocks -----------------------------------------------------------------------------


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Return (n, tensors): every choice of one element of each vector, the last changing first."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([part.reshape(-1) for part in meshgrid(*tensors)], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Return (n, r): every choice of `r` elements of a vector, in their order."""
    if input.ndim != 1 or r < 0:
        raise UsageError(f"combinations: a vector and r >= 0; found shape {input.shape} and {r}")
    chosen = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = np.array(list(chosen(range(input.numel()), r)), dtype=np.int64)
    return choose(input, places.reshape(-1, r) if r else np.zeros(0, np.int64))


def block_diag(*tensors: Any) -> Tensor:
    """Return the matrix with the given ones, or rows, or numbers, on its diagonal, and zeros."""
    blocks = [with_axes(tensor, 2) for tensor in tensors]
    if any(block.ndim > 2 for block in blocks):
        raise UsageError(f"block_diag: matrices at most; found {[b.shape for b in blocks]}")
    width, before, rows = sum(block.shape[1] for block in blocks), 0, []
    for block in blocks:
        after = width - before - block.shape[1]
        rows.append(shape.pad(block, widths=((0, 0), (before, after))))
        before += block.shape[1]
    return cat(rows, 0)


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Return Vandermonde's matrix: the powers 0 to N - 1 of each element in a row, falling unless
    `increasing`."""
    count = x.shape[0] if N is None else N
    if x.ndim != 1 or count < 0:
        raise UsageError(f"vander: a vector and N >= 0; found shape {x.shape} and {N}")
    rows = x.reshape(-1, 1).expand(x.shape[0], max(count - 1, 0))
    powers = cat([rows.new_ones(x.shape[0], min(count, 1)), rows], 1).cumprod(1)
    return powers if increasing else powers.flip(1)


# -- distances and areas --------------------------------------------------------------------------


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """Return (..., n, m): the p-norm distances of each row of (..., n, k) and each of (..., m, k).

    `compute_mode` is PyTorch's, and makes no difference: the differences are taken, which is exact
    but needs memory for all n * m * k of them.
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise shape_error("cdist", "two matrices with rows of one size", x1=x1.shape, x2=x2.shape)
    return elementwise.sub(x1.unsqueeze(-2), x2.unsqueeze(-3)).norm(p, -1)


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Return the area under `y` along `dim` by the trapezoidal rule.

    Its elements are at the places `x`, of the same shape or along one axis, or `dx` (1) apart.
    """
    if x is not None and dx is not None:
        raise UsageError("trapezoid: expected one of x and dx; found both")
    size = y.shape[dim]
    means = (y.narrow(dim, 1, max(size - 1, 0)) + y.narrow(dim, 0, max(size - 1, 0))) / 2
    if x is None:
        return means.sum(dim) * (1 if dx is None else dx)
    steps = x.diff(dim=dim if x.ndim > 1 else -1)
    if x.ndim == 1:
        steps = steps.reshape([-1 if i == dim % y.ndim else 1 for i in range(y.ndim)])
    return (means * steps).sum(dim)


trapz = trapezoid
