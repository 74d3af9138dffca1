"""The gated recurrent unit over a whole sequence, as one primitive."""

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
    product,
    sampled,
    stacked,
    working,
)
from holdfast.core.primitive import primitive

INPUT_ORDER = (2, 0, 1)
"""How the gates' parts that come from the input lie here: new, reset, update. The weights have them
in PyTorch's order: reset, update, new."""

HIDDEN_ORDER = (0, 1, 2)
"""And those that come from the hidden state."""


@primitive(sample=sampled(3, 1))
def gru(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    sizes: Sizes = None,
    reverse: bool = False,
) -> Ruled:
    """Return (output, h_n) of the gated recurrent unit (Cho et al., 2014), as PyTorch has it.

    h = (1 - z) * n + z * h with r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z) and n = tanh(a_n +
    r * b_n), where a = w_ih x + b_ih and b = w_hh h + b_hh. x is (T, B, in), or (rows, in) with
    `sizes`; h0 and h_n (B, hidden), None for zeros; the output has the axes of x. `reverse` goes
    from the last step to the first.
    """
    hidden = check_weights("gru", 3, x, w_ih, w_hh)
    sequences = Sequences("gru", x, sizes, reverse)
    like, dtype, width, module = working(x), x.dtype, x.shape[-1], array_module(x)
    last = sequences.start("gru", h0, hidden, like)
    by_input = stacked(INPUT_ORDER, [w_ih, [] if b_ih is None else [b_ih]], like)
    by_hidden = stacked(HIDDEN_ORDER, [[] if b_hh is None else [b_hh], w_hh], like)
    by_input[1:] *= 0.5  # sigmoid(a) = (1 + tanh(a / 2)) / 2
    by_hidden[:2] *= 0.5
    inputs = beside_ones(x, 0, like)
    states = module.empty((sequences.count, 1 + hidden), dtype=like.dtype)
    states[:, 0] = 1
    gates = module.empty((3 * sequences.count, hidden), dtype=like.dtype)  # new, reset, update
    terms = module.empty((sequences.count, hidden), dtype=like.dtype)  # b_n
    out = beside(x, hidden, like)
    spaces = module.empty((3, sequences.batch, hidden), dtype=like.dtype)
    for run in sequences.runs:
        h = last[: run.size]
        parts = spaces[:, : run.size]
        sigmoid_parts, part = parts[:2], parts[2]
        gate = run.walk_blocks(gates, 3)
        np.matmul(run.walk(inputs)[:, None], by_input, out=gate)
        for state, before, sigmoids, n, r, z, term, y in pairs(
            run.walk(states),
            run.walk(states[:, 1:]),
            gate[:, 1:],
            gate[:, 0],
            gate[:, 1],
            gate[:, 2],
            run.walk(terms),
            run.walk(out),
        ):
            before[...] = h
            np.matmul(state, by_hidden, out=parts)
            np.add(sigmoids, sigmoid_parts, out=sigmoids)
            np.tanh(sigmoids, out=sigmoids)
            np.multiply(sigmoids, 0.5, out=sigmoids)
            np.add(sigmoids, 0.5, out=sigmoids)
            term[...] = part
            np.multiply(part, r, out=part)
            np.add(n, part, out=n)
            np.tanh(n, out=n)
            np.subtract(h, n, out=part)
            np.multiply(part, z, out=part)
            np.add(n, part, out=h)
            y[...] = h
    value = (out.astype(dtype, copy=False), last.astype(dtype, copy=False))

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        g_out, g_h = cotangents
        carried = g_h.astype(like.dtype)
        recurrent = w_hh.reshape(3, hidden, hidden).astype(like.dtype, copy=False)
        # The cotangents of a_r and b_r, a_z and b_z, a_n, b_n.
        before = module.empty((sequences.count, 4 * hidden), dtype=like.dtype)
        spaces = module.empty((6, sequences.batch, hidden), dtype=like.dtype)
        for run in reversed(sequences.runs):
            dh = carried[: run.size]
            parts, part = spaces[:3, : run.size], spaces[3, : run.size]
            front, rear = parts[:2], parts[2]
            slopes = spaces[4:, : run.size]
            gate = run.walk_blocks(gates, 3, back=True)
            for g, state, term, sigmoids, n, r, z, d_sigmoids, (dr, dz, dn, dt) in pairs(
                run.walk(g_out, back=True),
                run.walk(states[:, 1:], back=True),
                run.walk(terms, back=True),
                gate[:, 1:],
                gate[:, 0],
                gate[:, 1],
                gate[:, 2],
                run.walk_gates(before[:, : 2 * hidden], 2, back=True),
                run.walk_gates(before, 4, back=True),
            ):
                np.add(dh, g, out=dh)
                # h = n + z * (h' - n); the slope of a sigmoid s is s * (1 - s), of n 1 - n * n
                np.subtract(state, n, out=dz)
                np.multiply(dz, dh, out=dz)
                np.multiply(dh, z, out=part)
                np.subtract(dh, part, out=dh)
                np.multiply(n, n, out=dn)
                np.subtract(1, dn, out=dn)
                np.multiply(dn, dh, out=dn)
                np.multiply(dn, r, out=dt)
                np.multiply(dn, term, out=dr)
                np.subtract(1, sigmoids, out=slopes)
                np.multiply(slopes, sigmoids, out=slopes)
                np.multiply(d_sigmoids, slopes, out=d_sigmoids)
                np.matmul(d_sigmoids, recurrent[:2], out=front)
                np.matmul(dt, recurrent[2], out=rear)
                np.add(part, rear, out=dh)
                np.add(dh, front[0], out=dh)
                np.add(dh, front[1], out=dh)
        of_input = cache(lambda: np.matmul(before[:, : 3 * hidden].T, inputs))

        @cache
        def of_hidden() -> Any:
            whole = module.empty((3 * hidden, 1 + hidden), dtype=like.dtype)
            np.matmul(before[:, : 2 * hidden].T, states, out=whole[: 2 * hidden])
            np.matmul(before[:, 3 * hidden :].T, states, out=whole[2 * hidden :])
            return whole

        def by_x() -> Any:
            weights = w_ih.astype(like.dtype, copy=False)
            return product(before[:, : 3 * hidden], weights).reshape(x.shape)

        return (
            by_x,
            carried,
            lambda: of_input()[:, :width],
            lambda: of_hidden()[:, 1:],
            lambda: of_input()[:, width],
            lambda: of_hidden()[:, 0],
        )

    return value, pullback
