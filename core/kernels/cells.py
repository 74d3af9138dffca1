"""The compiled loops of recurrent cells, without their hyperbolic tangents: NumPy's are quicker.

Gates lie as in `ops/lstm.py`. The rule: rows are sliced before they are walked over, and a loop has
few of them. So the compiler sees that elements are neighbours and can test that rows do not
overlap, which it needs to compute sixteen at once.
"""

from typing import Any

import numba
import numpy as np

f = np.float32

_compiled = numba.njit(cache=True, error_model="numpy", nogil=True, fastmath=True)


@_compiled
def lstm_cell(gates: Any, before: Any, cell: Any) -> None:
    """From tangents of sums to the gates' values, in place, and from the cell before to the new."""
    rows, width = before.shape
    for row in range(rows):
        i, k = gates[row, :width], gates[row, width : 2 * width]
        n, o = gates[row, 2 * width : 3 * width], gates[row, 3 * width :]
        old, new = before[row], cell[row]
        for j in range(width):
            enter, keep = f(0.5) * i[j] + f(0.5), f(0.5) * k[j] + f(0.5)
            i[j] = enter
            k[j] = keep
            new[j] = keep * old[j] + enter * n[j]
        for j in range(width):
            o[j] = f(0.5) * o[j] + f(0.5)


@_compiled
def lstm_hidden(gates: Any, bent: Any, hidden: Any, out: Any) -> None:
    """From the output gate and the cell's tangent to the hidden state, in two places."""
    rows, width = bent.shape
    for row in range(rows):
        o, t, h, y = gates[row, 3 * width :], bent[row], hidden[row], out[row]
        for j in range(width):
            value = o[j] * t[j]
            h[j] = value
            y[j] = value


@_compiled
def lstm_cell_back(
    gates: Any, before: Any, bent: Any, g: Any, by_hidden: Any, by_cell: Any, by_gates: Any
) -> None:
    """From the cotangents of output, hidden state and cell to those of the gates' sums."""
    rows, width = before.shape
    for row in range(rows):
        i, k = gates[row, :width], gates[row, width : 2 * width]
        n, o = gates[row, 2 * width : 3 * width], gates[row, 3 * width :]
        by_i, by_k = by_gates[row, :width], by_gates[row, width : 2 * width]
        by_n, by_o = by_gates[row, 2 * width : 3 * width], by_gates[row, 3 * width :]
        old, t, given, dh, dc = before[row], bent[row], g[row], by_hidden[row], by_cell[row]
        for j in range(width):
            dh[j] = (dh[j] + given[j]) * o[j]
        for j in range(width):
            by_o[j] = dh[j] * t[j] * (f(1) - o[j])
        for j in range(width):
            dc[j] += dh[j] * (f(1) - t[j] * t[j])
        for j in range(width):
            by_i[j] = dc[j] * n[j] * i[j] * (f(1) - i[j])
            by_n[j] = dc[j] * i[j] * (f(1) - n[j] * n[j])
        for j in range(width):
            by_k[j] = dc[j] * old[j] * k[j] * (f(1) - k[j])
            dc[j] *= k[j]
