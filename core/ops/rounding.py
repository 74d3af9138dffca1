"""Primitives that are constant but for steps: rounding, signs, remainders, numbers for NaN."""

from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.masks import kept
from holdfast.core.ops.precision import narrow, quiet
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator


def _one(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(scale=3, size=(3, 4)),)


def _pair(rng: Rng) -> tuple[Any, ...]:
    """Draw two arrays with no quotient near a whole number, where the value jumps."""
    while True:  # ends: seven draws of eight will do
        x, y = rng.normal(scale=9, size=(3, 1, 4)), rng.uniform(0.5, 2.0, (5, 1))
        if np.abs(x / y - np.round(x / y)).min() > 1e-3:
            return x, y


def _steps(g: Any) -> tuple[Any, ...]:
    return (np.zeros_like(g),)


@primitive(sample=_one, second="linear")
def sign(x: Any) -> Ruled:
    """Return -1, 0 or 1; 0 for NaN."""
    if not is_floating(x.dtype):
        return np.sign(x), _steps
    return np.greater(x, 0).astype(x.dtype) - np.less(x, 0), _steps


@primitive(sample=_one, second="linear")
def floor(x: Any) -> Ruled:
    """Round down."""
    return np.floor(x) if is_floating(x.dtype) else x.copy(), _steps


@primitive(sample=_one, second="linear")
def ceil(x: Any) -> Ruled:
    """Round up."""
    return np.ceil(x) if is_floating(x.dtype) else x.copy(), _steps


@primitive(sample=_one, second="linear")
def trunc(x: Any) -> Ruled:
    """Round towards 0."""
    return np.trunc(x) if is_floating(x.dtype) else x.copy(), _steps


@primitive(sample=lambda rng: (_one(rng), {"decimals": int(rng.integers(-1, 2))}), second="linear")
def round(x: Any, *, decimals: int = 0) -> Ruled:
    """Round to the nearest with so many decimals; halves go to the even neighbour."""
    return np.round(x, decimals), _steps


@primitive(sample=_one, second="linear")
@quiet
def frac(x: Any) -> Ruled:
    """Return what `trunc` takes away."""
    return x - np.trunc(x), lambda g: (g,)


@primitive(sample=_pair, promote=True, second="linear")
@quiet
def floor_divide(x: Any, y: Any) -> Ruled:
    """Divide and round down."""
    return narrow(np.floor_divide(x, y), x, y), lambda g: (*_steps(g), *_steps(g))


@primitive(sample=_pair, promote=True, second="linear")
@quiet
def trunc_divide(x: Any, y: Any) -> Ruled:
    """Divide and round towards 0."""
    dtype = x.dtype if hasattr(x, "dtype") else y.dtype
    if is_floating(dtype):
        value = np.trunc(x / y)
    else:  # exact: a float does not hold every integer
        value = np.floor_divide(x, y)
        value = value + ((np.remainder(x, y) != 0) & (value < 0))
    return value.astype(dtype, copy=False), lambda g: (*_steps(g), *_steps(g))


@primitive(sample=_pair, promote=True, second="rerun")
@quiet
def remainder(x: Any, y: Any) -> Ruled:
    """Return what `floor_divide` leaves: it has the sign of `y`."""
    value = narrow(np.remainder(x, y), x, y)
    return value, lambda g: (g, lambda: -g * np.floor_divide(x, y))


@primitive(sample=_pair, promote=True, second="rerun")
@quiet
def fmod(x: Any, y: Any) -> Ruled:
    """Return what `trunc_divide` leaves: it has the sign of `x`."""
    value = narrow(np.fmod(x, y), x, y)
    return value, lambda g: (g, lambda: -g * np.trunc(x / y))


@primitive(sample=lambda rng: (_one(rng), {"nan": 1.0}), second="rerun")
def nan_to_num(
    x: Any, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Ruled:
    """Put numbers in the place of NaN and infinities, by default 0 and the largest floats."""
    if not is_floating(x.dtype):
        return x.copy(), lambda g: (g,)
    value = np.nan_to_num(raw(x), nan=nan, posinf=posinf, neginf=neginf)
    return value, lambda g: (kept(np.isfinite(x), g),)
