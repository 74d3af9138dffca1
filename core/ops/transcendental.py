"""Primitives of one formula each: exponentials, logarithms, trigonometric and hyperbolic ones.

They have NumPy's names.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.ops.precision import in_float, quiet
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator

LN2, LN10 = math.log(2), math.log(10)


def _any(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4)),)


def _within(low: float, high: float) -> Callable[[Rng], tuple[Any, ...]]:
    return lambda rng: (rng.uniform(low, high, (2, 1, 5)),)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def exp(x: Any) -> Ruled:
    """Return e to the power of `x`."""
    y = np.exp(x)
    return y, lambda g: (g * y,)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def exp2(x: Any) -> Ruled:
    """Return 2 to the power of `x`."""
    y = np.exp2(x)
    return y, lambda g: (g * y * LN2,)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def expm1(x: Any) -> Ruled:
    """Return exp(x) - 1, exactly where that is small."""
    y = np.expm1(x)
    return y, lambda g: (g * (y + 1),)


@primitive(sample=_within(0.5, 2.0), second="rerun")
@quiet
@in_float
def log(x: Any) -> Ruled:
    """Return the natural logarithm."""
    return np.log(x), lambda g: (g / x,)


@primitive(sample=_within(0.5, 2.0), second="rerun")
@quiet
@in_float
def log2(x: Any) -> Ruled:
    """Return the logarithm to base 2."""
    return np.log2(x), lambda g: (g / (x * LN2),)


@primitive(sample=_within(0.5, 2.0), second="rerun")
@quiet
@in_float
def log10(x: Any) -> Ruled:
    """Return the logarithm to base 10."""
    return np.log10(x), lambda g: (g / (x * LN10),)


@primitive(sample=_within(-0.5, 2.0), second="rerun")
@quiet
@in_float
def log1p(x: Any) -> Ruled:
    """Return log(1 + x), exactly where `x` is small."""
    return np.log1p(x), lambda g: (g / (1 + x),)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def sin(x: Any) -> Ruled:
    """Return the sine."""
    return np.sin(x), lambda g: (g * np.cos(x),)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def cos(x: Any) -> Ruled:
    """Return the cosine."""
    return np.cos(x), lambda g: (-g * np.sin(x),)


@primitive(sample=_within(-1.0, 1.0), second="rerun")
@quiet
@in_float
def tan(x: Any) -> Ruled:
    """Return the tangent."""
    y = np.tan(x)
    return y, lambda g: (g * (1 + y * y),)


@primitive(sample=_within(-0.9, 0.9), second="rerun")
@quiet
@in_float
def arcsin(x: Any) -> Ruled:
    """Return the angle whose sine is `x`."""
    return np.arcsin(x), lambda g: (g / np.sqrt(1 - x * x),)


@primitive(sample=_within(-0.9, 0.9), second="rerun")
@quiet
@in_float
def arccos(x: Any) -> Ruled:
    """Return the angle whose cosine is `x`."""
    return np.arccos(x), lambda g: (-g / np.sqrt(1 - x * x),)


@primitive(sample=_any, second="rerun")
@in_float
def arctan(x: Any) -> Ruled:
    """Return the angle whose tangent is `x`."""
    return np.arctan(x), lambda g: (g / (1 + x * x),)


@primitive(
    sample=lambda rng: (rng.uniform(0.5, 2.0, (3, 1, 4)), rng.normal(size=(5, 1))),
    promote=True,
    second="rerun",
)
@in_float
def arctan2(y: Any, x: Any) -> Ruled:
    """Return the angle of the point (x, y)."""

    def pullback(g: Any) -> tuple[Any, ...]:
        share = g / (x * x + y * y)
        return (lambda: share * x, lambda: -share * y)

    return np.arctan2(y, x), pullback


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def sinh(x: Any) -> Ruled:
    """Return the hyperbolic sine."""
    return np.sinh(x), lambda g: (g * np.cosh(x),)


@primitive(sample=_any, second="rerun")
@quiet
@in_float
def cosh(x: Any) -> Ruled:
    """Return the hyperbolic cosine."""
    return np.cosh(x), lambda g: (g * np.sinh(x),)


@primitive(sample=_any, second="rerun")
@in_float
def tanh(x: Any) -> Ruled:
    """Return the hyperbolic tangent."""
    y = np.tanh(x)

    def pullback(g: Any) -> tuple[Any]:
        part = y * y
        part *= g
        return (g - part,)

    return y, pullback


@primitive(sample=_any, second="rerun")
@in_float
def arcsinh(x: Any) -> Ruled:
    """Return the inverse of the hyperbolic sine."""
    return np.arcsinh(x), lambda g: (g / np.sqrt(x * x + 1),)


@primitive(sample=_within(1.5, 3.0), second="rerun")
@quiet
@in_float
def arccosh(x: Any) -> Ruled:
    """Return the inverse of the hyperbolic cosine."""
    return np.arccosh(x), lambda g: (g / np.sqrt(x * x - 1),)


@primitive(sample=_within(-0.9, 0.9), second="rerun")
@quiet
@in_float
def arctanh(x: Any) -> Ruled:
    """Return the inverse of the hyperbolic tangent."""
    return np.arctanh(x), lambda g: (g / (1 - x * x),)
