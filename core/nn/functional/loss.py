"""Losses as functions: PyTorch's names and arguments; `reduction` is "mean", "sum" or "none"."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.ops import cross_entropy as entropies
from holdfast.core.ops import loss as ops
from holdfast.core.ops.cross_entropy import (
    check_class_weight,
    check_classes,
    class_weights,
    soft_cross_entropy,
)
from holdfast.core.ops.elementwise import where
from holdfast.core.ops.gather import gather
from holdfast.core.ops.loss import check_same, reduced
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import UsageError

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]


def mean_or_sum(each: Tensor, reduction: str, total: Any = None) -> Tensor:
    """Return the losses as `reduction` says; a mean divides by `total`, if that is given."""
    value: Tensor = reduced(each, reduction, total)[0]
    return value


def _weighted(
    loss: Callable[..., Tensor],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """Return a loss of elements whose mean is the weighted one, where there are weights."""
    if weight is None:
        return loss(input, target, reduction=reduction)
    check_same(loss.__name__, input=input, weight=weight)
    each = loss(input, target, reduction="none") * weight
    return each.sum() / weight.sum() if reduction == "mean" else mean_or_sum(each, reduction)


def mse_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the squared difference of two tensors of one shape.

    `weight`, of that shape too, multiplies each loss; a mean divides by the sum of the weights.
    """
    return _weighted(ops.mse_loss, input, target, weight, reduction)


def l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the absolute difference of two tensors of one shape; `weight` is as in `mse_loss`."""
    return _weighted(ops.l1_loss, input, target, weight, reduction)


def smooth_l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Return the absolute difference, made smooth where it is smaller than `beta`."""
    if beta < 0:
        raise UsageError(f"smooth_l1_loss: beta is not negative; found {beta}")
    if beta == 0:
        return ops.l1_loss(input, target, reduction=reduction)
    return ops.huber_loss(input, target, delta=beta, scale=1 / beta, reduction=reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return half the squared difference, and beyond `delta` its tangent (Huber, 1964).

    `weight`, of the input's shape, multiplies each loss; a mean still divides by their number.
    """
    if delta <= 0:
        raise UsageError(f"huber_loss: delta is positive; found {delta}")
    if weight is None:
        return ops.huber_loss(input, target, delta=delta, reduction=reduction)
    check_same("huber_loss", input=input, weight=weight)
    each = ops.huber_loss(input, target, delta=delta, reduction="none")
    return mean_or_sum(each * weight, reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Return the cross-entropy of probabilities with targets from 0 to 1.

    `weight` broadcasts and multiplies each loss; a mean still divides by their number. Logarithms
    are kept above -100.
    """
    return ops.binary_cross_entropy(input, target, weight=raw(weight), reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of `sigmoid(input)` with targets from 0 to 1, stably.

    `weight` broadcasts and multiplies each loss, `pos_weight` its part for the target's truth: more
    than 1 finds more of the positives.
    """
    return ops.binary_cross_entropy_with_logits(
        input, target, weight=raw(weight), pos_weight=raw(pos_weight), reduction=reduction
    )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of logits (C,), (N, C) or (N, C, ...) with classes or probabilities.

    Classes are integers, of the input's shape without C; those equal to `ignore_index` count
    nothing. Probabilities are floats in the input's shape. `weight` (C,) scales the loss of each
    class; the mean over classes divides by the targets' weights. `label_smoothing` gives that share
    of each target to all classes evenly (Szegedy et al., 2016). The mean of nothing is NaN.
    """
    if input.ndim == 1:
        one = input.unsqueeze(0), target.unsqueeze(0)
        options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        each = cross_entropy(*one, weight, reduction=reduction, **options)
        return each.squeeze(0) if reduction == "none" else each
    soft = is_floating(target.dtype) and target.shape == input.shape
    if soft:
        return soft_cross_entropy(
            input,
            target,
            weight=raw(weight),
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
    return entropies.cross_entropy(
        input,
        raw(target),
        weight=raw(weight),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return minus the logarithm of the target's probability: input (C,), (N, C) or (N, C, ...).

    `weight` and `ignore_index` are as in `cross_entropy`.
    """
    if input.ndim == 1:
        one = input.unsqueeze(0), target.unsqueeze(0)
        each = nll_loss(*one, weight, ignore_index=ignore_index, reduction=reduction)
        return each.squeeze(0) if reduction == "none" else each
    classes, heavy = raw(target), raw(weight)
    kept = check_classes("nll_loss", input, classes, ignore_index)
    check_class_weight("nll_loss", heavy, input)
    counts = class_weights(classes, kept, heavy, input.dtype)
    safe = classes if kept is None else np.where(kept, classes, 0)
    picked = gather(input, np.expand_dims(safe, 1), dim=1, unique=True).squeeze(1)
    # An ignored target may stand where the logarithm is -inf, which 0 would make NaN.
    picked = picked if kept is None else where(kept, picked, 0.0)
    if isinstance(counts, float):
        return mean_or_sum(-picked, reduction)
    return mean_or_sum(picked * -counts, reduction, float(counts.sum(dtype=np.float64)))


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Return minus the logarithm of a Poisson likelihood, without what the input has no part in.

    `input` is the expected count, or with `log_input` its logarithm. `full` adds Stirling's
    approximation of log(target!) where the target is more than 1.
    """
    each = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        many = target > 1
        safe = where(many, target, 1.0)
        stirling = safe * safe.log() - safe + 0.5 * (2 * math.pi * safe).log()
        each = each + where(many, stirling, 0.0)
    return mean_or_sum(each, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return minus the logarithm of a normal likelihood of mean `input` and variance `var`.

    `var` has the input's shape, or 1 or nothing for its last axis, or is a number; it counts at
    least `eps`. `full` adds the constant term (Nix and Weigend, 1994).
    """
    if isinstance(var, (int, float)):
        var = wrap(array_module(input.array).full(input.shape, var, dtype=input.dtype))
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.unsqueeze(-1)
        apart = [(a, b) for a, b in zip(input.shape, var.shape, strict=False) if a != b]
        if var.ndim != input.ndim or any(b != 1 for _, b in apart) or len(apart) > 1:
            raise UsageError(
                "gaussian_nll_loss: var has the input's shape, or 1 for one axis; found "
                f"{var.shape} for an input of {input.shape}"
            )
    if (var.array < 0).any():
        raise UsageError("gaussian_nll_loss: a variance is negative; give its exponential, say")
    # As in PyTorch the bound is no part of the gradient.
    held = var + wrap(np.maximum(var.array, eps) - var.array)
    each = 0.5 * (held.log() + (input - target) ** 2 / held)
    return mean_or_sum(each + 0.5 * math.log(2 * math.pi) if full else each, reduction)


def kl_div(
    input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """Return Kullback and Leibler's divergence of `target` from the prediction `input`.

    `input` holds logarithms of probabilities, `target` probabilities or with `log_target` their
    logarithms. `reduction="batchmean"` divides the sum by the first size, as the definition has it;
    "mean" divides by the number of elements.
    """
    if reduction == "batchmean":
        total = ops.kl_div(input, target, log_target=log_target, reduction="sum")
        return total / input.shape[0]
    return ops.kl_div(input, target, log_target=log_target, reduction=reduction)
