"""Resampling, axis by axis: each new element is a weighted sum of a few old ones, its taps.

Interpolation and adaptive means are this. The rule: the transpose of taps is taps, as many as an
old element has new ones, so that a gradient is gathered and nothing is scattered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from holdfast.core.backend import Array, array_module, is_floating
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.adjoint import transpose
from holdfast.core.ops.columns import computed
from holdfast.core.ops.layout import inverse, memory_order
from holdfast.core.ops.windows import adaptive
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]
Steps = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Taps:
    """What each element of an axis is made of: places (taps, size), and their weights or None."""

    places: Array
    weights: Array | None

    def transposed(self, size: int) -> "Taps":
        """Return the taps of the `size` elements that these are read from."""
        taps, new = self.places.shape
        old = self.places.reshape(-1)
        order = np.argsort(old, kind="stable")
        counts = np.bincount(old, minlength=size)
        starts = np.cumsum(counts) - counts
        most = max(int(counts.max(initial=0)), 1)
        rank = np.arange(taps * new) - np.repeat(starts, counts)
        places = np.zeros((most, size), dtype=np.intp)
        weights = np.zeros((most, size))
        places[rank, old[order]] = order % new
        weights[rank, old[order]] = 1 if self.weights is None else self.weights.reshape(-1)[order]
        return Taps(places, None if np.all(weights == 1) else weights)

    def applied(self, x: Any, dim: int) -> Any:
        """Return `x` resampled along `dim`, in the order of memory that it has."""
        module = array_module(x)
        order = memory_order(x)
        axis, inner = order.index(dim), x.transpose(order)
        along = [-1 if a == axis else 1 for a in range(x.ndim)]
        total: Any = None
        for tap, places in enumerate(self.places):
            part = np.take(inner, module.asarray(places), axis=axis)
            if self.weights is not None:
                if not is_floating(part.dtype):
                    raise UsageError(f"only floats are interpolated; found {part.dtype}")
                weights = module.asarray(self.weights[tap], dtype=part.dtype)
                part *= weights.reshape(along)
            total = part if total is None else np.add(total, part, out=total)
        return total.transpose(inverse(order))


def _nearest(old: int, new: int, step: float) -> Taps:
    # PyTorch computes these places in float32, and where they round decides which element it is.
    places = np.floor(np.arange(new, dtype=np.float32) * np.float32(step)).astype(np.intp)
    return Taps(np.minimum(places, old - 1)[None], None)


def _nearest_exact(old: int, new: int, step: float) -> Taps:
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(step)
    return Taps(np.minimum(np.floor(centres).astype(np.intp), old - 1)[None], None)


def _linear(old: int, at: Array) -> Taps:
    at = np.clip(at, 0, old - 1)
    low = np.floor(at).astype(np.intp)
    share = at - low
    return Taps(np.stack([low, np.minimum(low + 1, old - 1)]), np.stack([1 - share, share]))


def _cubic(old: int, at: Array) -> Taps:
    """Return taps by Keys' kernel with a = -0.75 (Cubic convolution interpolation, 1981)."""
    low = np.floor(at).astype(np.intp)
    distances = np.abs(at - low - np.arange(-1, 3)[:, None])
    a = -0.75
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = ((distances - 5) * distances + 8) * distances * a - 4 * a
    places = np.clip(low + np.arange(-1, 3)[:, None], 0, old - 1)
    return Taps(places, np.where(distances <= 1, near, far))


def _centres(old: int, new: int, step: float) -> Array:
    return (np.arange(new) + 0.5) * step - 0.5


def _corners(old: int, new: int) -> Array:
    return np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)


def _mean(old: int, new: int, step: float) -> Taps:
    starts, stops = (np.array(ends) for ends in adaptive(old, new))
    offsets = np.arange(max(int((stops - starts).max(initial=1)), 1))[:, None]
    inside = offsets < stops - starts
    places = np.minimum(starts + offsets, old - 1)
    return Taps(places, inside / (stops - starts))


KINDS: dict[str, Callable[[int, int, float], Taps]] = {
    "nearest": _nearest,
    "nearest-exact": _nearest_exact,
    "linear": lambda old, new, step: _linear(old, _centres(old, new, step)),
    "linear-corners": lambda old, new, step: _linear(old, _corners(old, new)),
    "cubic": lambda old, new, step: _cubic(old, _centres(old, new, step)),
    "cubic-corners": lambda old, new, step: _cubic(old, _corners(old, new)),
    "mean": _mean,
}
"""How an axis of `old` elements becomes one of `new`, which lie `step` old ones apart."""


@lru_cache(maxsize=256)
def _taps(kind: str, old: int, new: int, step: float | None, back: bool) -> Taps:
    taps = KINDS[kind](old, new, old / new if step is None else step)
    return taps.transposed(old) if back else taps


def _resampled(
    x: Any, kind: str, old: Sequence[int], new: Sequence[int], steps: Steps | None, back: bool
) -> Any:
    """Resample the spatial axes of `x` from sizes `old` to `new`, or `back`."""
    y = computed(x)
    given = (None,) * len(old) if steps is None else steps
    for dim, (before, after, step) in enumerate(zip(old, new, given, strict=True), start=2):
        if before != after or step not in (None, 1.0):  # else every element stays what it is
            y = _taps(kind, before, after, step, back).applied(y, dim)
    return y.astype(x.dtype, copy=y is x)  # never x itself


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    kind = str(rng.choice(list(KINDS)))
    size = [(3, 8), (5, 2), (11, 7)][rng.integers(3)]
    return (rng.normal(size=(2, 3, 5, 4)),), {"kind": kind, "size": size}


@primitive(sample=_sample, second="linear")
def resample(x: Any, *, kind: str, size: tuple[int, ...], step: Steps | None = None) -> Ruled:
    """Make images (N, C, *image) of `size`, whose elements lie `step` old ones apart.

    A step of None spreads an axis evenly.
    """
    old = tuple(x.shape[2:])
    if min(old) < 1:
        raise shape_error("resample", "images that have elements", x=x.shape)
    value = _resampled(x, kind, old, size, step, back=False)
    return value, lambda g: (transpose("resample_back", g, kind=kind, size=old, step=step),)


@primitive(sample=_sample, second="linear")
def resample_back(x: Any, *, kind: str, size: tuple[int, ...], step: Steps | None = None) -> Ruled:
    """Return the cotangent of images of `size` that were resampled to x (N, C, *image)."""
    new = tuple(x.shape[2:])
    value = _resampled(x, kind, size, new, step, back=True)
    return value, lambda g: (transpose("resample", g, kind=kind, size=new, step=step),)
