"""Dropout as functions: PyTorch's names and arguments.

`inplace=True` gives leave to reuse the memory of `input`: use the returned tensor.
"""

from holdfast.core.errors import shape_error
from holdfast.core.ops import dropout as ops
from holdfast.core.tensor import Tensor

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability `p` while training, scaling the rest by 1 / (1 - p)."""
    return ops.dropout(input, p=p) if training and p else input


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability `p` while training."""
    return _channels("dropout1d", input, 1, p, training)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, H, W) or (N, C, L) with probability `p` while training."""
    if input.ndim == 3:  # as in PyTorch, unlike in the two others: a batch without the last axis
        return _channels("dropout2d", input, 1, p, training)
    return _channels("dropout2d", input, 2, p, training)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W) with probability `p` in training."""
    return _channels("dropout3d", input, 3, p, training)


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Put what SELU saturates at in place of elements, keeping mean and variance."""
    return ops.alpha_dropout(input, p=p) if training and p else input


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Do what `alpha_dropout` does, to whole channels of (N, C, ...)."""
    if input.ndim < 2:
        raise shape_error("feature_alpha_dropout", "input (N, C, ...)", input=input.shape)
    if not (training and p):
        return input
    return ops.alpha_dropout(input, p=p, sizes=input.shape[:2] + (1,) * (input.ndim - 2))


def _channels(name: str, input: Tensor, axes: int, p: float, training: bool) -> Tensor:
    """Drop channels, which are followed by so many axes."""
    if input.ndim not in (axes + 1, axes + 2):
        raise shape_error(
            name, f"{axes + 2} axes, or {axes + 1} without a batch", input=input.shape
        )
    if not (training and p):
        return input
    return ops.dropout(input, p=p, sizes=input.shape[:-axes] + (1,) * axes)
