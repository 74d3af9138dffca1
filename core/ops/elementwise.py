"""Primitives that act on each element: arithmetic, powers, exponentials, selection."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.primitive import DEFAULT_FLOAT, primitive

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator


def _pair(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(3, 1, 4)), rng.normal(size=(5, 1))


def _apart(low: float, high: float) -> Callable[[Rng], tuple[Any, ...]]:
    """Samples of two positive arrays within bounds."""
    return lambda rng: (rng.uniform(low, high, (3, 1, 4)), rng.uniform(low, high, (5, 1)))


def _one(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4)),)


def _positive(rng: Rng) -> tuple[Any, ...]:
    return (rng.uniform(0.5, 2.0, (3, 4)),)


@primitive(sample=_pair, promote=True)
def add(x: Any, y: Any) -> Ruled:
    """Add with broadcasting."""
    return x + y, lambda g: (g, g)


@primitive(sample=_pair, promote=True)
def sub(x: Any, y: Any) -> Ruled:
    """Subtract with broadcasting."""
    return x - y, lambda g: (g, lambda: -g)


@primitive(sample=_pair, promote=True)
def mul(x: Any, y: Any) -> Ruled:
    """Multiply with broadcasting."""
    return x * y, lambda g: (lambda: g * y, lambda: g * x)


@primitive(sample=_apart(0.5, 2.0), promote=True)
def div(x: Any, y: Any) -> Ruled:
    """Divide with broadcasting; integers give the default float."""
    value = x / y
    if value.dtype.kind == "f" and not _has_float(x, y):
        value = value.astype(DEFAULT_FLOAT)
    return value, lambda g: (lambda: g / y, lambda: -g * value / y)


def _has_float(*values: Any) -> bool:
    return any(
        isinstance(v, float) or getattr(v, "dtype", np.dtype(int)).kind == "f" for v in values
    )


@primitive(sample=_apart(0.5, 2.0), promote=True)
def power(x: Any, y: Any) -> Ruled:
    """Raise `x` to the power `y`, with broadcasting."""
    value = x**y

    def by_base(g: Any) -> Any:
        if isinstance(y, (int, float)):
            return g * (2 * x) if y == 2 else g * (y * x ** (y - 1)) if y else g * 0
        # Where the exponent is 0 the slope is 0, also at the base 0, whose power -1 is infinite.
        return g * y * x ** np.where(np.equal(y, 0), y, y - 1)

    def by_exponent(g: Any) -> Any:
        if isinstance(x, (int, float)):
            return g * value * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
        return g * value * np.log(np.where(np.equal(x, 0), np.ones_like(x), x))

    return value, lambda g: (lambda: by_base(g), lambda: by_exponent(g))


@primitive(sample=_one)
def neg(x: Any) -> Ruled:
    """Change the sign."""
    return -x, lambda g: (-g,)


@primitive(sample=_one)
def absolute(x: Any) -> Ruled:
    """Return the absolute value; its gradient at 0 is 0."""
    return np.abs(x), lambda g: (g * np.sign(x),)


@primitive(sample=_one)
def exp(x: Any) -> Ruled:
    """Return e to the power of `x`."""
    y = np.exp(x)
    return y, lambda g: (g * y,)


@primitive(sample=_positive)
def log(x: Any) -> Ruled:
    """Return the natural logarithm."""
    return np.log(x), lambda g: (g / x,)


@primitive(sample=_positive)
def sqrt(x: Any) -> Ruled:
    """Return the square root."""
    y = np.sqrt(x)
    return y, lambda g: (g / (2 * y),)


@primitive(sample=_pair, promote=True)
def maximum(x: Any, y: Any) -> Ruled:
    """Return the larger of two; where they are equal each gets half of the gradient."""
    return np.maximum(x, y), _chosen(np.greater, x, y)


@primitive(sample=_pair, promote=True)
def minimum(x: Any, y: Any) -> Ruled:
    """Return the smaller of two; where they are equal each gets half of the gradient."""
    return np.minimum(x, y), _chosen(np.less, x, y)


def _chosen(wins: Any, x: Any, y: Any) -> Pullback:
    def pullback(g: Any) -> tuple[Any, ...]:
        half = np.equal(x, y) * g.dtype.type(0.5)
        return (lambda: g * (wins(x, y) + half), lambda: g * (wins(y, x) + half))

    return pullback


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"low": -0.5, "high": 0.7}))
def clamp(x: Any, *, low: float | None = None, high: float | None = None) -> Ruled:
    """Limit to `low` and `high`, either of which may be None."""
    inside = np.equal(x, x) if low is None else np.greater_equal(x, low)
    if high is not None:
        inside &= np.less_equal(x, high)
    return np.clip(x, low, high), lambda g: (g * inside,)


@primitive(
    sample=lambda rng: (rng.random((3, 4)) > 0.5, rng.normal(size=(3, 4)), rng.normal(size=4))
)
def where(condition: Any, x: Any, y: Any) -> Ruled:
    """Take `x` where `condition` holds, else `y`."""
    given = getattr(condition, "dtype", None) == np.dtype(bool)
    chosen = condition if given else np.not_equal(condition, 0)
    value = np.where(chosen, x, y)
    typed = [a.dtype for a in (x, y) if hasattr(a, "dtype")]
    if len(typed) == 1 and value.dtype != typed[0]:  # a Python scalar is weak
        value = value.astype(typed[0])
    return value, lambda g: (None, lambda: g * chosen, lambda: g * ~chosen)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"dtype": np.dtype(np.float64)}))
def cast(x: Any, *, dtype: Any) -> Ruled:
    """Convert to another dtype; the gradient comes back in the old one."""
    return x.astype(dtype, copy=False), lambda g: (g,)


@primitive(sample=_one)
def clone(x: Any) -> Ruled:
    """Copy, in row-major memory."""
    return x.copy(), lambda g: (g,)
