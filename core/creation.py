"""Tensors out of nothing, of Python's numbers and of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core import random
from holdfast.core.backend import Array, array_module, backend
from holdfast.core.ops import shape as shape_ops
from holdfast.core.primitive import DEFAULT_FLOAT
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw

Shape = int | Sequence[int]


def tensor(
    data: Any,
    dtype: npt.DTypeLike | None = None,
    *,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor that holds a copy of `data`: numbers, nested lists, an array or a tensor.

    Python's floats become float32 and its integers int64; arrays keep their dtype.
    """
    return Tensor(_array(data, dtype, device, copy=True), requires_grad)


def as_tensor(
    data: Any, dtype: npt.DTypeLike | None = None, *, device: str | None = None
) -> Tensor:
    """Return `data` as a tensor: itself if it is one, sharing memory if it is an array."""
    if isinstance(data, Tensor):
        moved = data if device is None else data.to(device)
        return moved if dtype is None else moved.to(dtype)
    return Tensor(_array(data, dtype, device, copy=False))


def from_numpy(array: Array) -> Tensor:
    """Return a tensor that shares the memory of `array`."""
    return Tensor(array)


def _array(data: Any, dtype: npt.DTypeLike | None, device: str | None, copy: bool) -> Array:
    held = raw(data)
    if not hasattr(held, "dtype"):
        if isinstance(held, (list, tuple)) and any(isinstance(part, Tensor) for part in held):
            held = [raw(part) for part in held]
        held = np.asarray(held)
        if dtype is None and held.dtype == np.float64:
            dtype = DEFAULT_FLOAT
    module = array_module(held) if device is None else backend(device)
    if module is np:
        held = held if isinstance(held, np.ndarray | np.generic) else held.get()
    made: Array = module.array(held, dtype=dtype) if copy else module.asarray(held, dtype=dtype)
    return made


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes


def full(
    size: Shape,
    fill_value: float,
    dtype: npt.DTypeLike | None = None,
    *,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor with every element `fill_value`, whose kind gives the dtype if none is."""
    shape = (size,) if isinstance(size, int) else tuple(size)
    kind = np.asarray(fill_value).dtype
    kind = DEFAULT_FLOAT if kind == np.float64 else kind
    made = backend(device).full(shape, fill_value, dtype=kind if dtype is None else dtype)
    return Tensor(made, requires_grad)


def zeros(
    *size: Any,
    dtype: npt.DTypeLike = DEFAULT_FLOAT,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of zeros."""
    return Tensor(backend(device).zeros(_sizes(size), dtype=dtype), requires_grad)


def ones(
    *size: Any,
    dtype: npt.DTypeLike = DEFAULT_FLOAT,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of ones."""
    return Tensor(backend(device).ones(_sizes(size), dtype=dtype), requires_grad)


def zeros_like(other: Tensor) -> Tensor:
    """Return zeros of the shape, dtype and device of `other`."""
    return Tensor(array_module(other.array).zeros(other.shape, dtype=other.dtype))


def ones_like(other: Tensor) -> Tensor:
    """Return ones of the shape, dtype and device of `other`."""
    return Tensor(array_module(other.array).ones(other.shape, dtype=other.dtype))


def arange(*bounds: float, dtype: npt.DTypeLike | None = None, device: str = "cpu") -> Tensor:
    """Return evenly spaced values: `arange(end)`, `arange(start, end)`, with a step as third."""
    if dtype is None:
        dtype = DEFAULT_FLOAT if any(isinstance(b, float) for b in bounds) else np.int64
    return Tensor(backend(device).arange(*bounds, dtype=dtype))


def eye(n: int, m: int | None = None, *, dtype: npt.DTypeLike = DEFAULT_FLOAT) -> Tensor:
    """Return a matrix with ones on the diagonal."""
    return Tensor(np.eye(n, m, dtype=dtype))


def randn(
    *size: Any,
    dtype: npt.DTypeLike = DEFAULT_FLOAT,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Return normal random numbers of mean 0 and variance 1, from the one generator."""
    drawn = random.generator().standard_normal(_sizes(size), dtype=np.float32)
    return Tensor(backend(device).asarray(drawn, dtype=dtype), requires_grad)


def rand(
    *size: Any,
    dtype: npt.DTypeLike = DEFAULT_FLOAT,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Return random numbers from 0 to 1 (excluded), from the one generator."""
    drawn = random.generator().random(_sizes(size), dtype=np.float32)
    return Tensor(backend(device).asarray(drawn, dtype=dtype), requires_grad)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    return shape_ops.stack(*tensors, dim=dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an existing axis."""
    return shape_ops.concatenate(*tensors, dim=dim)
