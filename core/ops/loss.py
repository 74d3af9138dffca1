"""Primitives that measure how wrong a prediction is.

`reduction` is "mean", "sum" or "none", as in PyTorch.
"""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.activation import logistic
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]


def reduced(each: Any, reduction: str) -> tuple[Any, float]:
    """Return the reduced losses, and what each weighs in them."""
    if reduction == "mean":
        return each.mean(), 1 / each.size if each.size else float("nan")
    if reduction == "sum":
        return each.sum(), 1.0
    if reduction == "none":
        return each, 1.0
    raise UsageError(f"reduction is 'mean', 'sum' or 'none'; found {reduction!r}")


def _same(name: str, x: Any, target: Any) -> None:
    if x.shape != target.shape:
        raise shape_error(name, "input and target of one shape", input=x.shape, target=target.shape)


def _classes(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(4, 3, 2)), rng.integers(0, 3, size=(4, 2))


@primitive(sample=_classes)
def cross_entropy(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return -log softmax of the target class: input (N, C, ...), target (N, ...) of integers."""
    if input.ndim < 2 or target.shape != input.shape[:1] + input.shape[2:]:
        raise shape_error(
            "cross_entropy",
            "input (N, C, ...) and target (N, ...)",
            input=input.shape,
            target=target.shape,
        )
    if target.dtype.kind not in "iu":
        raise UsageError(f"cross_entropy: target holds classes, integers; found {target.dtype}")
    classes = input.shape[1]
    if target.size and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise UsageError(
            f"cross_entropy: classes 0 to {classes - 1} are expected, as input has {classes}; "
            f"target holds {int(target.min())} to {int(target.max())}"
        )
    shifted = input - input.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    at = np.expand_dims(target, 1)
    each = (np.log(total) - np.take_along_axis(shifted, at, axis=1)).squeeze(1)
    value, weight = reduced(each, reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = e / total
        hot = array_module(part).arange(classes).reshape(-1, *(1,) * (input.ndim - 2)) == at
        part -= hot
        part *= (g if reduction != "none" else np.expand_dims(g, 1)) * weight
        return part, None

    return value, pullback


def _floats(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.normal(size=(3, 4)), rng.uniform(0.1, 0.9, size=(3, 4))


@primitive(sample=_floats, promote=True)
def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return the squared difference."""
    _same("mse_loss", input, target)
    apart = input - target
    value, weight = reduced(apart * apart, reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = apart * (g * (2 * weight))
        return part, lambda: -part

    return value, pullback


@primitive(sample=_floats, promote=True)
def binary_cross_entropy_with_logits(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return the cross-entropy of `sigmoid(input)` with targets between 0 and 1, stably."""
    _same("binary_cross_entropy_with_logits", input, target)
    each = np.maximum(input, 0) - input * target + np.log1p(np.exp(-np.abs(input)))
    value, weight = reduced(each, reduction)
    return value, lambda g: (
        lambda: (logistic(input) - target) * (g * weight),
        lambda: -input * (g * weight),
    )


def _probabilities(rng: np.random.Generator) -> tuple[Any, ...]:
    return rng.uniform(0.1, 0.9, size=(3, 4)), rng.uniform(0.1, 0.9, size=(3, 4))


@primitive(sample=_probabilities, promote=True)
def binary_cross_entropy(input: Any, target: Any, *, reduction: str = "mean") -> Ruled:
    """Return the cross-entropy of probabilities with targets between 0 and 1.

    Logarithms are kept above -100, as PyTorch does, so that a certain mistake costs 100.
    """
    _same("binary_cross_entropy", input, target)
    if input.size and (input.min() < 0 or input.max() > 1):
        raise UsageError("binary_cross_entropy: input holds probabilities, 0 to 1; apply sigmoid")
    with np.errstate(divide="ignore"):
        yes, no = np.maximum(np.log(input), -100), np.maximum(np.log1p(-input), -100)
    value, weight = reduced(-(target * yes + (1 - target) * no), reduction)
    return value, lambda g: (
        lambda: (input - target) / np.maximum(input * (1 - input), 1e-12) * (g * weight),
        lambda: (no - yes) * (g * weight),
    )
