"""Primitives that zero elements at random, so that a network relies on none of them.

The masks come from the one generator, on the host: 32 of its bits decide on each element.
"""

import math
from typing import Any

import numpy as np

from holdfast.core import random
from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]
Sizes = tuple[int, ...] | None

SATURATED = -1.7580993408473766
"""What SELU tends to at minus infinity, -scale * alpha: alpha dropout puts it in place of 0."""


def _mask(x: Any, p: float, sizes: Sizes) -> Any:
    """Return where to keep: True with probability 1 - p, in `sizes` or the shape of `x`."""
    if not 0 <= p <= 1:
        raise UsageError(f"dropout: p is a probability, 0 to 1; found {p}")
    sizes = x.shape if sizes is None else sizes
    if p == 1:
        return array_module(x).zeros(sizes, dtype=bool)
    count = math.prod(sizes)
    bits = random.generator().bit_generator.random_raw(-(-count // 2)).view(np.uint32)[:count]
    limit = np.uint32(min(round(p * 2**32), 2**32 - 1))
    return array_module(x).asarray((bits >= limit).reshape(sizes))


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"p": 0.0}), second="piecewise")
def dropout(x: Any, *, p: float = 0.5, sizes: Sizes = None) -> Ruled:
    """Zero each element with probability `p` and scale the rest by 1 / (1 - p).

    One draw decides on all elements that the axes of size 1 in `sizes` stand for.
    """
    mask = _mask(x, p, sizes)
    scale = x.dtype.type(1.0 if p == 1 else 1 / (1 - p))

    def masked(values: Any) -> Any:
        scaled = values * mask
        scaled *= scale
        return scaled

    return masked(x), lambda g: (masked(g),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"p": 0.0}), second="piecewise")
def alpha_dropout(x: Any, *, p: float = 0.5, sizes: Sizes = None) -> Ruled:
    """Put what SELU saturates at in place of elements, so that mean and variance stay 0 and 1.

    G. Klambauer and others, "Self-Normalizing Neural Networks", arXiv:1706.02515.
    """
    if p == 1:
        return np.zeros_like(x), lambda g: (np.zeros_like(g),)
    mask = _mask(x, p, sizes)
    a = ((1 - p) * (1 + p * SATURATED**2)) ** -0.5
    factor = mask * x.dtype.type(a)
    shift = np.where(mask, -a * SATURATED * p, a * SATURATED * (1 - p)).astype(x.dtype)
    return x * factor + shift, lambda g: (g * factor,)
