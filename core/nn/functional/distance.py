"""Distances and similarities of vectors as functions: PyTorch's names and arguments."""

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["cosine_similarity", "pairwise_distance"]


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
