"""The long short-term memory over a whole sequence, as one primitive."""

from functools import cache
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
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

ORDER = (2, 3, 0, 1)
"""How the gates lie here: candidate, output, input, forget; the weights have them in PyTorch's
order, input, forget, candidate, output. So the sigmoids are neighbours, and tanh(c), which comes
before the candidate, output and input are as well: o * tanh(c) and i * n are alike."""


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
    batch = sequences.batch
    # Input, bias and hidden state side by side: a step is a single product.
    joint = stacked(ORDER, [w_ih, [b for b in (b_ih, b_hh) if b is not None], w_hh], like)
    joint[1:] *= 0.5  # sigmoid(a) = (1 + tanh(a / 2)) / 2: one pass of tanh serves all gates
    rows = beside_ones(x, hidden, like)
    out = beside(x, hidden, like)
    # What the pullback needs of a step: how the gates' arguments move output and cell, how the cell
    # moves the output, and how much of the cell is kept. Each is a product with what is at hand.
    slopes = module.empty((6 * sequences.count, hidden), dtype=like.dtype)
    gates = module.empty((5, batch, hidden), dtype=like.dtype)  # tanh(c), n, o, i, f
    products = module.empty((3, batch, hidden), dtype=like.dtype)  # o * tanh(c), i * n, f * c
    space = module.empty((3, batch, hidden), dtype=like.dtype)
    last_h = products[0]
    last_h[...] = sequences.start("lstm", h0, hidden, like)
    last_c = sequences.start("lstm", c0, hidden, like)
    for run in sequences.runs:
        tanhs, gate, sigmoids = (gates[k:m, : run.size] for k, m in ((0, 2), (1, 5), (2, 5)))
        t, n, o, i, f = gates[:, : run.size]
        made, c, rest = products[:, : run.size], last_c[: run.size], space[:, : run.size]
        h, fresh, kept = made
        of_tanhs, factors, part = made[:2], sigmoids[:2], rest[:2]
        slope = run.walk_blocks(slopes, 6)
        for inputs, before, y, by_sigmoids, by_tanhs, keep in pairs(
            run.walk(rows),
            run.walk(rows[:, -hidden:]),
            run.walk(out),
            slope[:, :3],
            slope[:, 4:2:-1],
            slope[:, 5],
        ):
            before[...] = h
            np.matmul(inputs, joint, out=gate)
            np.tanh(gate, out=gate)
            np.multiply(sigmoids, 0.5, out=sigmoids)
            np.add(sigmoids, 0.5, out=sigmoids)
            np.multiply(i, n, out=fresh)
            np.multiply(f, c, out=kept)
            np.add(fresh, kept, out=c)
            np.tanh(c, out=t)
            np.multiply(o, t, out=h)
            y[...] = h
            # The slope of s * r by the argument of a sigmoid s is s * r * (1 - s).
            np.subtract(1, sigmoids, out=rest)
            np.multiply(made, rest, out=by_sigmoids)
            # That of s * t by the argument of a tanh t is s * (1 - t * t).
            np.multiply(of_tanhs, tanhs, out=part)
            np.subtract(factors, part, out=by_tanhs)
            keep[...] = f
    value = (
        out.astype(dtype, copy=False),
        last_h.astype(dtype),
        last_c.astype(dtype, copy=False),
    )

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        g_out, g_h, g_c = cotangents
        carried_h, carried_c = g_h.astype(like.dtype), g_c.astype(like.dtype)
        recurrent = w_hh.astype(like.dtype, copy=False)
        # The cotangents of the gates' arguments, in the order of the weights.
        before = module.empty((sequences.count, 4 * hidden), dtype=like.dtype)
        space = module.empty((4, batch, hidden), dtype=like.dtype)
        for run in reversed(sequences.runs):
            dh, dc, d = carried_h[: run.size], carried_c[: run.size], space[:, : run.size]
            d_cell, do = d[:3], d[3]
            cut = pieces(run.size, recurrent)
            dh_pieces = dh.reshape(cut, -1, hidden)
            slope, rows_of_gates = (
                run.walk_blocks(slopes, 6, back=True),
                run.walk(before, back=True),
            )
            for g, by_o, by_cell, by_c, keep, row, row_pieces in pairs(
                run.walk(g_out, back=True),
                slope[:, 0],
                slope[:, 1:4],
                slope[:, 4],
                slope[:, 5],
                rows_of_gates.reshape(run.steps, run.size, 4, hidden).swapaxes(1, 2),
                rows_of_gates.reshape(run.steps, cut, -1, 4 * hidden),
            ):
                np.add(dh, g, out=dh)
                np.multiply(dh, by_o, out=do)
                np.multiply(dh, by_c, out=dh)
                np.add(dc, dh, out=dc)
                np.multiply(by_cell, dc, out=d_cell)
                np.multiply(dc, keep, out=dc)
                row[...] = d
                np.matmul(row_pieces, recurrent, out=dh_pieces)
        whole = cache(lambda: np.matmul(before.T, rows))
        return (
            lambda: product(before, w_ih.astype(like.dtype, copy=False)).reshape(x.shape),
            carried_h,
            carried_c,
            lambda: whole()[:, :width],
            lambda: whole()[:, width + 1 :],
            lambda: whole()[:, width],
            lambda: whole()[:, width],
        )

    return value, pullback
