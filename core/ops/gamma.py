"""Primitives of the gamma function: its logarithm, and the derivatives of that (polygamma).

The derivatives are Hurwitz' zeta function, summed by Euler's and Maclaurin's formula; the logarithm
is Stirling's series, and near its zeros 1 and 2 the Taylor series, whose coefficients are values of
that zeta function. Arguments below 0 are reflected. (M. Abramowitz, I. Stegun, "Handbook of
Mathematical Functions", 1964, 6.1.33, 6.1.41, 6.4.7, 6.4.10, 23.1.30.) All are computed in float64.
"""

import math
from functools import cache, wraps
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.precision import quiet
from holdfast.core.primitive import DEFAULT_FLOAT, Rule, primitive
from holdfast.core.variable import Variable, raw

Ruled = tuple[Any, Pullback]

_STEPS = 10
"""By so much a small argument is increased before a series for large ones serves."""

_BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798,
    -174611 / 330,
)  # fmt: skip
"""Bernoulli's numbers of even index, from 2."""

EULER = 0.57721566490153286061


def hurwitz(s: int, x: Any) -> Any:
    """Return the sum of (x + k)**-s over k from 0, for s > 1 and positive `x` of float64."""
    total = sum((x + k) ** -s for k in range(_STEPS))
    y = x + _STEPS
    total = total + y ** (1 - s) / (s - 1) + 0.5 * y**-s
    factor, power = s / 2, y ** (-s - 1)
    for j, number in enumerate(_BERNOULLI, start=1):
        total = total + number * factor * power
        factor *= (s + 2 * j - 1) * (s + 2 * j) / ((2 * j + 1) * (2 * j + 2))
        power = power / (y * y)
    return total


@cache
def _taylor() -> tuple[float, ...]:
    """Return the coefficients of z**2, z**3, … of the logarithm at 2 + z, of z within 0.5 of 0."""
    return tuple((-1) ** k * float(hurwitz(k, 2.0)) / k for k in range(2, 31))


def _near_two(z: Any) -> Any:
    """Return the logarithm of the gamma function at 2 + z, for z within 0.5 of 0."""
    total = np.zeros_like(z)
    for coefficient in reversed(_taylor()):
        total += coefficient
        total *= z
    return z * (total + (1 - EULER))


def _stirling(x: Any) -> Any:
    """Return the logarithm of the gamma function from 2.5 on."""
    small = x < _STEPS
    y = np.where(small, x + _STEPS, x)
    product = np.ones_like(x)
    for k in range(_STEPS):
        product *= np.where(small, x + k, 1)
    square, series = y * y, np.zeros_like(y)
    for j, number in reversed(list(enumerate(_BERNOULLI, start=1))):
        series = series / square + number / (2 * j * (2 * j - 1))
    # (y - 0.5) * log(y) - y, in an order that overflows no sooner than the result.
    head = (y - 0.5) * (np.log(y) - 1) - 0.5 + 0.5 * math.log(2 * math.pi)
    return head + series / y - np.log(product)


def log_gamma(x: Any) -> Any:
    """Return the logarithm of the gamma function's absolute value, of an array of float64."""
    a = np.where(x < 0, 1 - x, x)
    value = np.full_like(a, np.nan)
    least, low, middle = a < 0.5, (a >= 0.5) & (a < 1.5), (a >= 1.5) & (a < 2.5)
    # gamma(x) = gamma(x + 1) / x = gamma(x + 2) / (x * (x + 1))
    value[least] = _near_two(a[least]) - np.log1p(a[least]) - np.log(a[least])
    value[low] = _near_two(a[low] - 1) - np.log1p(a[low] - 1)
    value[middle] = _near_two(a[middle] - 2)
    value[a >= 2.5] = _stirling(a[a >= 2.5])
    value = np.where(a == np.inf, np.inf, value)
    sine = np.abs(np.sin(math.pi * (x - np.round(x))))
    reflected = math.log(math.pi) - np.log(np.where(x < 0, sine, 1)) - value
    whole = (x <= 0) & (x == np.round(x))  # the poles, and -inf
    return np.where(whole, np.inf, np.where(x < 0, reflected, value))


def _digamma(x: Any) -> Any:
    """Return the derivative of the logarithm of the gamma function, for positive arguments."""
    y = x + _STEPS
    series, square = np.zeros_like(y), y * y
    for j, number in reversed(list(enumerate(_BERNOULLI, start=1))):
        series = (series + number / (2 * j)) / square
    below = sum(1 / (x + k) for k in range(_STEPS))
    return np.log(y) - 0.5 / y - series - below


def _cotangent(n: int, x: Any) -> Any:
    """Return the n-th derivative of pi * cot(pi * x)."""
    polynomial = np.polynomial.Polynomial([0.0, 1.0])
    slope = np.polynomial.Polynomial([-1.0, 0.0, -1.0])
    for _ in range(n):
        polynomial = polynomial.deriv() * slope
    return math.pi ** (n + 1) * polynomial(1 / np.tan(math.pi * (x - np.round(x))))


def derivative(n: int, x: Any) -> Any:
    """Return the (n + 1)-th derivative of the logarithm of the gamma function, of float64."""
    a = np.where(x < 0, 1 - x, x)
    if n == 0:
        value = _digamma(a)
        value = np.where(x < 0, value - _cotangent(0, x), value)
        # The poles: at 0 it has two sides, at the others no limit.
        value = np.where(x == 0, -np.copysign(np.inf, x), value)
        return np.where((x < 0) & (x == np.round(x)), np.nan, value)
    value = (-1) ** (n + 1) * math.factorial(n) * hurwitz(n + 1, a)
    if not (x < 0).any():
        return value
    reflected = (-1) ** n * value - _cotangent(n, x)
    # A pole is one of x**-(n + 1): of even powers it has one sign.
    reflected = np.where(x == np.round(x), np.inf if n % 2 else np.nan, reflected)
    return np.where(x < 0, reflected, value)


def _in_double(rule: Rule) -> Rule:
    """Let `rule` compute in float64; the value comes back in the argument's dtype, and that of
    integers in the default float."""

    @wraps(rule)
    def run(x: Any, **options: Any) -> Any:
        if isinstance(x, Variable) or x.dtype == np.float64:
            return rule(x, **options)
        value, pullback = rule(x.astype(np.float64), **options)
        dtype = x.dtype if is_floating(x.dtype) else DEFAULT_FLOAT
        return value.astype(dtype), lambda g: tuple(
            part.astype(dtype) for part in pullback(g.astype(np.float64))
        )

    return run


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.choice([-1.0, 0.0, 4.0]) + rng.uniform(0.2, 0.8, (3, 4)),)


@primitive(sample=_sample, second="rerun")
@quiet
@_in_double
def lgamma(x: Any) -> Ruled:
    """Return the logarithm of the absolute value of the gamma function."""
    y = lgamma(x) if isinstance(x, Variable) else log_gamma(np.asarray(x))
    return y, lambda g: (g * _of_order(0, x),)


@primitive(sample=lambda rng: (_sample(rng), {"n": int(rng.integers(3))}), second="rerun")
@quiet
@_in_double
def polygamma(x: Any, *, n: int) -> Ruled:
    """Return the n-th derivative of digamma, the derivative of the logarithm of gamma."""
    y = polygamma(x, n=n) if isinstance(x, Variable) else derivative(n, np.asarray(x))
    return y, lambda g: (g * _of_order(n + 1, x),)


def _of_order(n: int, x: Any) -> Any:
    return polygamma(x, n=n) if isinstance(x, Variable) else derivative(n, np.asarray(raw(x)))
