"""Primitives that measure, element by element, how wrong a prediction is.

`reduction` is "mean", "sum" or "none", as in PyTorch; the mean of nothing is NaN. 16-bit floats are
computed in float32.
"""

import math
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.activation import logistic
from holdfast.core.ops.precision import in_float, quiet
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]

CERTAIN = -100.0
"""The least that a logarithm of a probability counts, so that a certain mistake costs 100."""


def reduced(each: Any, reduction: str, total: Any = None) -> tuple[Any, Any]:
    """Return the reduced losses, arrays or tensors, and what each weighs in them.

    A mean divides by `total`, or by the number of losses if it is None. That of nothing is NaN, and
    its gradient 0: a batch in which all is padding leaves the weights alone.
    """
    if reduction == "none":
        return each, 1.0
    if reduction == "sum":
        return each.sum(), 1.0
    if reduction == "mean":
        count = math.prod(each.shape) if total is None else total
        if not count:
            return each.sum() * 0 + math.nan, 0.0
        share = 1 / count
        return each.sum() * share, share
    raise UsageError(f"reduction is 'mean', 'sum' or 'none'; found {reduction!r}")


def check_same(name: str, **arguments: Any) -> None:
    """Raise ShapeError unless all arguments have one shape."""
    shapes = {label: argument.shape for label, argument in arguments.items()}
    if len(set(shapes.values())) > 1:
        raise shape_error(name, f"{' and '.join(shapes)} of one shape", **shapes)


def _reductions(rng: np.random.Generator) -> dict[str, Any]:
    return {"reduction": str(rng.choice(["mean", "sum", "none"]))}


def _floats(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4)), rng.uniform(0.1, 0.9, size=(3, 4))), _reductions(rng)


def _probabilities(rng: np.random.Generator) -> tuple[Any, ...]:
    arrays = rng.uniform(0.1, 0.9, size=(3, 4)), rng.uniform(0.1, 0.9, size=(3, 4))
    return arrays, _reductions(rng)


@primitive(sample=_floats, promote=True, second="rerun")
@in_float
def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return the squared difference."""
    check_same("mse_loss", input=input, target=target)
    apart = input - target
    value, share = reduced(apart * apart, reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = apart * (g * (2 * share))
        return part, lambda: -part

    return value, pullback


@primitive(sample=_floats, promote=True, second="piecewise")
@in_float
def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return the absolute difference; its gradient where there is none is 0."""
    check_same("l1_loss", input=input, target=target)
    apart = input - target
    value, share = reduced(np.abs(apart), reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = np.sign(apart) * (g * share)
        return part, lambda: -part

    return value, pullback


def _sample_huber(rng: np.random.Generator) -> tuple[Any, ...]:
    arguments, options = _floats(rng)
    return arguments, {**options, "delta": 0.5, "scale": 2.0}


@primitive(sample=_sample_huber, promote=True, second="rerun")
@in_float
def huber_loss(
    input: Any, target: Any, *, delta: float = 1.0, scale: float = 1.0, reduction: str = "mean"
) -> Ruled:
    """Return `scale` times half the squared difference, and beyond `delta` its tangent (Huber,
    1964)."""
    check_same("huber_loss", input=input, target=target)
    apart = input - target
    held = np.clip(apart, -delta, delta)
    value, share = reduced(held * (apart - 0.5 * held) * scale, reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = held * (g * (scale * share))
        return part, lambda: -part

    return value, pullback


def _sample_bce(rng: np.random.Generator) -> tuple[Any, ...]:
    arguments, options = _probabilities(rng)
    return arguments, {**options, "weight": rng.uniform(size=4) if rng.random() < 0.5 else None}


@primitive(sample=_sample_bce, promote=True, second="rerun")
@quiet
@in_float
def binary_cross_entropy(
    input: Any, target: Any, *, weight: Any = None, reduction: str = "mean"
) -> Ruled:
    """Return the cross-entropy of probabilities with targets between 0 and 1.

    `weight` is an array that broadcasts, by which each loss is multiplied. Logarithms are kept
    above -100, as PyTorch does, so that a certain mistake costs 100.
    """
    check_same("binary_cross_entropy", input=input, target=target)
    given = raw(input)
    if given.size and not (given.min() >= 0 and given.max() <= 1):
        raise UsageError("binary_cross_entropy: input holds probabilities, 0 to 1; apply sigmoid")
    yes, no = np.maximum(np.log(input), CERTAIN), np.maximum(np.log1p(-input), CERTAIN)
    value, share = reduced(_weighed(target * (no - yes) - no, weight), reduction)
    return value, lambda g: (
        lambda: _weighed(
            (input - target) / np.maximum(input * (1 - input), 1e-12) * (g * share), weight
        ),
        lambda: _weighed((no - yes) * (g * share), weight),
    )


def _weighed(each: Any, weight: Any) -> Any:
    return each if weight is None else each * weight.astype(each.dtype, copy=False)


def _sample_logits(rng: np.random.Generator) -> tuple[Any, ...]:
    arguments, options = _floats(rng)
    weights = {"weight": rng.uniform(size=(3, 1)), "pos_weight": rng.uniform(0.5, 3, size=4)}
    chosen = {name: value for name, value in weights.items() if rng.random() < 0.5}
    return arguments, {**options, **chosen}


@primitive(sample=_sample_logits, promote=True, second="rerun")
@in_float
def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
) -> Ruled:
    """Return the cross-entropy of `sigmoid(input)` with targets between 0 and 1, stably.

    Each loss is multiplied by `weight`, and its part for the target's truth by `pos_weight`:
    arrays that broadcast.
    """
    check_same("binary_cross_entropy_with_logits", input=input, target=target)
    tail = np.log1p(np.exp(-np.abs(input)))
    if pos_weight is None:
        value, share = reduced(
            _weighed(np.maximum(input, 0) - input * target + tail, weight), reduction
        )
        return value, lambda g: (
            lambda: _weighed((logistic(input) - target) * (g * share), weight),
            lambda: _weighed(-input * (g * share), weight),
        )
    more = pos_weight.astype(input.dtype, copy=False) - 1
    slope = 1 + more * target
    missed = tail + np.maximum(-input, 0)  # -log sigmoid(input)
    value, share = reduced(_weighed((1 - target) * input + slope * missed, weight), reduction)
    return value, lambda g: (
        lambda: _weighed((1 - target - slope * logistic(-input)) * (g * share), weight),
        lambda: _weighed((more * missed - input) * (g * share), weight),
    )


def _sample_kl(rng: np.random.Generator) -> tuple[Any, ...]:
    arguments, options = _probabilities(rng)
    return arguments, {**options, "log_target": bool(rng.random() < 0.5)}


@primitive(sample=_sample_kl, promote=True, second="rerun")
@in_float
def kl_div(input: Any, target: Any, *, log_target: bool = False, reduction: str = "mean") -> Ruled:
    """Return each part of Kullback and Leibler's divergence of a target from a prediction.

    `input` holds logarithms of probabilities, `target` probabilities, or with `log_target` their
    logarithms.
    """
    check_same("kl_div", input=input, target=target)
    if log_target:
        probability, logarithm = np.exp(target), target
    else:
        probability = target
        logarithm = np.log(np.where(raw(target) == 0, 1.0, target))  # 0 * log(0) is 0
    value, share = reduced(probability * (logarithm - input), reduction)

    def by_target(g: Any) -> Any:
        slope = logarithm - input + 1
        return (probability * slope if log_target else slope) * (g * share)

    return value, lambda g: (lambda: -probability * (g * share), lambda: by_target(g))
