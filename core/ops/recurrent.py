"""What the recurrent primitives share, and the simplest of them: the steps of a sequence in order.

Rows are flat: those of step 0, then those of step 1, and so on. All steps have the same batch, or
`sizes` says how many of the sequences, longest first, still run at each (PyTorch's packed data).

The rules: what does not wait for the step before is one matrix product over all rows; a step is
one product and a few passes over blocks that stay in cache, one block per gate; nothing is
allocated within a step.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import check_dtypes, shape_error
from holdfast.core.ops.precision import accumulator
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]
Sizes = tuple[int, ...] | None


@dataclass(frozen=True)
class Run:
    """Steps in a row whose batches have one size: `rows` of the flat arrays."""

    rows: slice
    steps: int
    size: int
    reverse: bool

    def walk(self, array: Any, *, back: bool = False) -> Any:
        """Return views (steps, size, k) of `array`, (rows, k) or even (T, B, k).

        They come in the recurrence's order, or with `back` in the pullback's.
        """
        views = array
        if array.ndim == 2:
            views = array[self.rows].reshape(self.steps, self.size, array.shape[1])
        return views[::-1] if self.reverse != back else views

    def cut(self, array: Any, pieces: int, *, back: bool = False) -> Any:
        """Return views (steps, pieces, size / pieces, k) of `array` (rows, k), likewise."""
        return self.walk(array, back=back).reshape(self.steps, pieces, -1, array.shape[1])

    def walk_gates(self, array: Any, gates: int, *, back: bool = False) -> Any:
        """Return views (steps, gates, size, k) of `array` (rows, gates * k), in the same order."""
        views = self.walk(array, back=back)
        return views.reshape(self.steps, self.size, gates, -1).swapaxes(1, 2)

    def walk_blocks(self, array: Any, blocks: int, *, back: bool = False) -> Any:
        """Return views (steps, blocks, size, k) of `array` (rows * blocks, k), in the same order.

        The blocks of a step lie next to each other: what a step touches is one piece of memory.
        """
        part = array[self.rows.start * blocks : self.rows.stop * blocks]
        views = part.reshape(self.steps, blocks, self.size, -1)
        return views[::-1] if self.reverse != back else views


class Sequences:
    """How the rows of `x`, (T, B, in) or packed (rows, in), fall into steps.

    Raises ShapeError if `x` has other axes, UsageError if `sizes` are not those of its rows.
    """

    def __init__(self, name: str, x: Any, sizes: Sizes, reverse: bool) -> None:
        if x.ndim != (3 if sizes is None else 2) or not x.shape[0]:
            raise shape_error(name, "x (T, B, in), T at least 1, or packed (rows, in)", x=x.shape)
        if sizes is None:
            sizes = (x.shape[1],) * x.shape[0]
        elif sum(sizes) != len(x) or any(a < b for a, b in pairwise(sizes)) or sizes[-1] < 1:
            raise UsageError(
                f"{name}: batch sizes fall from step to step and add up to the {len(x)} rows of x; "
                f"found {list(sizes)}"
            )
        self.batch = sizes[0]
        self.runs: list[Run] = []
        start = 0
        for size, group in groupby(sizes):
            steps = len(list(group))
            self.runs.append(Run(slice(start, start + steps * size), steps, size, reverse))
            start += steps * size
        self.count = start  # rows in all
        if reverse:
            self.runs.reverse()

    def start(self, name: str, given: Any, width: int, like: Any) -> Any:
        """Return a copy (B, width) of the first state in the dtype of `like`, zeros for None.

        Steps overwrite the rows of the sequences that run; so in the end it is the last state of
        all of them.
        """
        if given is None:
            return array_module(like).zeros((self.batch, width), dtype=like.dtype)
        if given.shape != (self.batch, width):
            raise shape_error(name, f"a first state ({self.batch}, {width})", state=given.shape)
        return given.astype(like.dtype)


SMALL = 1_000_000
"""Multiplications in a product so small that OpenBLAS does not copy its factors first."""


def pieces(rows: int, weight: Any) -> int:
    """Return into how many products to cut that of `rows` rows and `weight`, so that each is small.

    They take a fifth less time than the whole, where they are not too small; else 1.
    """
    most = min(SMALL // max(weight.size, 1), rows)
    return next((rows // size for size in range(most, 3, -1) if rows % size == 0), 1)


def product(rows: Any, weight: Any) -> Any:
    """Return `rows` (n, k) times `weight` (k, m), in small products where these are quicker."""
    cut = pieces(len(rows), weight)
    parts = np.matmul(rows.reshape(cut, -1, rows.shape[1]), weight)
    return parts.reshape(-1, weight.shape[1])


def working(x: Any) -> Any:
    """Return an empty array whose dtype is the one to compute in for `x`."""
    return array_module(x).empty(0, dtype=accumulator(x.dtype))


def beside(x: Any, width: int, like: Any) -> Any:
    """Return an empty array of the axes of `x`, but the last of `width`.

    Where the batch comes first in the memory of `x`, it does here: so a layer with `batch_first`
    hands on what need not be copied.
    """
    empty = array_module(x).empty
    if x.ndim == 3 and x.strides[1] > x.strides[0]:
        steps, batch = x.shape[:2]
        return empty((batch, steps, width), dtype=like.dtype).swapaxes(0, 1)
    return empty((*x.shape[:-1], width), dtype=like.dtype)


def beside_ones(x: Any, more: int, like: Any) -> Any:
    """Return (rows, in + 1 + more): `x`, a column of ones, which a bias multiplies, and room."""
    width = x.shape[-1]
    rows = array_module(x).empty((*x.shape[:-1], width + 1 + more), dtype=like.dtype)
    rows[..., :width] = x
    rows[..., width] = 1
    return rows.reshape(-1, width + 1 + more)


def stacked(order: Sequence[int], parts: Iterable[Any], like: Any) -> Any:
    """Return (gates, sum of widths, hidden): for each gate in `order`, `parts` over each other.

    A part is a weight (gates * hidden, width), transposed here; a list of biases (gates * hidden,),
    which are added into one row, of zeros if there are none.
    """
    columns = [[p[:, None] for p in part] if isinstance(part, list) else part for part in parts]
    hidden = next(len(c) for c in columns if not isinstance(c, list)) // len(order)
    widths = [1 if isinstance(c, list) else c.shape[1] for c in columns]
    whole = array_module(like).empty((len(order), sum(widths), hidden), dtype=like.dtype)
    for block, gate in zip(whole, order, strict=True):
        rows = slice(gate * hidden, (gate + 1) * hidden)
        top = 0
        for column, width in zip(columns, widths, strict=True):
            place = block[top : top + width].T
            if isinstance(column, list):
                place[...] = 0
                for bias in column:
                    place += bias[rows]
            else:
                place[...] = column[rows]
            top += width
    return whole


def check_weights(name: str, gates: int, x: Any, w_ih: Any, w_hh: Any) -> int:
    """Return the hidden size; raise ShapeError if the weights are not for `x` or each other, and
    UsageError if they are of another dtype."""
    check_dtypes(name, x=x, w_ih=w_ih, w_hh=w_hh)
    hidden = int(w_hh.shape[-1])
    if w_ih.shape != (gates * hidden, x.shape[-1]) or w_hh.shape != (gates * hidden, hidden):
        lead = "hidden" if gates == 1 else f"{gates} * hidden"
        raise shape_error(
            name,
            f"w_ih ({lead}, in) and w_hh ({lead}, hidden) for x (..., in)",
            x=x.shape,
            w_ih=w_ih.shape,
            w_hh=w_hh.shape,
        )
    return hidden


def sampled(gates: int, states: int) -> Any:
    """Return a sampler of arguments: even and packed batches, both directions."""

    def sample(rng: np.random.Generator) -> tuple[Any, ...]:
        packed, reverse = bool(rng.integers(2)), bool(rng.integers(2))
        sizes = (3, 3, 2, 1) if packed else None
        x = rng.normal(size=(9, 2) if packed else (4, 3, 2))
        first = [rng.normal(size=(3, 5)) for _ in range(states)]
        weights = [rng.normal(size=(gates * 5, width)) / 2 for width in (2, 5)]
        biases = [rng.normal(size=gates * 5) for _ in range(2)]
        return (x, *first, *weights, *biases), {"sizes": sizes, "reverse": reverse}

    return sample


def pairs(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Walk over the steps of several arrays at once."""
    return zip(*arrays, strict=True)


