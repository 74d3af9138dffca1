"""The long short-term memory over a whole sequence, as one primitive.

Gates lie as in the weights, in PyTorch's order: input, forget, candidate, output.
"""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.kernels import loops_for
from holdfast.core.ops.recurrent import (
    Ruled,
    Sequences,
    Sizes,
    beside,
    beside_ones,
    check_weights,
    pairs,
    pieces,
    product,
    sampled,
    stacked,
    working,
)
from holdfast.core.primitive import primitive


def _four(gates: Any) -> tuple[Any, Any, Any, Any]:
    width = gates.shape[1] // 4
    return gates[:, :width], *(gates[:, k * width : (k + 1) * width] for k in (1, 2, 3))


def lstm_cell(gates: Any, before: Any, cell: Any) -> None:
    """Make values of the tanh of the sums in `gates` (B, 4 * hidden), and the new cell.

    A sigmoid is (1 + tanh(a / 2)) / 2.
    """
    i, f, n, o = _four(gates)
    for sigmoid in (i, f, o):
        np.multiply(sigmoid, 0.5, out=sigmoid)
        np.add(sigmoid, 0.5, out=sigmoid)
    np.multiply(f, before, out=cell)
    np.add(cell, i * n, out=cell)


def lstm_hidden(gates: Any, bent: Any, hidden: Any, out: Any) -> None:
    """Make the hidden state of the cell's tangent, in two places."""
    np.multiply(_four(gates)[3], bent, out=hidden)
    out[...] = hidden


def lstm_cell_back(
    gates: Any, before: Any, bent: Any, g: Any, by_hidden: Any, by_cell: Any
) -> None:
    """Make the cotangents of the sums, in `gates`, of those of output, hidden state and cell.

    `by_cell` becomes that of the cell before; `by_hidden` is spoiled.
    """
    i, f, n, o = _four(gates)
    by_hidden += g
    by_hidden *= o
    by_cell += by_hidden * (1 - bent * bent)
    # The slope of a sigmoid s is s * (1 - s), that of a tanh n is 1 - n * n.
    o[...] = by_hidden * bent * (1 - o)
    by_n = by_cell * i * (1 - n * n)
    i *= by_cell * n * (1 - i)
    n[...] = by_n
    by_f = by_cell * before * f * (1 - f)
    by_cell *= f
    f[...] = by_f


def _steps_for(gates: Any) -> ModuleType:
    """Return the module whose steps serve `gates`: compiled ones where there are, else this."""
    compiled = loops_for(gates) is not None
    return importlib.import_module("holdfast.core.kernels.cells" if compiled else __name__)


@primitive(sample=sampled(4, 2))
def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    sizes: Sizes = None,
    reverse: bool = False,
) -> Ruled:
    """Return (output, h_n, c_n) of the LSTM (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    c = sigmoid(f) * c + sigmoid(i) * tanh(n) and h = sigmoid(o) * tanh(c), where (i, f, n, o) =
    w_ih x + b_ih + w_hh h + b_hh. x is (T, B, in), or (rows, in) with `sizes`; the states (B,
    hidden), None for zeros; the output has the axes of x. `reverse` goes from the last step to the
    first.
    """
    hidden = check_weights("lstm", 4, x, w_ih, w_hh)
    sequences = Sequences("lstm", x, sizes, reverse)
    like, dtype, width, module = working(x), x.dtype, x.shape[-1], array_module(x)
    # Input, bias and hidden state side by side: a step is a single product.
    (joint,) = stacked([0], [w_ih, [b for b in (b_ih, b_hh) if b is not None], w_hh], like)
    joint[:, : 2 * hidden] *= 0.5
    joint[:, 3 * hidden :] *= 0.5
    rows = beside_ones(x, hidden, like)
    out = beside(x, hidden, like)
    gates = module.empty((sequences.count, 4 * hidden), dtype=like.dtype)
    cells = module.empty((sequences.count, hidden), dtype=like.dtype)  # before each step
    bents = module.empty((sequences.count, hidden), dtype=like.dtype)
    last_h = sequences.start("lstm", h0, hidden, like)
    last_c = sequences.start("lstm", c0, hidden, like)
    steps = _steps_for(gates)
    for run in sequences.runs:
        # Each step writes its states where the next one reads them.
        states = [*run.walk(rows[:, -hidden:]), last_h[: run.size]]
        olds = [*run.walk(cells), last_c[: run.size]]
        states[0][...], olds[0][...] = states[-1], olds[-1]
        cut = pieces(run.size, joint)
        for inputs, sums, gate, old, new, bent, hidden_state, y in pairs(
            run.cut(rows, cut),
            run.cut(gates, cut),
            run.walk(gates),
            olds[:-1],
            olds[1:],
            run.walk(bents),
            states[1:],
            run.walk(out),
        ):
            np.matmul(inputs, joint, out=sums)
            np.tanh(gate, out=gate)
            steps.lstm_cell(gate, old, new)
            np.tanh(new, out=bent)
            steps.lstm_hidden(gate, bent, hidden_state, y)
    value = tuple(part.astype(dtype, copy=False) for part in (out, last_h, last_c))

    spent = False

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        # The cotangents of the sums take the place of the gates: what is read already is in the
        # cache. Only a second backward pays for it, and makes the gates again.
        nonlocal spent
        if spent:
            np.matmul(rows, joint, out=gates)
            np.tanh(gates, out=gates)
            steps.lstm_cell(gates, cells, np.empty_like(cells))
        spent = True
        g_out, g_h, g_c = cotangents
        carried_h, carried_c = g_h.astype(like.dtype), g_c.astype(like.dtype)
        recurrent = w_hh.astype(like.dtype, copy=False)
        for run in reversed(sequences.runs):
            dh, dc = carried_h[: run.size], carried_c[: run.size]
            cut = pieces(run.size, recurrent)
            sums = dh.reshape(cut, -1, hidden)
            for g, gate, old, bent, parts in pairs(
                run.walk(g_out, back=True),
                run.walk(gates, back=True),
                run.walk(cells, back=True),
                run.walk(bents, back=True),
                run.cut(gates, cut, back=True),
            ):
                steps.lstm_cell_back(gate, old, bent, g, dh, dc)
                np.matmul(parts, recurrent, out=sums)
        whole = cache(lambda: np.matmul(gates.T, rows))
        return (
            lambda: product(gates, w_ih.astype(like.dtype, copy=False)).reshape(x.shape),
            carried_h,
            carried_c,
            lambda: whole()[:, :width],
            lambda: whole()[:, width + 1 :],
            lambda: whole()[:, width],
            lambda: whole()[:, width],
        )

    return value, pullback
