"""Pooling: each offset within the window is one strided slice of the whole batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.conv import Pair, pair
from holdfast.core.primitive import primitive


class Windows:
    """Where the windows of a pooling lie: `offsets` are the slices that meet each place in them."""

    def __init__(self, name: str, x: Any, kernel: Pair, stride: Pair | None, padding: Pair) -> None:
        self.kernel, self.padding = pair(kernel), pair(padding)
        self.stride = self.kernel if stride is None else pair(stride)
        if x.ndim != 4:
            raise shape_error(name, "x (N, C, H, W)", x=x.shape)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise shape_error(
                name, "padding of at most half the kernel", kernel=self.kernel, padding=self.padding
            )
        self.padded = tuple(n + 2 * p for n, p in zip(x.shape[2:], self.padding, strict=True))
        self.output = tuple(
            (n - k) // s + 1 for n, k, s in zip(self.padded, self.kernel, self.stride, strict=True)
        )
        if min(self.output) < 1:
            raise shape_error(
                name, "images no smaller than the kernel", x=x.shape, kernel=self.kernel
            )
        self.tile = self.stride == self.kernel  # no element is in two windows
        self.cover = self.tile and self.padded == tuple(
            o * s for o, s in zip(self.output, self.stride, strict=True)
        )

    def offsets(self) -> Iterator[tuple[Any, ...]]:
        """Return for each place in the window, row by row, the index of its elements."""
        (kh, kw), (sy, sx), (oh, ow) = self.kernel, self.stride, self.output
        for i in range(kh):
            for j in range(kw):
                rows = slice(i, i + (oh - 1) * sy + 1, sy)
                columns = slice(j, j + (ow - 1) * sx + 1, sx)
                yield slice(None), slice(None), rows, columns

    def pad(self, x: Any, value: float) -> Any:
        """Return `x` within a border of `value`, in the same order of memory."""
        if self.padding == (0, 0):
            return x
        wide = self.blank(x, x.dtype)
        wide.fill(value)
        self.inside(wide)[...] = x
        return wide

    def inside(self, wide: Any) -> Any:
        """View what lies within the border of the padded array `wide`."""
        if self.padding == (0, 0):
            return wide
        top, left = self.padding
        return wide[:, :, top : self.padded[0] - top, left : self.padded[1] - left]

    def blank(self, x: Any, dtype: Any) -> Any:
        """Return a padded array in `x`'s order of memory: zeros, or unset where all is written."""
        module = array_module(x)
        make = module.empty_like if self.cover else module.zeros_like
        return make(x, dtype=dtype, shape=(*x.shape[:2], *self.padded))


def laid_out(g: Any, like: Any) -> Any:
    """Return `g` in the order of memory of `like`, which loops over both need to be quick."""
    if g.strides == like.strides:
        return g
    ordered = array_module(like).empty_like(like)
    ordered[...] = g
    return ordered


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(2, 3, 7, 6)),), {"kernel_size": (3, 2), "stride": 2, "padding": 1}


@primitive(sample=_sample)
def max_pool2d(
    x: Any, *, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> tuple[Any, Pullback]:
    """Return the largest of each window of x (N, C, H, W); of equal ones the first is taken."""
    windows = Windows("max_pool2d", x, kernel_size, stride, padding)
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = windows.pad(x, low)
    first, *others = windows.offsets()
    if others:
        y = np.maximum(padded[first], padded[others[0]])
        for at in others[1:]:
            np.maximum(y, padded[at], out=y)
    else:
        y = padded[first].copy(order="K")

    def pullback(g: Any) -> tuple[Any, ...]:
        g = laid_out(g, y)
        chosen, taken = np.equal(padded[first], y), None
        whole = windows.blank(x, g.dtype)
        for at in (first, *others):
            if taken is None:
                taken = chosen.copy(order="K") if others else chosen
            elif at is others[-1]:
                chosen = np.logical_not(taken, out=taken)
            else:
                np.equal(padded[at], y, out=chosen)
                np.greater(chosen, taken, out=chosen)  # chosen and not taken
                np.logical_or(taken, chosen, out=taken)
            if windows.tile:
                np.multiply(g, chosen, out=whole[at])
            else:
                whole[at] += g * chosen
        return (windows.inside(whole),)

    return y, pullback


@primitive(sample=_sample)
def avg_pool2d(
    x: Any, *, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> tuple[Any, Pullback]:
    """Return the mean of each window of x (N, C, H, W); the border counts as zeros."""
    windows = Windows("avg_pool2d", x, kernel_size, stride, padding)
    padded = windows.pad(x, 0.0)
    places = list(windows.offsets())
    y = padded[places[0]].copy(order="K")
    for at in places[1:]:
        y += padded[at]
    y *= 1 / len(places)

    def pullback(g: Any) -> tuple[Any, ...]:
        share = laid_out(g, y) * (1 / len(places))
        whole = windows.blank(x, g.dtype)
        for at in places:
            if windows.tile:
                whole[at] = share
            else:
                whole[at] += share
        return (windows.inside(whole),)

    return y, pullback
