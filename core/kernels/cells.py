"""The compiled loops of recurrent cells, without their hyperbolic tangents: NumPy's are quicker.

Gates lie as in `ops/lstm.py`. The rule: rows are sliced before they are walked over, and a loop has
few of them. So the compiler sees that elements are neighbours and can test that rows do not
overlap, which it needs to compute sixteen at once.
"""

from typing import Any

import numpy as np

from holdfast.core.kernels.loops import compiled

f = np.float32


@compiled()
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


@compiled()
def lstm_hidden(gates: Any, bent: Any, hidden: Any, out: Any) -> None:
    """From the output gate and the cell's tangent to the hidden state, in two places."""
    rows, width = bent.shape
    for row in range(rows):
        o, t, h, y = gates[row, 3 * width :], bent[row], hidden[row], out[row]
        for j in range(width):
            value = o[j] * t[j]
            h[j] = value
            y[j] = value


@compiled()
def lstm_cell_back(
    gates: Any, before: Any, bent: Any, g: Any, by_hidden: Any, by_cell: Any
) -> None:
    """From the cotangents of output, hidden state and cell to those of the sums, in `gates`."""
    rows, width = before.shape
    for row in range(rows):
        i, k = gates[row, :width], gates[row, width : 2 * width]
        n, o = gates[row, 2 * width : 3 * width], gates[row, 3 * width :]
        old, t, given, dh, dc = before[row], bent[row], g[row], by_hidden[row], by_cell[row]
        for j in range(width):
            dh[j] = (dh[j] + given[j]) * o[j]
        for j in range(width):
            dc[j] += dh[j] * (f(1) - t[j] * t[j])
        for j in range(width):
            o[j] = dh[j] * t[j] * (f(1) - o[j])
        for j in range(width):
            enter, new = i[j], n[j]
            i[j] = dc[j] * new * enter * (f(1) - enter)
            n[j] = dc[j] * enter * (f(1) - new * new)
        for j in range(width):
            keep, c = k[j], dc[j]
            k[j] = c * old[j] * keep * (f(1) - keep)
            dc[j] = c * keep
