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


def _compiled(*, exact: bool = False, inline: str = "never") -> Callable[[Any], Any]:
    """Return a decorator that lets Numba compile a loop when it is first called."""
    options = {"error_model": "numpy", "nogil": True, "fastmath": not exact, "inline": inline}

    def compiled(function: Any) -> Any:
        try:
            return numba.njit(cache=inline == "never", **options)(function)
        except RuntimeError as error:  # there is no place to keep it
            log.info("%s is compiled anew in each process: %s", function.__name__, error)
            return numba.njit(**options)(function)

    return compiled


# -- of one number ----------------------------------------------------------------------------


@_compiled(inline="always")
def _exp(x: Any) -> Any:
    """e to the power of x within 2 units in the last place: S. Moshier's Cephes, expf."""
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
    return p * i32((i32(k) + i32(127)) << i32(23)).view(np.float32)


@_compiled(inline="always")
def _tanh(x: Any) -> Any:
    """The hyperbolic tangent within 5 units in the last place: the rational function of Eigen."""
    x = min(max(x, f(-7.90531110763549805)), f(7.90531110763549805))
    s = x * x
    p = f(-2.76076847742355e-16)
    p = p * s + f(2.00018790482477e-13)
    p = p * s + f(-8.60467152213735e-11)
    p = p * s + f(5.12229709037114e-08)
    p = p * s + f(1.48572235717979e-05)
    p = p * s + f(6.37261928875436e-04)
    p = p * s + f(4.89352455891786e-03)
    q = f(1.19825839466702e-06)
    q = q * s + f(1.18534705686654e-04)
    q = q * s + f(2.26843463243900e-03)
    q = q * s + f(4.89352518554385e-03)
    return p * x / q


@_compiled(inline="always")
def _sigmoid(x: Any) -> Any:
    return f(0.5) * _tanh(f(0.5) * x) + f(0.5)


@_compiled(inline="always")
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


@_compiled()
def gelu(x: Any, out: Any) -> None:
    """x times the normal distribution below x, of flat arrays."""
    for i in range(x.size):
        v = x[i]
        out[i] = v * (f(0.5) + f(0.5) * _erf(v * f(0.70710678)))


@_compiled()
def gelu_back(x: Any, g: Any, out: Any) -> None:
    """g times the slope of gelu, of flat arrays."""
    for i in range(x.size):
        v = x[i]
        below = f(0.5) + f(0.5) * _erf(v * f(0.70710678))
        out[i] = g[i] * (below + v * _exp(f(-0.5) * v * v) * f(0.39894228))


# -- rows -------------------------------------------------------------------------------------


@_compiled()
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


@_compiled()
def softmax_back(y: Any, g: Any, out: Any) -> None:
    """y * (g - sum of g * y), by rows."""
    rows, width = y.shape
    for i in range(rows):
        total = f(0)
        for j in range(width):
            total += y[i, j] * g[i, j]
        for j in range(width):
            out[i, j] = y[i, j] * (g[i, j] - total)


@_compiled()
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


@_compiled()
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


# -- recurrent cells --------------------------------------------------------------------------


@_compiled()
def lstm_cell(gates: Any, before: Any, cell: Any, bent: Any, hidden: Any) -> None:
    """One step of an LSTM, of rows: gates (B, 4H) in PyTorch's order, from sums to values.

    From the cell before to the new one, its hyperbolic tangent and the hidden state.
    """
    rows, width = before.shape
    for i in range(rows):
        for j in range(width):
            gates[i, j] = _sigmoid(gates[i, j])
        for j in range(width, 2 * width):
            gates[i, j] = _sigmoid(gates[i, j])
        for j in range(2 * width, 3 * width):
            gates[i, j] = _tanh(gates[i, j])
        for j in range(3 * width, 4 * width):
            gates[i, j] = _sigmoid(gates[i, j])
        for j in range(width):
            c = gates[i, width + j] * before[i, j] + gates[i, j] * gates[i, 2 * width + j]
            t = _tanh(c)
            cell[i, j] = c
            bent[i, j] = t
            hidden[i, j] = gates[i, 3 * width + j] * t


@_compiled()
def lstm_cell_back(
    gates: Any, before: Any, bent: Any, by_hidden: Any, by_cell: Any, by_gates: Any
) -> None:
    """One step back: from the cotangents of the hidden state and the cell to those of the sums.

    `by_cell` becomes that of the cell before.
    """
    rows, width = before.shape
    for i in range(rows):
        for j in range(width):
            enter, keep = gates[i, j], gates[i, width + j]
            new, leave = gates[i, 2 * width + j], gates[i, 3 * width + j]
            t, g = bent[i, j], by_hidden[i, j]
            c = by_cell[i, j] + g * leave * (f(1) - t * t)
            by_gates[i, j] = c * new * enter * (f(1) - enter)
            by_gates[i, width + j] = c * before[i, j] * keep * (f(1) - keep)
            by_gates[i, 2 * width + j] = c * enter * (f(1) - new * new)
            by_gates[i, 3 * width + j] = g * t * leave * (f(1) - leave)
            by_cell[i, j] = c * keep


# -- optimizers: exact ------------------------------------------------------------------------


@_compiled(exact=True)
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
