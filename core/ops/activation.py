"""Primitives that make a network more than linear, element by element."""

from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.masks import chosen, kept
from holdfast.core.ops.precision import in_float, narrow
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]
Rng = np.random.Generator

CLIP_FROM = 16 * 1024
"""Elements from which clipping is quicker than the maximum."""


def _one(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(scale=2, size=(3, 4)),)


@primitive(sample=_one, second="piecewise")
def relu(x: Any) -> Ruled:
    """Return max(x, 0); its gradient at 0 is 0."""
    # NumPy clips three times as fast as it takes the maximum with a scalar, but starts slower.
    y = np.maximum(x, 0) if x.size < CLIP_FROM else narrow(np.clip(x, 0, np.inf), x)
    return y, lambda g: (kept(y > 0, g),)


@primitive(sample=lambda rng: (_one(rng), {"low": -1.0, "high": 2.0}), second="piecewise")
def hardtanh(x: Any, *, low: float = -1.0, high: float = 1.0) -> Ruled:
    """Limit to `low` and `high`; unlike that of `clamp`, the gradient at the limits is 0."""
    if not low < high:
        raise UsageError(f"hardtanh: expected min_val < max_val; found {low} and {high}")
    y = narrow(np.clip(x, low, high), x)
    # The limits in the dtype of the value, where they may be other numbers.
    low_y, high_y = y.dtype.type(low), y.dtype.type(high)
    return y, lambda g: (kept((y > low_y) & (y < high_y), g),)


@primitive(sample=lambda rng: (_one(rng), {"slope": 0.1}), second="piecewise")
@in_float
def leaky_relu(x: Any, *, slope: float = 0.01) -> Ruled:
    """Return `x` where it is positive, else `slope * x`."""
    up = x > 0
    value = np.maximum(x, x * slope) if 0 <= slope <= 1 else chosen(up, x, x * slope)
    return value, lambda g: (chosen(up, g, g * slope),)


def _weighted(rng: Rng) -> tuple[Any, ...]:
    size = (3, 4) if rng.random() < 0.5 else (2, 3, 2)
    return rng.normal(size=size), rng.normal(size=size[1] if rng.random() < 0.7 else 1)


@primitive(sample=_weighted, promote=True, second="rerun")
def prelu(x: Any, weight: Any) -> Ruled:
    """Return `x` where it is positive, else `x` times the weight: one, or one per channel (C,)."""
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or weight.shape not in ((), (1,), (channels,)):
        raise shape_error(
            "prelu", f"one weight, or one for each of {channels} channels",
            x=x.shape, weight=weight.shape,
        )  # fmt: skip
    per_channel = weight.shape == (channels,) and x.ndim > 1
    slope = np.reshape(weight, (-1, *(1,) * (x.ndim - 2))) if per_channel else weight
    up = x > 0

    def by_weight(g: Any) -> Any:
        part = g * np.minimum(x, 0)
        if per_channel:
            return part.sum(axis=(0, *range(2, x.ndim)))
        return np.reshape(part.sum(), weight.shape)

    return (
        chosen(up, x, x * slope),
        lambda g: (lambda: chosen(up, g, g * slope), lambda: by_weight(g)),
    )


