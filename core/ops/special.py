"""Primitives that NumPy has no gradient for: error functions and their inverse, logit, sinc.

float64 is computed by the rational approximations of FreeBSD's `msun` (Sun's fdlibm, `s_erf.c`),
within a few units of the last place; float32 by the one rational approximation that Eigen and XLA
use. The inverse begins with M. Giles' polynomials ("Approximating the erfinv function", GPU
Computing Gems, 2012), which serve float32 as they are, and is refined for float64 by Halley's
method.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.ops.masks import kept
from holdfast.core.ops.precision import in_float, quiet
from holdfast.core.primitive import primitive
from holdfast.core.variable import Variable, raw

Ruled = tuple[Any, Pullback]

TWO_BY_ROOT_PI = 2 / math.sqrt(math.pi)

# Coefficients begin with that of the highest power. Near 0: erf(x) = x + x P(x^2) / Q(x^2).
_NEAR = (
    (-2.37630166566501626084e-05, -5.77027029648944159157e-03, -2.84817495755985104766e-02,
     -3.25042107247001499370e-01, 1.28379167095512558561e-01),
    (-3.96022827877536812320e-06, 1.32494738004321644526e-04, 5.08130628187576562776e-03,
     6.50222499887672944485e-02, 3.97917223959155352819e-01, 1.0),
)  # fmt: skip
# From 0.84375 to 1.25: erfc(x) = 1 - ERX - P(x - 1) / Q(x - 1).
_ERX = 8.45062911510467529297e-01
_MIDDLE = (
    (-2.16637559486879084300e-03, 3.54783043256182359371e-02, -1.10894694282396677476e-01,
     3.18346619901161753674e-01, -3.72207876035701323847e-01, 4.14856118683748331666e-01,
     -2.36211856075265944077e-03),
    (1.19844998467991074170e-02, 1.36370839120290507362e-02, 1.26171219808761642112e-01,
     7.18286544141962662868e-02, 5.40397917702171048937e-01, 1.06420880400844228286e-01, 1.0),
)  # fmt: skip
# Beyond: erfc(x) = exp(-x^2 - 0.5625 + P(1 / x^2) / Q(1 / x^2)) / x, to 1 / 0.35 and from there.
_FAR = (
    (-9.81432934416914548592e00, -8.12874355063065934246e01, -1.84605092906711035994e02,
     -1.62396669462573470355e02, -6.23753324503260060396e01, -1.05586262253232909814e01,
     -6.93858572707181764372e-01, -9.86494403484714822705e-03),
    (-6.04244152148580987438e-02, 6.57024977031928170135e00, 1.08635005541779435134e02,
     4.29008140027567833386e02, 6.45387271733267880336e02, 4.34565877475229228821e02,
     1.37657754143519042600e02, 1.96512716674392571292e01, 1.0),
)  # fmt: skip
_FARTHER = (
    (-4.83519191608651397019e02, -1.02509513161107724954e03, -6.37566443368389627722e02,
     -1.60636384855821916062e02, -1.77579549177547519889e01, -7.99283237680523006574e-01,
     -9.86494292470009928597e-03),
    (-2.24409524465858183362e01, 4.74528541206955367215e02, 2.55305040643316442583e03,
     3.19985821950859553908e03, 1.53672958608443695994e03, 3.25792512996573918826e02,
     3.03380607434824582924e01, 1.0),
)  # fmt: skip
# float32: erf(x) = x P(x^2) / Q(x^2), for x within 4 of 0.
_SINGLE = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
     -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
     -1.42647390514189e-02),
)  # fmt: skip
# The inverse is x P(w - 2.5) where w = -log(1 - x^2) is less than 5, else x P(sqrt(w) - 3).
_INVERSE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04,
    -1.25372503e-03, -4.17768164e-03, 2.46640727e-01, 1.50140941e00,
)  # fmt: skip
_INVERSE_FAR = (
    -2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03,
    -7.62246130e-03, 9.43887047e-03, 1.00167406e00, 2.83297682e00,
)  # fmt: skip


def _polynomial(coefficients: Sequence[float], u: Any) -> Any:
    """Evaluate by Horner's rule, in place on one new array."""
    total = u * coefficients[0]
    for coefficient in coefficients[1:-1]:
        total += coefficient
        total *= u
    total += coefficients[-1]
    return total


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], u: Any) -> Any:
    above = _polynomial(coefficients[0], u)
    above /= _polynomial(coefficients[1], u)
    return above


def _erf_near(x: Any) -> Any:
    """Return erf for float64 within 0.84375 of 0."""
    return x + x * _ratio(_NEAR, x * x)


def _erfc_far(a: Any) -> Any:
    """Return erfc for float64 from 0.84375 on."""
    out = np.empty_like(a)
    middle = a < 1.25
    out[middle] = (1 - _ERX) - _ratio(_MIDDLE, a[middle] - 1)
    for part, coefficients in (
        (~middle & (a < 1 / 0.35), _FAR),
        (a >= 1 / 0.35, _FARTHER),
    ):
        # The square of a float32 is exact in float64: so is the first exponent.
        x = np.minimum(a[part], 28.0)
        head = x.astype(np.float32).astype(np.float64)
        rest = (head - x) * (head + x) + _ratio(coefficients, 1 / (x * x))
        out[part] = np.exp(-head * head - 0.5625) * np.exp(rest) / x
    return out


