"""Pooling as functions: PyTorch's names and arguments."""

from holdfast.core.ops import pool
from holdfast.core.ops.conv import Pair
from holdfast.core.tensor import Tensor

__all__ = ["avg_pool2d", "max_pool2d"]


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
