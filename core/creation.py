"""Tensors out of nothing, of Python's numbers and of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.backend import Array, array_module, backend, is_floating
from holdfast.core.primitive import DEFAULT_FLOAT
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import UsageError

__all__ = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "logspace",
    "ones",
    "ones_like",
    "tensor",
    "zeros",
    "zeros_like",
]

Shape = int | Sequence[int]


def tensor(
    data: Any,
    dtype: npt.DTypeLike | None = None,
    *,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor that holds a copy of `data`: numbers, nested lists, an array or a tensor.

    Python's floats become float32 and its integers int64; arrays and NumPy's numbers keep their
    dtype, in lists too.
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


asarray = as_tensor


def from_numpy(array: Array) -> Tensor:
    """Return a tensor that shares the memory of `array`."""
    return Tensor(array)


def _array(data: Any, dtype: npt.DTypeLike | None, device: str | None, copy: bool) -> Array:
    held = raw(data)
    if not hasattr(held, "dtype"):
        if isinstance(held, (list, tuple)):
            held = _bare(held)
        of_python = not isinstance(_first(held), np.generic | np.ndarray)
        held = np.asarray(held)
        if dtype is None and held.dtype == np.float64 and of_python:
            dtype = DEFAULT_FLOAT
    if held.dtype.kind not in "biufc" and not is_floating(held.dtype):
        raise UsageError(
            f"tensor: numbers, nested lists of them of even lengths, or an array were expected; "
            f"found {data!r:.80}"
        )
    module = array_module(held) if device is None else backend(device)
    if module is np:
        held = held if isinstance(held, np.ndarray | np.generic) else held.get()
    made: Array = module.array(held, dtype=dtype) if copy else module.asarray(held, dtype=dtype)
    return made


def _first(data: Any) -> Any:
    """Return the first element of nested lists."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return data


def _bare(data: Any) -> Any:
    """Return nested lists with the arrays of the tensors in them, if there are any."""
    if isinstance(data, (list, tuple)) and data and isinstance(data[0], (list, tuple, Tensor)):
        return [_bare(part) for part in data]
    return raw(data)


# -- of one value ---------------------------------------------------------------------------------


def shape_of(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Take sizes given one by one or as one sequence."""
    one = len(given) == 1 and not isinstance(given[0], (int, np.integer))
    return tuple(given[0]) if one else given


def empty(
    *size: Any,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor whose values are still to be set."""
    made = _module(device).empty(shape_of(size), dtype=_float(dtype))
    return Tensor(made, requires_grad)


def zeros(
    *size: Any,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of zeros."""
    made = _module(device).zeros(shape_of(size), dtype=_float(dtype))
    return Tensor(made, requires_grad)


def ones(
    *size: Any,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor of ones."""
    made = _module(device).ones(shape_of(size), dtype=_float(dtype))
    return Tensor(made, requires_grad)


def full(
    size: Shape,
    fill_value: Any,
    dtype: npt.DTypeLike | None = None,
    *,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor with every element `fill_value`, whose kind gives the dtype if none is."""
    value = raw(fill_value)
    if dtype is None:
        kind = np.asarray(value).dtype
        dtype = DEFAULT_FLOAT if kind == np.float64 else kind
    return Tensor(_module(device).full(shape_of((size,)), value, dtype=dtype), requires_grad)


def empty_like(
    input: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor like `input` whose values are still to be set."""
    made = _beside(input, device).empty(input.shape, dtype=_like(input, dtype))
    return Tensor(made, requires_grad)


def zeros_like(
    input: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return zeros of the shape, and unless given the dtype and device, of `input`."""
    made = _beside(input, device).zeros(input.shape, dtype=_like(input, dtype))
    return Tensor(made, requires_grad)


def ones_like(
    input: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return ones of the shape, and unless given the dtype and device, of `input`."""
    made = _beside(input, device).ones(input.shape, dtype=_like(input, dtype))
    return Tensor(made, requires_grad)


def full_like(
    input: Any,
    fill_value: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor like `input` with every element `fill_value`."""
    module = _beside(input, device)
    made = module.full(input.shape, raw(fill_value), dtype=_like(input, dtype))
    return Tensor(made, requires_grad)


def _module(device: str | None) -> Any:
    return backend(device or "cpu")


def _beside(input: Any, device: str | None) -> Any:
    return array_module(raw(input)) if device is None else backend(device)


def _float(dtype: npt.DTypeLike | None) -> Any:
    return DEFAULT_FLOAT if dtype is None else dtype


def _like(input: Any, dtype: npt.DTypeLike | None) -> Any:
    return input.dtype if dtype is None else dtype


# -- of values in a row ---------------------------------------------------------------------------


def arange(
    start: float = 0,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return evenly spaced values: `arange(end)`, `arange(start, end)`, with a step as third.

    They are int64, or float32 if one of the three is a float, and never reach `end`.
    """
    first, last = (0, start) if end is None else (start, end)
    if not step or (last - first) / step < 0:
        raise UsageError(f"arange: no step of {step} leads from {first} to {last}")
    if dtype is None:
        whole = all(isinstance(value, (int, np.integer)) for value in (first, last, step))
        dtype = np.int64 if whole else DEFAULT_FLOAT
    # Counted in float64, or in integers, whatever the dtype.
    values = np.arange(first, last, step).astype(dtype, copy=False)
    return Tensor(_module(device).asarray(values), requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return `steps` evenly spaced values from `start` to `end`, both included."""
    values = np.linspace(float(start), float(end), steps).astype(_float(dtype))
    return Tensor(_module(device).asarray(values), requires_grad)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return `base` to the power of `steps` evenly spaced values from `start` to `end`."""
    values = np.logspace(float(start), float(end), steps, base=base).astype(_float(dtype))
    return Tensor(_module(device).asarray(values), requires_grad)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a matrix with ones on the diagonal."""
    return Tensor(_module(device).eye(n, m, dtype=_float(dtype)), requires_grad)
