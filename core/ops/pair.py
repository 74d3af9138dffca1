"""Primitives of two numbers that NumPy has by name: sums of logarithms, sides of triangles, signs.

They have NumPy's names, but for `xlogy`, which is SciPy's and PyTorch's.
"""

import math
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.ops.precision import in_float, narrow, quiet
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


def _pair(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(3, 1, 4)), rng.normal(size=(5, 1))


@primitive(sample=_pair, promote=True, second="rerun")
@quiet
@in_float
def logaddexp(x: Any, y: Any) -> Ruled:
    """Return log(exp(x) + exp(y)), without overflow."""
    return np.logaddexp(x, y), lambda g: (
        lambda: g / (1 + np.exp(y - x)),
        lambda: g / (1 + np.exp(x - y)),
    )


@primitive(sample=_pair, promote=True, second="rerun")
@quiet
@in_float
def logaddexp2(x: Any, y: Any) -> Ruled:
    """Return log2(2**x + 2**y), without overflow."""
    return np.logaddexp2(x, y), lambda g: (
        lambda: g / (1 + np.exp2(y - x)),
        lambda: g / (1 + np.exp2(x - y)),
    )


@primitive(sample=_pair, promote=True, second="rerun")
@quiet
@in_float
def hypot(x: Any, y: Any) -> Ruled:
    """Return sqrt(x**2 + y**2), without overflow."""
    z = np.hypot(x, y)
    return z, lambda g: (lambda: g * (x / z), lambda: g * (y / z))


@primitive(sample=_pair, promote=True, second="piecewise")
@in_float
def copysign(x: Any, y: Any) -> Ruled:
    """Return the size of `x` with the sign of `y`; the gradient at 0 is 0."""
    z = narrow(np.copysign(x, y), x, y)
    turned = np.sign(x) * np.sign(z)
    return z, lambda g: (lambda: g * turned, lambda: g * 0)


def _positive(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(3, 1, 4)), rng.uniform(0.5, 2.0, (5, 1))


@primitive(sample=_positive, promote=True, second="rerun")
@quiet
@in_float
def xlogy(x: Any, y: Any) -> Ruled:
    """Return x * log(y), which is 0 where `x` is 0, unless `y` is NaN."""
    none = np.equal(x, 0) & ~np.isnan(y)
    logarithm = math.log(y) if isinstance(y, float | int) and y > 0 else np.log(y)
    value = np.where(none, 0, x * logarithm)
    return narrow(value, x, y), lambda g: (
        lambda: np.where(none & np.less_equal(y, 0), 0, g * logarithm),
        lambda: g * (x / y),
    )
