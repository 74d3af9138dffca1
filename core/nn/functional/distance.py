"""Distances and similarities of vectors as functions: PyTorch's names and arguments."""

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.errors import shape_error
from holdfast.core.ops.reduce import norm
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between vectors along `dim`, which broadcast.

    Lengths count at least `eps`.
    """
    if not (is_floating(x1.dtype) and is_floating(x2.dtype)):
        raise UsageError(f"cosine_similarity: vectors hold floats; found {x1.dtype} and {x2.dtype}")
    if x1.shape != x2.shape:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
        x1, x2 = x1.expand(shape), x2.expand(shape)
    return (_unit(x1, dim, eps) * _unit(x2, dim, eps)).sum(dim=dim)


def _unit(x: Tensor, dim: int, eps: float) -> Tensor:
    square = (x * x).sum(dim=dim, keepdim=True)
    return x / square.clamp(min=eps * eps).sqrt()


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Return the norm of order `p` of `x1 - x2 + eps` over the last axis; they broadcast."""
    apart = x1 - x2 + eps
    if p == 2:
        return (apart * apart).sum(dim=-1, keepdim=keepdim).sqrt()
    if p == 1:
        return apart.abs().sum(dim=-1, keepdim=keepdim)
    if p == np.inf:
        return apart.abs().amax(dim=-1, keepdim=keepdim)
    if p <= 0:
        raise UsageError(f"pairwise_distance: p is positive; found {p}")
    return (apart.abs() ** p).sum(dim=-1, keepdim=keepdim) ** (1 / p)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Return the norms of order `p` of the differences of all pairs of rows of input (N, M).

    There are N (N - 1) / 2 of them, in the order of the upper triangle of the N x N distances, row
    by row. `p` is 0 (how many elements differ) or more, infinity included.
    """
    if input.ndim != 2:
        raise shape_error("pdist", "input (N, M)", input=input.shape)
    if not p >= 0:
        raise UsageError(f"pdist: p is 0 or more; found {p}")
    first, second = array_module(input.array).triu_indices(len(input), 1)
    return norm(input[first] - input[second], p=float(p), dim=(1,))