def _sample_rnn(rng: np.random.Generator) -> tuple[Any, ...]:
    arguments, options = sampled(1, 1)(rng)
    return arguments, {**options, "relu": bool(rng.integers(2))}


@primitive(sample=_sample_rnn)
def rnn(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    relu: bool = False,
    sizes: Sizes = None,
    reverse: bool = False,
) -> Ruled:
    """Return (output, h_n) of h = tanh(w_ih x + b_ih + w_hh h + b_hh), or relu instead of tanh.

    x is (T, B, in), or (rows, in) with `sizes`; h0 and h_n (B, hidden), None for zeros; the output
    has the axes of x. `reverse` goes from the last step to the first. Elman, 1990.
    """
    hidden = check_weights("rnn", 1, x, w_ih, w_hh)
    sequences = Sequences("rnn", x, sizes, reverse)
    like, dtype, width, module = working(x), x.dtype, x.shape[-1], array_module(x)
    state = sequences.start("rnn", h0, hidden, like)
    (joint,) = stacked([0], [w_ih, [b for b in (b_ih, b_hh) if b is not None], w_hh], like)
    rows = beside_ones(x, hidden, like)
    out = beside(x, hidden, like)
    for run in sequences.runs:
        h = state[: run.size]
        for inputs, before, y in pairs(run.walk(rows), run.walk(rows[:, -hidden:]), run.walk(out)):
            before[...] = h
            np.matmul(inputs, joint, out=h)
            if relu:
                np.maximum(h, 0, out=h)
            else:
                np.tanh(h, out=h)
            y[...] = h
    value = (out.astype(dtype, copy=False), state.astype(dtype, copy=False))

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        g_out, g_h = cotangents
        carried = g_h.astype(like.dtype)
        recurrent = w_hh.astype(like.dtype, copy=False)
        slopes = out > 0 if relu else 1 - out * out
        before = module.empty((sequences.count, hidden), dtype=like.dtype)
        for run in reversed(sequences.runs):
            dh = carried[: run.size]
            for g, slope, d in pairs(
                run.walk(g_out, back=True),
                run.walk(slopes, back=True),
                run.walk(before, back=True),
            ):
                np.add(dh, g, out=dh)
                np.multiply(dh, slope, out=d)
                np.matmul(d, recurrent, out=dh)
        whole = cache(lambda: np.matmul(before.T, rows))
        return (
            lambda: product(before, w_ih.astype(like.dtype, copy=False)).reshape(x.shape),
            carried,
            lambda: whole()[:, :width],
            lambda: whole()[:, width + 1 :],
            lambda: whole()[:, width],
            lambda: whole()[:, width],
        )

    return value, pullback