def error_function(x: Any) -> Any:
    """Return erf of an array of float32 or float64; float32 is within 5e-7."""
    if x.dtype == np.float32:
        z = np.clip(x, -4, 4)
        value = _ratio(_SINGLE, z * z)
        value *= z
        return np.clip(value, -1, 1)
    a = np.abs(x)
    near = a < 0.84375
    far = a >= 0.84375  # NaN is neither
    out = np.full_like(a, np.nan)
    out[near] = _erf_near(x[near])
    out[far] = np.copysign(1 - _erfc_far(a[far]), x[far])
    return out


def complement(x: Any) -> Any:
    """Return erfc of an array of float32 or float64, exactly in its long tail too."""
    if x.dtype == np.float32:
        return complement(x.astype(np.float64)).astype(np.float32)
    a = np.abs(x)
    near = a < 0.84375
    far = a >= 0.84375
    out = np.full_like(a, np.nan)
    out[near] = 1 - _erf_near(x[near])
    tail = _erfc_far(a[far])
    out[far] = np.where(x[far] < 0, 2 - tail, tail)
    return out


def inverse_error_function(x: Any) -> Any:
    """Return the inverse of erf for an array of float32 or float64: NaN outside of -1 to 1."""
    w = -np.log((1 - x) * (1 + x))
    near = x * _polynomial(_INVERSE, w - 2.5)
    y = np.where(w < 5, near, x * _polynomial(_INVERSE_FAR, np.sqrt(w) - 3))
    if x.dtype == np.float64:
        # The second polynomial is made for float32, which comes no nearer to 1 than w = 16.
        rest = w + math.log(2)
        y = np.where(w < 16, y, np.sqrt(rest - 0.5 * np.log(math.pi * rest)))
        for _ in range(3):
            # The complement is exact where erf is so near to 1 that it says little.
            a = np.abs(y)
            off = np.where(a < 0.5, error_function(a) - np.abs(x), (1 - np.abs(x)) - complement(a))
            step = off / (TWO_BY_ROOT_PI * np.exp(-a * a))
            y = np.copysign(a - step / (1 + a * step), x)
    return np.where(np.abs(x) == 1, np.copysign(np.inf, x), y).astype(x.dtype, copy=False)


def _array(x: Any) -> Any:
    """Return an array: elements of arrays without axes come as NumPy's scalars."""
    return np.asarray(x) if isinstance(x, np.generic) else raw(x)


@primitive(sample=lambda rng: (rng.normal(scale=2, size=(3, 8)),), second="rerun")
@quiet
@in_float
def erf(x: Any) -> Ruled:
    """Return the error function: the integral of the normal density, scaled to end at 1."""
    return error_function(_array(x)), lambda g: (g * (TWO_BY_ROOT_PI * np.exp(-x * x)),)


@primitive(sample=lambda rng: (rng.normal(scale=2, size=(3, 8)),), second="rerun")
@quiet
@in_float
def erfc(x: Any) -> Ruled:
    """Return 1 - erf(x), exactly where that is small."""
    return complement(_array(x)), lambda g: (g * (-TWO_BY_ROOT_PI * np.exp(-x * x)),)


@primitive(sample=lambda rng: (rng.uniform(-0.99, 0.99, (3, 8)),), second="rerun")
@quiet
@in_float
def erfinv(x: Any) -> Ruled:
    """Return the number whose error function is `x`."""
    y = erfinv(x) if isinstance(x, Variable) else inverse_error_function(_array(x))
    return y, lambda g: (g * (np.exp(y * y) * (1 / TWO_BY_ROOT_PI)),)


def _probability(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.uniform(0.05, 0.95, (3, 4)),), {"eps": None if rng.random() < 0.5 else 0.2}


@primitive(sample=_probability, second="rerun")
@quiet
@in_float
def logit(x: Any, *, eps: float | None = None) -> Ruled:
    """Return log(x / (1 - x)), of `x` limited to [eps, 1 - eps] if `eps` is given."""
    z = x if eps is None else np.clip(x, eps, 1 - eps)

    def pullback(g: Any) -> tuple[Any]:
        part = g / (z * (1 - z))
        return (part if eps is None else kept((x >= eps) & (x <= 1 - eps), part),)

    return np.log(z) - np.log1p(-z), pullback


@primitive(sample=lambda rng: (rng.normal(size=(3, 4)),), second="rerun")
@quiet
@in_float
def sinc(x: Any) -> Ruled:
    """Return sin(pi * x) / (pi * x), which is 1 at 0."""
    zero = np.equal(x, 0)
    z = np.where(zero, 1, x * math.pi)
    y = np.sin(z) / z
    # For all but 0 itself, where the slope is 0.
    return np.where(zero, 1, y), lambda g: (np.where(zero, 0, g * ((np.cos(z) - y) / z * math.pi)),)
