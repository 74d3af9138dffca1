"""The compiled loops, and the functions of one number that they are made of.

Loops that make weights are exact: they round as NumPy does on every processor, so that all ranks
of a job end with the same bits. The others may add up in another order. Arrays are float32 and
contiguous; what is written is named `out` or stands last.
"""

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

f = np.float32
i32 = np.int32

log = logging.getLogger("holdfast.kernels")


def compiled(*, exact: bool = False, inline: str = "never") -> Callable[[Any], Any]:
    """Return a decorator that lets Numba compile a loop when it is first called."""
    loose = {"reassoc", "contract", "arcp", "nsz", "afn"}  # infinities and NaNs stay what they are
    options = {
        "error_model": "numpy",
        "nogil": True,
        "fastmath": False if exact else loose,
        "inline": inline,
    }

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=inline == "never", **options)(function)
        except RuntimeError as error:  # there is no place to keep it
            log.info("%s is compiled anew in each process: %s", function.__name__, error)
            return numba.njit(**options)(function)

    return decorate


# -- of one number ----------------------------------------------------------------------------


@compiled(inline="always")
def _exp(x: Any) -> Any:
    """e to the power of x within 2 units in the last place: S. Moshier's Cephes, expf.

    0 below -87, where float32 has no more normal numbers; infinite above 88.
    """
    given = x
    x = min(max(x, f(-87.3)), f(88.0))
    k = np.floor(x * f(1.44269504088896341) + f(0.5))
    r = x - k * f(0.693359375)
    r = r - k * f(-2.12194440e-4)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    p = p * (r * r) + r + f(1.0)
    value = p * i32((i32(k) + i32(127)) << i32(23)).view(np.float32)
    value = value if given >= f(-87.3) else f(0)
    value = value if given <= f(88.0) else f(np.inf)
    return value if given == given else given


@compiled(inline="always")
def _erf(z: Any) -> Any:
    """The error function within 4e-7: the rational function of Eigen."""
    z = min(max(z, f(-4.0)), f(4.0))
    s = z * z
    p = f(-2.72614225801306e-10)
    p = p * s + f(2.77068142495902e-08)
    p = p * s + f(-2.10102402082508e-06)
    p = p * s + f(-5.69250639462346e-05)
    p = p * s + f(-7.34990630326855e-04)
    p = p * s + f(-2.95459980854025e-03)
    p = p * s + f(-1.60960333262415e-02)
    q = f(-1.45660718464996e-05)
    q = q * s + f(-2.13374055278905e-04)
    q = q * s + f(-1.68282697438203e-03)
    q = q * s + f(-7.37332916720468e-03)
    q = q * s + f(-1.42647390514189e-02)
    return p * z / q


# -- activations ------------------------------------------------------------------------------


@compiled()
def gelu(x: Any, out: Any) -> None:
    """x times the normal distribution below x, of flat arrays."""
    for i in range(x.size):
        v = x[i]
        out[i] = v * (f(0.5) + f(0.5) * _erf(v * f(0.70710678)))


@compiled()
def gelu_back(x: Any, g: Any, out: Any) -> None:
    """g times the slope of gelu, of flat arrays."""
    for i in range(x.size):
        v = x[i]
        below = f(0.5) + f(0.5) * _erf(v * f(0.70710678))
        out[i] = g[i] * (below + v * _exp(f(-0.5) * v * v) * f(0.39894228))


# -- rows -------------------------------------------------------------------------------------


@compiled()
def softmax(x: Any, out: Any) -> None:
    """The exponentials of each row, scaled to sum to 1."""
    rows, width = x.shape
    for i in range(rows):
        top = x[i, 0]
        for j in range(width):
            top = max(top, x[i, j])
        total = f(0)
        for j in range(width):
            e = _exp(x[i, j] - top)
            out[i, j] = e
            total += e
        share = f(1) / total
        for j in range(width):
            out[i, j] *= share


@compiled()
def softmax_back(y: Any, g: Any, out: Any) -> None:
    """y * (g - sum of g * y), by rows."""
    rows, width = y.shape
    for i in range(rows):
        total = f(0)
        for j in range(width):
            total += y[i, j] * g[i, j]
        for j in range(width):
            out[i, j] = y[i, j] * (g[i, j] - total)


@compiled()
def layer_norm(x: Any, weight: Any, bias: Any, eps: Any, out: Any, mean: Any, scale: Any) -> None:
    """Each row less its mean, by its deviation, times weight, plus bias; keeps both numbers."""
    rows, width = x.shape
    for i in range(rows):
        total = f(0)
        for j in range(width):
            total += x[i, j]
        middle = total / f(width)
        squares = f(0)
        for j in range(width):
            apart = x[i, j] - middle
            squares += apart * apart
        by = f(1) / np.sqrt(squares / f(width) + eps)
        for j in range(width):
            out[i, j] = (x[i, j] - middle) * by * weight[j] + bias[j]
        mean[i] = middle
        scale[i] = by


@compiled()
def layer_norm_back(
    x: Any, weight: Any, g: Any, mean: Any, scale: Any, by_x: Any, by_weight: Any, by_bias: Any
) -> None:
    """The cotangents of a layer norm's arguments."""
    rows, width = x.shape
    for j in range(width):
        by_weight[j] = f(0)
        by_bias[j] = f(0)
    for i in range(rows):
        middle, by = mean[i], scale[i]
        plain, along = f(0), f(0)
        for j in range(width):
            h = (x[i, j] - middle) * by
            part = g[i, j] * weight[j]
            plain += part
            along += part * h
            by_weight[j] += g[i, j] * h
            by_bias[j] += g[i, j]
        plain /= f(width)
        along /= f(width)
        for j in range(width):
            by_x[i, j] = by * (g[i, j] * weight[j] - plain - (x[i, j] - middle) * by * along)


# -- optimizers: exact ------------------------------------------------------------------------


@compiled(exact=True)
def adam(
    w: Any, g: Any, mean: Any, square: Any, beta1: Any, beta2: Any, root: Any, eps: Any
) -> None:
    """One step of Adam over flat memory; core/optim/adam.py says what the numbers are."""
    for i in range(w.size):
        m = mean[i] * beta1 + g[i]
        s = square[i] * beta2 + g[i] * g[i]
        mean[i] = m
        square[i] = s
        w[i] -= m / (np.sqrt(s) * root + eps)
