"""Losses as functions: PyTorch's names and arguments; `reduction` is "mean", "sum" or "none"."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.errors import shape_error
from holdfast.core.nn.functional.distance import pairwise_distance
from holdfast.core.ops import cross_entropy as entropies
from holdfast.core.ops import loss as ops
from holdfast.core.ops.activation import logsigmoid
from holdfast.core.ops.cross_entropy import (
    check_class_weight,
    check_classes,
    class_weights,
    soft_cross_entropy,
)
from holdfast.core.ops.elementwise import minimum, where
from holdfast.core.ops.gather import gather
from holdfast.core.ops.loss import check_same, reduced
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import UsageError

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _reduced(each: Tensor, reduction: str, total: Any = None) -> Tensor:
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
    return each.sum() / weight.sum() if reduction == "mean" else _reduced(each, reduction)


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
    return _reduced(each * weight, reduction)


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
        return _reduced(-picked, reduction)
    return _reduced(picked * -counts, reduction, float(counts.sum(dtype=np.float64)))


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
    return _reduced(each, reduction)


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
    return _reduced(each + 0.5 * math.log(2 * math.pi) if full else each, reduction)


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


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """Return `input` where the target is 1, and how far it is below `margin` where it is -1."""
    alike, unlike = target == 1, target == -1
    each = where(~unlike, input, 0.0) + where(~alike, (margin - input).clamp(min=0), 0.0)
    return _reduced(each, reduction)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Return by how much `input1` fails to rank `margin` higher than `input2`, lower where the
    target is -1 instead of 1."""
    return _reduced((margin - target * (input1 - input2)).clamp(min=0), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Return how far the target's class fails to score `margin` more than others, to the power `p`.

    input (C,) or (N, C), target classes () or (N,); the mean over the other classes, of which there
    are C. `weight` (C,) scales the loss of each class.
    """
    if p not in (1, 2):
        raise UsageError(f"multi_margin_loss: p is 1 or 2; found {p}")
    if input.ndim == 1:
        one = input.unsqueeze(0), target.reshape(1)
        each = multi_margin_loss(*one, p, margin, weight, reduction=reduction)
        return each.squeeze(0) if reduction == "none" else each
    classes, heavy = raw(target), raw(weight)
    check_classes("multi_margin_loss", input, classes, -100)
    check_class_weight("multi_margin_loss", heavy, input)
    at = classes[:, None]
    short = (margin - gather(input, at, dim=1, unique=True) + input).clamp(min=0) ** p
    others = array_module(classes).arange(input.shape[1]) != at
    each = where(others, short, 0.0).sum(dim=1) / input.shape[1]
    if heavy is not None:
        each = each * heavy[classes]
    return _reduced(each, reduction)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return log(1 + exp(-target * input)), for targets of 1 and -1, without overflow."""
    return _reduced(-logsigmoid(target * input), reduction)


def multilabel_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return how far each class of the target fails to score 1 more than each that is none of it.

    input (C,) or (N, C); target of its shape holds, in each row, classes up to the first -1. The
    sum over all pairs, divided by C.
    """
    check_same("multilabel_margin_loss", input=input, target=target)
    if input.ndim == 1:
        one = input.unsqueeze(0), target.unsqueeze(0)
        each = multilabel_margin_loss(*one, reduction=reduction)
        return each.squeeze(0) if reduction == "none" else each
    classes, count = raw(target), input.shape[-1]
    if input.ndim != 2:
        raise shape_error("multilabel_margin_loss", "input (C,) or (N, C)", input=input.shape)
    if classes.dtype.kind not in "iu" or ((classes < -1) | (classes >= count)).any():
        raise UsageError(
            f"multilabel_margin_loss: target holds classes, 0 to {count - 1}, and -1 after the "
            f"last of each row; found {classes.dtype}, or others"
        )
    valid = np.cumprod(classes >= 0, axis=1) > 0
    chosen = np.where(valid, classes, 0)
    rows, places = np.nonzero(valid)
    mine = np.zeros_like(valid)
    mine[rows, chosen[rows, places]] = True
    scores = gather(input, chosen, dim=1)
    short = (1 - scores.unsqueeze(2) + input.unsqueeze(1)).clamp(min=0)
    pairs = valid[:, :, None] & ~mine[:, None, :]
    return _reduced(where(pairs, short, 0.0).sum(dim=(1, 2)) / count, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Return the mean over classes, the last axis, of binary cross-entropies with 0s and 1s."""
    check_same("multilabel_soft_margin_loss", input=input, target=target)
    each = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return _reduced((each if weight is None else each * weight).mean(dim=-1), reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Return by how much the positive fails to be `margin` nearer to the anchor than the negative.

    Distances are norms of order `p` over the last axis. `swap` takes the negative's distance from
    the positive where that is smaller (Balntas et al., 2016).
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return pairwise_distance(a, b, p, eps)

    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=distance,
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return the triplet loss under any distance; `pairwise_distance` if None."""
    if margin <= 0:
        raise UsageError(f"triplet_margin_loss: margin is positive; found {margin}")
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return _reduced((margin + near - far).clamp(min=0), reduction)


COSINE_EPSILON = 1e-12
"""What PyTorch adds to squared lengths in the loss, not in the similarity."""


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Return 1 - cosine where the target is 1, and by how much it exceeds `margin` where it is -1.

    Inputs are (N, D) with targets (N,), or (D,) with a target ().
    """
    check_same("cosine_embedding_loss", input1=input1, input2=input2)
    squares = [(x * x).sum(dim=-1) + COSINE_EPSILON for x in (input1, input2)]
    cosine = (input1 * input2).sum(dim=-1) / (squares[0] * squares[1]).sqrt()
    check_same("cosine_embedding_loss", distances=cosine, target=target)
    alike, unlike = target == 1, target == -1
    each = where(alike, 1 - cosine, 0.0) + where(unlike, (cosine - margin).clamp(min=0), 0.0)
    return _reduced(each, reduction)
