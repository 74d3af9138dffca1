"""Primitives that make a network more than linear."""

from typing import Any

import numpy as np

from holdfast.core import random
from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]

CLIP_FROM = 16 * 1024
"""Elements from which clipping is quicker than the maximum."""


def _one(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4)),)


@primitive(sample=_one)
def relu(x: Any) -> Ruled:
    """Return max(x, 0); its gradient at 0 is 0."""
    # NumPy clips three times as fast as it takes the maximum with a scalar, but starts slower.
    y = np.maximum(x, 0) if x.size < CLIP_FROM else np.clip(x, 0, np.inf)
    # Multiplying by the mask is several times quicker than choosing by it.
    return y, lambda g: (g * (y > 0),)


@primitive(sample=_one)
def sigmoid(x: Any) -> Ruled:
    """Return 1 / (1 + exp(-x)), without overflow."""
    y = logistic(x)
    return y, lambda g: (g * (y * (1 - y)),)


def logistic(x: Any) -> Any:
    """Return 1 / (1 + exp(-x)) of an array: through tanh, which does not overflow."""
    y = np.tanh(0.5 * x)
    y *= 0.5
    y += 0.5
    return y


@primitive(sample=_one)
def tanh(x: Any) -> Ruled:
    """Return the hyperbolic tangent."""
    y = np.tanh(x)
    return y, lambda g: (g * (1 - y * y),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"dim": 0}))
def softmax(x: Any, *, dim: int = -1) -> Ruled:
    """Return the exponentials over `dim`, scaled to sum to 1."""
    y = np.exp(x - x.max(axis=dim, keepdims=True))
    y /= y.sum(axis=dim, keepdims=True)
    return y, lambda g: (y * (g - (g * y).sum(axis=dim, keepdims=True)),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"dim": 1}))
def log_softmax(x: Any, *, dim: int = -1) -> Ruled:
    """Return the logarithm of the softmax over `dim`."""
    y = x - x.max(axis=dim, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=dim, keepdims=True))
    return y, lambda g: (g - np.exp(y) * g.sum(axis=dim, keepdims=True),)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"p": 0.0}))
def dropout(x: Any, *, p: float = 0.5) -> Ruled:
    """Zero each element with probability `p` and scale the rest by 1 / (1 - p)."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, 0 to 1; found {p}")
    kept = random.generator().random(x.shape, dtype=np.float32) >= p
    mask = array_module(x).asarray(kept * (0.0 if p == 1 else 1 / (1 - p)), dtype=x.dtype)
    return x * mask, lambda g: (g * mask,)
