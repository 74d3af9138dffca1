"""Primitives that normalise channels: over a batch, or in groups within each example.

The rule: an array is seen as it lies in memory, as (outer, channels, inner), whatever order its
axes are named in, and its result lies likewise. Work goes by blocks that stay in cache, with long
inner loops: where `inner` is short, numbers for channels are repeated over it first.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.layout import inverse, memory_order
from holdfast.core.ops.precision import accumulator
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]

BLOCK_BYTES = {"numpy": 512 * 1024, "cupy": 256 * 1024 * 1024}
"""Of a block: half of a usual second-level cache; on a GPU, enough to fill it."""

SUMMED = 64
"""Elements from which `inner` is summed for itself, by BLAS; shorter ones with the outer axis."""

LONG = 1024
"""Elements from which an inner loop is worth its start."""


class _Channels:
    """Passes over arrays (outer, channels, inner): sums by channel, and maps with its numbers."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any, module: Any) -> None:
        self.shape, self.module, self.dtype = shape, module, accumulator(dtype)
        outer, channels, inner = shape
        row = max(channels * inner * np.dtype(self.dtype).itemsize, 1)
        room = BLOCK_BYTES[module.__name__]
        self.tall = max(1, min(outer, room // row))
        self.wide = channels if self.tall > 1 else max(1, min(channels, room * channels // row))

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        outer, channels, _ = self.shape
        for start in range(0, outer, self.tall):
            for first in range(0, channels, self.wide):
                yield (
                    slice(start, min(start + self.tall, outer)),
                    slice(first, min(first + self.wide, channels)),
                )

    def widen(self, array: Any) -> Any:
        """Return `array` in the dtype to compute in."""
        return array.astype(self.dtype, copy=False)

    def spread(self, numbers: Any) -> Any:
        """Return a number for each channel so that it broadcasts to (outer, channels, inner)."""
        column = self.widen(numbers)[:, None]
        return column if self.shape[2] >= LONG else np.repeat(column, self.shape[2], axis=1)

    def scratch(self) -> Any:
        """Return memory for a block, made anew: a pullback should not keep any."""
        return self.module.empty((self.tall, self.wide, self.shape[2]), dtype=self.dtype)

    def total(self, x: Any) -> Any:
        """Return the sum of each channel."""
        sums = self.module.zeros(self.shape[1], dtype=self.dtype)
        for at in self:
            sums[at[1]] += _sums(self.widen(x[at]))
        return sums

    def squares(self, x: Any, mean: Any) -> Any:
        """Return the sum of each channel's squared distances from its mean."""
        sums, scratch = self.module.zeros(self.shape[1], dtype=self.dtype), self.scratch()
        mean = self.spread(mean)
        for at in self:
            part = self.widen(x[at])
            apart = np.subtract(part, mean[at[1]], out=_like(part, scratch))
            sums[at[1]] += _dots(apart, apart)
        return sums

    def products(self, x: Any, mean: Any, g: Any) -> tuple[Any, Any]:
        """Return each channel's sum of `g`, and of `g` times `x` less its mean."""
        plain, apart = (self.module.zeros(self.shape[1], dtype=self.dtype) for _ in range(2))
        mean, scratch = self.spread(mean), self.scratch()
        for at in self:
            part, change = self.widen(x[at]), self.widen(g[at])
            plain[at[1]] += _sums(change)
            centred = np.subtract(part, mean[at[1]], out=_like(part, scratch))
            apart[at[1]] += _dots(centred, change)
        return plain, apart

    def blend(self, x: Any, slope: Any, level: Any, g: Any = None, gain: Any = None) -> Any:
        """Return x * slope + level, plus g * gain if given, in the dtype of `x`."""
        out = self.module.empty(self.shape, dtype=x.dtype)
        slope, level, gain = (None if n is None else self.spread(n) for n in (slope, level, gain))
        scratch = None if g is None else self.scratch()
        wide = None if out.dtype == self.dtype else self.scratch()
        for at in self:
            part = self.widen(x[at])
            into = out[at] if wide is None else _like(part, wide)
            np.multiply(part, slope[at[1]], out=into)
            if level is not None:
                into += level[at[1]]
            if g is not None:
                into += np.multiply(self.widen(g[at]), gain[at[1]], out=_like(part, scratch))
            if wide is not None:
                out[at] = into
        return out


def _like(part: Any, scratch: Any) -> Any:
    """Return the beginning of scratch memory in the shape of a block."""
    return scratch[: len(part), : part.shape[1]]


def _sums(block: Any) -> Any:
    """Return the sums of (outer, channels, inner) by channel."""
    outer, channels, inner = block.shape
    module = array_module(block)
    if inner >= SUMMED:
        ones = module.ones(inner, dtype=block.dtype)
        return (block.reshape(-1, inner) @ ones).reshape(outer, channels).sum(axis=0)
    ones = module.ones(outer, dtype=block.dtype)
    return (ones @ block.reshape(outer, -1)).reshape(channels, inner).sum(axis=1)


def _dots(scratch: Any, other: Any) -> Any:
    """Return the sums of the products of two blocks by channel; the first may be overwritten."""
    if scratch.shape[2] >= SUMMED:
        return np.matmul(scratch[:, :, None], other[..., None])[:, :, 0, 0].sum(axis=0)
    scratch *= other
    return _sums(scratch)


class _Layout:
    """How (N, C, ...) lies in memory, and the way there and back."""

    def __init__(self, x: Any) -> None:
        self.order = memory_order(x)
        self.sizes = tuple(x.shape[axis] for axis in self.order)
        at = self.order.index(1)
        self.shape = math.prod(self.sizes[:at]), x.shape[1], math.prod(self.sizes[at + 1 :])

    def inside(self, array: Any) -> Any:
        """Return (N, C, ...) as (outer, channels, inner): a view if it lies so."""
        return array.transpose(self.order).reshape(self.shape)

    def outside(self, array: Any) -> Any:
        """Return (outer, channels, inner) as (N, C, ...), a view."""
        return array.reshape(self.sizes).transpose(inverse(self.order))


def _check(name: str, x: Any, **numbers: Any) -> None:
    """Raise ShapeError unless x is (N, C, ...), and each of `numbers` (C,) or None."""
    given = {key: array.shape for key, array in numbers.items() if array is not None}
    if x.ndim < 2 or any(shape != x.shape[1:2] for shape in given.values()):
        names = ", ".join(numbers)
        raise shape_error(name, f"x (N, C, ...), and {names} (C,) or None", x=x.shape, **given)


def _by_channel(array: Any, x: Any) -> Any:
    """Return (C,) in the shape that broadcasts to x, (N, C, ...)."""
    return array.reshape((1, -1) + (1,) * (x.ndim - 2))


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    if weight is not None:
        y = y * _by_channel(weight, y)
    return y if bias is None else y + _by_channel(bias, y)


def _batch_norm_of_parts(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Compute a batch normalisation by other primitives; the running numbers stay as they are."""
    if training:
        axes = (0, *range(2, x.ndim))
        x = x - np.mean(x, axis=axes, keepdims=True)
        var = np.mean(x * x, axis=axes, keepdims=True)
    else:
        x = x - _by_channel(running_mean, x)
        var = _by_channel(running_var, x)
    return _affine(x / np.sqrt(var + eps), weight, bias)


def _group_norm_of_parts(
    x: Any, weight: Any = None, bias: Any = None, *, num_groups: int, eps: float = 1e-5
) -> Any:
    """Compute a group normalisation by other primitives."""
    y = x.reshape((x.shape[0], num_groups, -1))
    y = y - np.mean(y, axis=2, keepdims=True)
    y = y / np.sqrt(np.mean(y * y, axis=2, keepdims=True) + eps)
    return _affine(y.reshape(x.shape), weight, bias)


def _sample_batch(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=((5, 3), (4, 3, 2), (3, 3, 4, 2))[rng.integers(3)]) + 1
    if x.ndim == 4 and rng.integers(2):  # as convolutions leave it
        x = np.ascontiguousarray(x.transpose(2, 1, 3, 0)).transpose(3, 1, 0, 2)
    weight, bias = rng.normal(size=(2, 3))
    if rng.integers(2):
        return (x, None, None, weight, bias), {"training": True}
    return (x, rng.normal(size=3), rng.uniform(0.5, 2, size=3), weight, bias), {"training": False}


@primitive(sample=_sample_batch, second=_batch_norm_of_parts)
def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ruled:
    """Give each channel of x (N, C, ...) mean 0 and variance 1 over the batch; times weight, plus
    bias.

    In training the running mean and variance (unbiased) move, in place, by the share `momentum`
    towards the batch's; otherwise they are used in its stead. S. Ioffe and C. Szegedy, "Batch
    Normalization", arXiv:1502.03167.
    """
    running = {"running_mean": running_mean, "running_var": running_var}
    _check("batch_norm", x, **running, weight=weight, bias=bias)
    layout = _Layout(x)
    inside = layout.inside(x)
    passes, count = _Channels(layout.shape, x.dtype, array_module(x)), x.size // max(x.shape[1], 1)
    if training:
        if count < 2:
            raise shape_error(
                "batch_norm", "more than one value for each channel when training", x=x.shape
            )
        mean = passes.total(inside) / count
        squares = passes.squares(inside, mean)
        var = squares / count
        for held, now in ((running_mean, mean), (running_var, squares / (count - 1))):
            if held is not None:
                held *= 1 - momentum
                held += (momentum * now).astype(held.dtype, copy=False)
    else:
        if running_mean is None or running_var is None:
            raise UsageError(
                "batch_norm: a running mean and variance are expected where it is not training; "
                "found None"
            )
        mean, var = passes.widen(running_mean).copy(), passes.widen(running_var)
    scale = 1 / np.sqrt(var + eps)
    gain = scale if weight is None else scale * passes.widen(weight)
    level = -mean * gain
    if bias is not None:
        level += bias
    y = passes.blend(inside, gain, level)

    def pullback(g: Any) -> tuple[Any, ...]:
        given = layout.inside(g)
        plain, apart = passes.products(inside, mean, given)
        if training:
            slope = gain * scale * scale * apart * (-1 / count)
            level = -slope * mean - gain * plain / count
            by_x = passes.blend(inside, slope, level, given, gain)
        else:
            by_x = passes.blend(given, gain, None)
        return (
            layout.outside(by_x),
            None if training else lambda: -gain * plain,
            None if training else lambda: gain * scale * scale * apart * -0.5,
            None if weight is None else apart * scale,
            None if bias is None else plain,
        )

    return layout.outside(y), pullback


def _sample_group(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=((3, 4), (2, 4, 3), (2, 4, 3, 2))[rng.integers(3)]) + 1
    parts = list(rng.normal(size=(2, 4)))[: rng.integers(3)]
    groups = 2 if x.ndim == 2 else (1, 2, 4)[rng.integers(3)]
    return (x, *parts), {"num_groups": groups, "eps": 1e-2}


@primitive(sample=_sample_group, second=_group_norm_of_parts)
def group_norm(
    x: Any, weight: Any = None, bias: Any = None, *, num_groups: int, eps: float = 1e-5
) -> Ruled:
    """Give each group of channels of each example of x (N, C, ...) mean 0 and variance 1; times
    weight (C,), plus bias (C,).

    Y. Wu and K. He, "Group Normalization", arXiv:1803.08494.
    """
    _check("group_norm", x, weight=weight, bias=bias)
    examples, channels = x.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise UsageError(
            f"group_norm: a number of groups that divides the {channels} channels is expected; "
            f"found {num_groups}"
        )
    module, size = array_module(x), channels // num_groups
    inner = math.prod(x.shape[2:])
    passes = _Channels((1, examples * channels, inner), x.dtype, module)
    inside, share = x.reshape(passes.shape), 1 / max(size * inner, 1)
    factors = 1.0 if weight is None else np.tile(passes.widen(weight), examples)

    def averaged(sums: Any) -> Any:
        """Return, for each channel of each example, the average over its group."""
        groups = sums.reshape(-1, size).sum(axis=1)
        return np.repeat(groups * share, size)

    mean = averaged(passes.total(inside))
    scale = 1 / np.sqrt(averaged(passes.squares(inside, mean)) + eps)
    gain = scale * factors
    level = -mean * gain
    if bias is not None:
        level += np.tile(passes.widen(bias), examples)
    y = passes.blend(inside, gain, level)

    def pullback(g: Any) -> tuple[Any, ...]:
        given = g.reshape(passes.shape)
        plain, apart = passes.products(inside, mean, given)
        slope = -averaged(apart * factors) * scale**3
        level = -slope * mean - scale * averaged(plain * factors)
        by_x = passes.blend(inside, slope, level, given, gain)
        return (
            by_x.reshape(x.shape),
            None if weight is None else (apart * scale).reshape(examples, channels).sum(axis=0),
            None if bias is None else plain.reshape(examples, channels).sum(axis=0),
        )

    return y.reshape(x.shape), pullback
