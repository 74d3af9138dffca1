"""Primitives that act on each element: arithmetic, powers, selection, conversion."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.masks import BY_BITS_FROM, chosen, kept
from holdfast.core.ops.precision import in_float, narrow, quiet
from holdfast.core.primitive import DEFAULT_FLOAT, primitive, promoted
from holdfast.core.variable import raw
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator


def _pair(rng: Rng) -> tuple[Any, ...]:
    return rng.normal(size=(3, 1, 4)), rng.normal(size=(5, 1))


def _apart(low: float, high: float) -> Callable[[Rng], tuple[Any, ...]]:
    """Samples of two positive arrays within bounds."""
    return lambda rng: (rng.uniform(low, high, (3, 1, 4)), rng.uniform(low, high, (5, 1)))


def _one(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(size=tuple(rng.integers(1, 5, rng.integers(0, 4)))),)


def _positive(rng: Rng) -> tuple[Any, ...]:
    return (rng.uniform(0.5, 2.0, (3, 4)),)


@primitive(sample=_pair, promote=True, second="linear")
def add(x: Any, y: Any) -> Ruled:
    """Add with broadcasting."""
    value = x + y
    if x.__class__ is float or y.__class__ is float:
        value = narrow(value, x, y)
    return value, lambda g: (g, g)


@primitive(sample=_pair, promote=True, second="linear")
def sub(x: Any, y: Any) -> Ruled:
    """Subtract with broadcasting."""
    value = x - y
    if x.__class__ is float or y.__class__ is float:
        value = narrow(value, x, y)
    return value, lambda g: (g, lambda: -g)


@primitive(sample=_pair, promote=True, second="rerun")
def mul(x: Any, y: Any) -> Ruled:
    """Multiply with broadcasting."""
    value = x * y
    if x.__class__ is float or y.__class__ is float:
        value = narrow(value, x, y)
    return value, lambda g: (lambda: g * y, lambda: g * x)


@primitive(sample=_apart(0.5, 2.0), promote=True, second="rerun")
def div(x: Any, y: Any) -> Ruled:
    """Divide with broadcasting; integers give the default float."""
    if isinstance(y, (int, float)) and y:
        value = x / y
    else:
        with np.errstate(all="ignore"):
            value = x / y
    arrays = [a for a in (x, y) if hasattr(a, "dtype")]
    dtype = arrays[0].dtype if is_floating(arrays[0].dtype) else DEFAULT_FLOAT
    if value.dtype != dtype:
        value = value.astype(dtype)
    return value, lambda g: (lambda: g / y, lambda: -g * ((x / y) / y))


@primitive(sample=_apart(0.5, 2.0), promote=True, second="rerun")
@quiet
def power(x: Any, y: Any) -> Ruled:
    """Raise `x` to the power `y`, with broadcasting."""
    if isinstance(y, (int, float)) and getattr(x, "dtype", DEFAULT_FLOAT).kind in "iu" and y < 0:
        raise UsageError(f"power: an integer to the power {y} is no integer: use x.float()")
    value = narrow(_power(x, y), x, y)

    def by_base(g: Any) -> Any:
        if isinstance(y, (int, float)):
            return g * (2 * x) if y == 2 else g * (y * _power(x, y - 1)) if y else g * 0
        # Where the exponent is 0 the slope is 0, also at the base 0, whose power -1 is infinite.
        return g * y * x ** np.where(np.equal(y, 0), y, y - 1)

    def by_exponent(g: Any) -> Any:
        if isinstance(x, (int, float)):
            return g * value * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
        return g * value * np.log(np.where(np.equal(x, 0), np.ones_like(x), x))

    return value, lambda g: (lambda: by_base(g), lambda: by_exponent(g))


def _power(x: Any, y: Any) -> Any:
    """Return x**y: by multiplication where that is many times quicker, as it is for 3 and 4."""
    if y.__class__ in (int, float) and y in (3, 4):
        square = x * x
        return square * (x if y == 3 else square)
    return x**y


@primitive(sample=_one, second="piecewise")
def neg(x: Any) -> Ruled:
    """Change the sign."""
    return -x, lambda g: (-g,)


@primitive(sample=_one, second="rerun")
def absolute(x: Any) -> Ruled:
    """Return the absolute value; its gradient at 0 is 0."""
    return np.abs(x), lambda g: (g * np.sign(x),)


@primitive(sample=_one, second="rerun")
@quiet
def square(x: Any) -> Ruled:
    """Multiply by itself."""
    return x * x, lambda g: (g * (2 * x),)


@primitive(sample=_positive, second="rerun")
@quiet
@in_float
def sqrt(x: Any) -> Ruled:
    """Return the square root."""
    y = np.sqrt(x)
    return y, lambda g: (g / (2 * y),)


@primitive(sample=_positive, second="rerun")
@quiet
@in_float
def rsqrt(x: Any) -> Ruled:
    """Return 1 / sqrt(x)."""
    y = 1 / np.sqrt(x)
    return y, lambda g: (g * y * y * y * -0.5,)


@primitive(sample=_positive, second="rerun")
@quiet
@in_float
def reciprocal(x: Any) -> Ruled:
    """Return 1 / x."""
    y = 1 / x
    return y, lambda g: (-g * y * y,)


@primitive(
    sample=lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=4), rng.random((3, 1))),
    promote=True,
    second="rerun",
)
def lerp(start: Any, end: Any, weight: Any) -> Ruled:
    """Go from `start` to `end` by the fraction `weight`."""
    value = narrow(start + (end - start) * weight, start)
    return value, lambda g: (
        lambda: g - g * weight,
        lambda: g * weight,
        lambda: g * (end - start),
    )


@primitive(sample=_pair, promote=True, second="rerun")
def maximum(x: Any, y: Any) -> Ruled:
    """Return the larger of two; where they are equal each gets half of the gradient."""
    return narrow(np.maximum(x, y), x, y), _larger(np.greater, x, y)


@primitive(sample=_pair, promote=True, second="rerun")
def minimum(x: Any, y: Any) -> Ruled:
    """Return the smaller of two; where they are equal each gets half of the gradient."""
    return narrow(np.minimum(x, y), x, y), _larger(np.less, x, y)


def _larger(wins: Any, x: Any, y: Any) -> Pullback:
    def pullback(g: Any) -> tuple[Any, ...]:
        half = np.equal(x, y) * g.dtype.type(0.5)
        return (lambda: g * (wins(x, y) + half), lambda: g * (wins(y, x) + half))

    return pullback


def _within(rng: Rng) -> tuple[Any, ...]:
    x = rng.normal(size=(3, 4))
    if rng.random() < 0.3:
        return x, -0.5, 0.7
    if rng.random() < 0.5:
        return x, None, rng.normal(size=4)
    return x, rng.normal(size=(3, 1)), rng.normal(size=4)


@primitive(sample=_within, promote=True, second="rerun")
def clamp(x: Any, low: Any = None, high: Any = None) -> Ruled:
    """Limit to `low` and `high`, either of which may be None; `high` wins where they cross."""
    if low is None and high is None:
        raise UsageError("clamp: expected a lower or an upper bound; found none: give min or max")
    value = narrow(np.clip(raw(x), raw(low), raw(high)), x)

    def by_input(g: Any) -> Any:
        inside = np.less_equal(x, high) if low is None else np.greater_equal(x, low)
        if low is not None and high is not None:
            inside = inside & np.less_equal(x, high)
        return kept(inside, g)

    def by_low(g: Any) -> Any:
        below = np.less(x, low)
        return kept(below if high is None else below & np.less(low, high), g)

    def by_high(g: Any) -> Any:
        return kept(np.greater(x if low is None else np.maximum(x, low), high), g)

    return value, lambda g: (lambda: by_input(g), lambda: by_low(g), lambda: by_high(g))


def _choice(rng: Rng) -> tuple[Any, ...]:
    return rng.random((3, 4)) > 0.5, rng.normal(size=(3, 4)), rng.normal(size=4)


@primitive(sample=_choice, second="piecewise")
def where(condition: Any, x: Any, y: Any) -> Ruled:
    """Take `x` where `condition` holds, else `y`; the gradient of the other is 0, even for NaN."""
    given = getattr(condition, "dtype", None) == np.dtype(bool)
    mask = condition if given else np.not_equal(condition, 0)
    x, y = promoted([x, y])
    typed = [a.dtype for a in (x, y) if hasattr(a, "dtype")]
    if not typed:
        value = np.where(mask, x, y)
        value = value.astype(DEFAULT_FLOAT) if value.dtype.kind == "f" else value
    elif is_floating(typed[0]) and mask.size >= BY_BITS_FROM:
        value = chosen(mask, x, y)
    else:
        value = narrow(np.where(mask, x, y), x, y)
    return value, lambda g: (None, lambda: kept(mask, g), lambda: kept(~mask, g))


@primitive(
    sample=lambda rng: ((rng.normal(size=(3, 4)),), {"dtype": np.dtype(np.float64)}),
    second="linear",
)
def cast(x: Any, *, dtype: Any) -> Ruled:
    """Convert to another dtype; the gradient comes back in the old one."""
    with np.errstate(all="ignore"):  # a number too large for the narrower one is infinite there
        return x.astype(dtype, copy=False), lambda g: (g,)


@primitive(sample=_one, second="linear")
def clone(x: Any) -> Ruled:
    """Copy, in row-major memory."""
    return x.copy(), lambda g: (g,)
