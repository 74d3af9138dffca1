"""Sums of what falls on the same place: how the gradients of selected elements come together.

The rule: the order of the additions is a function of the indices, so that the sums are the same in
every run; and `np.add.at`, which walks element by element, is for the few elements where nothing
else has begun by the time it is done.
"""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module

FEW_ELEMENTS = 2048
"""So few are added one by one before they could be sorted."""

FEW_PLACES = 24
"""So few places are summed one after the other before another round over all has begun."""

MANY_ROWS = 8
"""So many rows for each place, on average, are summed quicker place by place than in rounds."""

NARROW = 8
"""Rows of so few elements are summed as single elements."""

SPARSE = 8
"""Where less than one element in so many is hit, they are added one by one."""


def sum_rows(count: int, rows: Any, g: Any, out: Any = None) -> Any:
    """Return (count, m), in `out` if given: row `i` is the sum of the rows of `g` for which `rows`
    is `i`.

    `rows` is (k,), from 0 to count - 1; `g` is (k, m), its dtype that of the result. 16-bit floats
    are added in float32.

    The rows are sorted by where they go. The first of every place are copied at once, the second
    ones added at once, and so on, while there are many; what is left, the long tail of a few
    frequent places, is summed place by place.
    """
    module, width, dtype = array_module(g), g.shape[1], g.dtype
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        sums = sum_rows(count, rows, g.astype(np.float32))
        if out is None:
            return sums.astype(dtype)
        out[...] = sums
        return out
    if 0 < width <= NARROW and dtype.kind == "f":
        places = rows if width == 1 else (rows[:, None] * width + module.arange(width)).reshape(-1)
        sums = sum_elements(count * width, places, g.reshape(-1)).reshape(count, width)
        if out is None:
            return sums
        out[...] = sums
        return out
    if out is None:
        out = module.zeros((count, width), dtype=dtype)
    else:
        out[...] = 0
    if g.size <= FEW_ELEMENTS and module is np:
        np.add.at(out, rows, g)
        return out
    if not g.size:
        return out
    # NumPy sorts 16-bit integers by radix, in linear time.
    # NumPy sorts 16-bit integers by radix, in linear time.
    order = np.argsort(rows.astype(np.uint16) if count <= 1 << 16 else rows, kind="stable")
    places = rows[order]
    first = module.ones(len(rows), dtype=bool)
    np.not_equal(places[1:], places[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=len(rows))
    done = 0
    while len(starts) > FEW_PLACES and sizes.sum() < (done + MANY_ROWS) * len(starts):
        if done:
            out[places[starts]] += g[order[starts + done]]
        else:
            out[places[starts]] = g[order[starts]]
        done += 1
        left = sizes > done
        starts, sizes = starts[left], sizes[left]
    if len(starts):
        rest = g[order]
        for start, size, place in zip(
            starts.tolist(), sizes.tolist(), places[starts].tolist(), strict=True
        ):
            np.add.reduce(rest[start : start + size], axis=0, out=out[place])
    return out


def sum_elements(count: int, places: Any, g: Any) -> Any:
    """Return (count,): element `i` is the sum of those of `g` (k,) for which `places` is `i`.

    `places` is (k,), from 0 to count - 1. Where many are hit they are counted with weights, which
    adds in float64; 16-bit floats are added in float32.
    """
    dtype = g.dtype
    half = dtype.itemsize == 2 and dtype.kind not in "iu"
    if dtype.kind == "f" and not half and count <= SPARSE * len(places):
        return np.bincount(places, weights=g, minlength=count).astype(dtype, copy=False)
    sums = array_module(g).zeros(count, dtype=np.float32 if half else dtype)
    np.add.at(sums, places, g.astype(sums.dtype, copy=False))
    return sums.astype(dtype, copy=False)
