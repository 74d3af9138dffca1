"""Losses of margins and similarities: PyTorch's names; `reduction` is "mean", "sum" or "none"."""

from collections.abc import Callable

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.errors import shape_error
from holdfast.core.nn.functional.distance import pairwise_distance
from holdfast.core.nn.functional.loss import mean_or_sum
from holdfast.core.ops.activation import logsigmoid
from holdfast.core.ops.cross_entropy import (
    check_class_weight,
    check_classes,
)
from holdfast.core.ops.elementwise import minimum, where
from holdfast.core.ops.gather import gather
from holdfast.core.ops.loss import check_same
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import UsageError

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """Return `input` where the target is 1, and how far it is below `margin` where it is -1."""
    alike, unlike = target == 1, target == -1
    each = where(~unlike, input, 0.0) + where(~alike, (margin - input).clamp(min=0), 0.0)
    return mean_or_sum(each, reduction)


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
    return mean_or_sum((margin - target * (input1 - input2)).clamp(min=0), reduction)


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
    return mean_or_sum(each, reduction)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return log(1 + exp(-target * input)), for targets of 1 and -1, without overflow."""
    return mean_or_sum(-logsigmoid(target * input), reduction)


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
    return mean_or_sum(where(pairs, short, 0.0).sum(dim=(1, 2)) / count, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Return the mean over classes, the last axis, of binary cross-entropies with 0s and 1s."""
    check_same("multilabel_soft_margin_loss", input=input, target=target)
    each = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return mean_or_sum((each if weight is None else each * weight).mean(dim=-1), reduction)


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
    return mean_or_sum((margin + near - far).clamp(min=0), reduction)


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
    return mean_or_sum(each, reduction)
