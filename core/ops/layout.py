"""The order in which the axes of arrays lie in memory, which loops over several should share."""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module

Order = tuple[int, ...]


def memory_order(x: Any) -> Order:
    """Return the axes of `x` from the outermost in memory to the innermost."""
    return tuple(sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis])))


def inverse(order: Order) -> Order:
    """Return the order that undoes `order`."""
    return tuple(np.argsort(order).tolist())


def ordered(x: Any, order: Order) -> Any:
    """Return `x` itself if it lies in `order` without gaps, else a copy that does."""
    lying = x.transpose(order)
    if lying.flags.c_contiguous:
        return x
    return array_module(x).ascontiguousarray(lying).transpose(inverse(order))


def resized(x: Any, dim: int, size: int) -> Any:
    """Return an unset array in the order of `x`, with `size` elements along `dim`."""
    order = memory_order(x)
    shape = [*x.shape]
    shape[dim] = size
    lying = array_module(x).empty([shape[axis] for axis in order], dtype=x.dtype)
    return lying.transpose(inverse(order))
