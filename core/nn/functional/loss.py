"""Losses as functions: PyTorch's names and arguments; `reduction` is "mean", "sum" or "none"."""

from holdfast.core.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "mse_loss",
]