@primitive(
    sample=lambda rng: (_one(rng), {"alpha": 1.5, "scale": 1.2, "input_scale": 0.7}),
    second="rerun",
)
@in_float
def elu(x: Any, *, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Ruled:
    """Return `x` where it is positive, else alpha * (exp(input_scale * x) - 1); all by `scale`.

    SELU and CELU are this with other constants.
    """
    up = x > 0
    low = np.minimum(x, 0) * input_scale

    def pullback(g: Any) -> tuple[Any]:
        slope = np.exp(low)
        slope *= scale * alpha * input_scale
        return (g * chosen(up, scale, slope),)

    return chosen(up, x * scale, np.expm1(low) * (scale * alpha)), pullback


def logistic(x: Any) -> Any:
    """Return 1 / (1 + exp(-x)) of an array: through tanh, which does not overflow."""
    y = np.tanh(x * 0.5)
    y *= 0.5
    y += 0.5
    return y


@primitive(sample=_one, second="rerun")
@in_float
def sigmoid(x: Any) -> Ruled:
    """Return 1 / (1 + exp(-x)), without overflow."""
    y = logistic(x)

    def pullback(g: Any) -> tuple[Any]:
        part = 1 - y
        part *= y
        part *= g
        return (part,)

    return y, pullback


@primitive(sample=_one, second="rerun")
@in_float
def logsigmoid(x: Any) -> Ruled:
    """Return log(sigmoid(x)), without overflow."""
    y = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return y, lambda g: (g * logistic(-x),)


@primitive(sample=_one, second="rerun")
@in_float
def silu(x: Any) -> Ruled:
    """Return x * sigmoid(x)."""
    s = logistic(x)

    def pullback(g: Any) -> tuple[Any]:
        part = 1 - s
        part *= x
        part += 1
        part *= s
        part *= g
        return (part,)

    return x * s, pullback


@primitive(sample=_one, second="rerun")
@in_float
def mish(x: Any) -> Ruled:
    """Return x * tanh(softplus(x))."""
    # tanh(log(1 + e)) is n / (n + 2) with n = e (e + 2); beyond 20 it is 1, and e would overflow.
    e = np.exp(np.minimum(x, 20))
    n = e * (e + 2)
    t = n / (n + 2)
    return x * t, lambda g: (g * (t + x * (1 - t * t) * logistic(x)),)


@primitive(
    sample=lambda rng: (_one(rng), {"beta": 1.5, "threshold": float(rng.choice([20, 2]))}),
    second="rerun",
)
@in_float
def softplus(x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Ruled:
    """Return log(1 + exp(beta * x)) / beta, or `x` itself where beta * x is over `threshold`."""
    scaled = x * beta
    over = scaled > threshold
    bent = np.log1p(np.exp(np.minimum(scaled, threshold)))
    bent *= 1 / beta
    return chosen(over, x, bent), lambda g: (chosen(over, g, g * logistic(scaled)),)


@primitive(sample=_one, second="rerun")
@in_float
def softsign(x: Any) -> Ruled:
    """Return x / (1 + |x|)."""
    d = np.abs(x) + 1
    return x / d, lambda g: (g / (d * d),)


@primitive(sample=_one, second="piecewise")
@in_float
def hardsigmoid(x: Any) -> Ruled:
    """Return x / 6 + 1/2, limited to 0 and 1."""
    y = np.clip(x + 3, 0, 6)
    y *= 1 / 6
    inside = (x > -3) & (x < 3)
    return y, lambda g: (kept(inside, g) * (1 / 6),)


@primitive(sample=_one, second="rerun")
@in_float
def hardswish(x: Any) -> Ruled:
    """Return x * hardsigmoid(x)."""
    y = np.clip(x + 3, 0, 6)
    y *= x
    y *= 1 / 6

    def pullback(g: Any) -> tuple[Any]:
        bent = g * (x * (1 / 3) + 0.5)
        return (kept(x > -3, chosen(x < 3, bent, g)),)

    return y, pullback


@primitive(sample=_one, second="rerun")
@in_float
def tanhshrink(x: Any) -> Ruled:
    """Return x - tanh(x)."""
    t = np.tanh(x)
    return x - t, lambda g: (g * (t * t),)


@primitive(sample=_one, second="piecewise")
def softshrink(x: Any, *, lambd: float = 0.5) -> Ruled:
    """Bring `x` nearer to 0 by `lambd`, and to 0 where it is nearer than that."""
    if lambd < 0:
        raise UsageError(f"softshrink: expected lambd of at least 0; found {lambd}")
    outside = np.abs(x) > lambd
    return x - narrow(np.clip(x, -lambd, lambd), x), lambda g: (kept(outside, g),)


@primitive(sample=_one, second="piecewise")
def hardshrink(x: Any, *, lambd: float = 0.5) -> Ruled:
    """Set to 0 what is no farther from 0 than `lambd`."""
    outside = ~(np.abs(x) <= lambd)  # NaN stays
    return kept(outside, x), lambda g: (kept(outside, g),)


@primitive(sample=lambda rng: (_one(rng), {"threshold": 0.2, "value": -1.0}), second="piecewise")
def threshold(x: Any, *, threshold: float, value: float) -> Ruled:
    """Put `value` in the place of what is not over `threshold`."""
    over = ~(x <= threshold)  # NaN stays
    return narrow(chosen(over, x, value), x), lambda g: (kept(over, g),)


def _even(rng: Rng) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4, 2)),), {"dim": int(rng.choice([1, 2, -1, -2]))}


@primitive(sample=_even, second="rerun")
@in_float
def glu(x: Any, *, dim: int = -1) -> Ruled:
    """Return the first half along `dim` times the sigmoid of the second."""
    axis = range(x.ndim)[dim]
    size = x.shape[axis]
    if size % 2:
        raise shape_error("glu", f"an even size along axis {dim}", x=x.shape)
    front = (slice(None),) * axis
    a, b = x[(*front, slice(size // 2))], x[(*front, slice(size // 2, None))]
    s = logistic(b)

    def pullback(g: Any) -> tuple[Any]:
        part = g * s
        return (np.concatenate([part, part * a * (1 - s)], axis=axis),)

    return a * s, pullback
