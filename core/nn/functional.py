"""Layers and losses as functions, with PyTorch's names and arguments."""

from holdfast.core.ops import activation, conv, pool
from holdfast.core.ops.activation import relu, sigmoid, tanh
from holdfast.core.ops.linear import linear
from holdfast.core.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
)
from holdfast.core.tensor import Tensor

Pair = conv.Pair

__all__ = [
    "avg_pool2d",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "dropout",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Correlate images (N, C, H, W) with weight (O, C, kh, kw), plus bias (O,)."""
    return conv.conv2d(input, weight, bias, stride=stride, padding=padding, dilation=dilation)


def max_pool2d(
    input: Tensor, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Tensor:
    """Return the largest of each window; `stride` is the kernel's size if None."""
    return pool.max_pool2d(input, kernel_size=kernel_size, stride=stride, padding=padding)


def avg_pool2d(
    input: Tensor, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Tensor:
    """Return the mean of each window; `stride` is the kernel's size if None."""
    return pool.avg_pool2d(input, kernel_size=kernel_size, stride=stride, padding=padding)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero elements with probability `p` while training, scaling the rest by 1 / (1 - p)."""
    return activation.dropout(input, p=p) if training and p else input


def softmax(input: Tensor, dim: int = -1) -> Tensor:
    """Return the exponentials along `dim`, scaled to sum to 1."""
    return activation.softmax(input, dim=dim)


def log_softmax(input: Tensor, dim: int = -1) -> Tensor:
    """Return the logarithms of the softmax along `dim`."""
    return activation.log_softmax(input, dim=dim)
