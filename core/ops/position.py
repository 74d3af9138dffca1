"""Primitives that tell positions in a sequence apart."""

from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.precision import accumulator
from holdfast.core.primitive import primitive


def _turned(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """Turn each pair of elements of the last axis by an angle."""
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
        return np.stack((a * cos - b * sin, a * sin + b * cos), axis=-1).reshape(x.shape)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, a * sin + b * cos), axis=-1)


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    angles = rng.normal(size=(3, 2))
    options = {"cos": np.cos(angles), "sin": np.sin(angles), "interleaved": bool(rng.integers(2))}
    return (rng.normal(size=(2, 3, 4)),), options


@primitive(sample=_sample, second="linear")
def rotary(x: Any, *, cos: Any, sin: Any, interleaved: bool = True) -> tuple[Any, Pullback]:
    """Turn pairs of elements of x (..., T, D) by angles whose `cos` and `sin` are (T, D / 2).

    A pair are neighbours, or else element i and i + D / 2.
    """
    if x.ndim < 2 or cos.shape != (x.shape[-2], x.shape[-1] / 2) or sin.shape != cos.shape:
        raise shape_error(
            "rotary",
            "x (..., T, D), cos and sin (T, D / 2)",
            x=x.shape,
            cos=cos.shape,
            sin=sin.shape,
        )
    dtype = accumulator(x.dtype)
    cos, sin = cos.astype(dtype, copy=False), sin.astype(dtype, copy=False)
    y = _turned(x, cos, sin, interleaved).astype(x.dtype, copy=False)
    return y, lambda g: (_turned(g, cos, -sin, interleaved),)
