"""Tensors of random values: functions of the seed and of what was drawn before.

They draw on the host, from the one generator of `holdfast.core.random` unless another is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core import random
from holdfast.core.backend import backend, device_of, to_host
from holdfast.core.creation import shape_of
from holdfast.core.primitive import DEFAULT_FLOAT
from holdfast.core.tensor import Tensor
from holdfast.core.variable import Variable, raw
from holdfast.errors import UsageError

__all__ = [
    "bernoulli",
    "multinomial",
    "normal",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
]


Generator = np.random.Generator | None


def rand(
    *size: Any,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
    generator: Generator = None,
) -> Tensor:
    """Return random numbers from 0 to 1 (excluded)."""
    drawn = _drawing(generator).random(shape_of(size), dtype=_drawn_in(dtype))
    return _made(drawn, dtype or DEFAULT_FLOAT, device, requires_grad)


def randn(
    *size: Any,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
    generator: Generator = None,
) -> Tensor:
    """Return normal random numbers of mean 0 and variance 1."""
    drawn = _drawing(generator).standard_normal(shape_of(size), dtype=_drawn_in(dtype))
    return _made(drawn, dtype or DEFAULT_FLOAT, device, requires_grad)


def randint(
    low: int = 0,
    high: Any = None,
    size: Any = None,
    *,
    dtype: npt.DTypeLike = np.int64,
    device: str | None = None,
    requires_grad: bool = False,
    generator: Generator = None,
) -> Tensor:
    """Return random integers from `low` to `high` (excluded), or `randint(high, size)` from 0."""
    if size is None:
        high, size = None, high
    low, high = (0, low) if high is None else (low, high)
    if size is None or low >= high:
        raise UsageError(f"randint: low < high and a size; found {low}, {high} and {size}")
    drawn = _drawing(generator).integers(low, high, size=shape_of((size,)))
    return _made(drawn, dtype, device, requires_grad)


def randperm(
    n: int,
    *,
    dtype: npt.DTypeLike = np.int64,
    device: str | None = None,
    generator: Generator = None,
) -> Tensor:
    """Return 0 to n - 1 in random order."""
    return _made(_drawing(generator).permutation(n), dtype, device, False)


def rand_like(
    input: Tensor, *, dtype: npt.DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """Return random numbers from 0 to 1 (excluded), of the shape, dtype and device of `input`."""
    kind = dtype or input.dtype
    return rand(*input.shape, dtype=kind, device=input.device, requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, dtype: npt.DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """Return normal random numbers, of the shape, dtype and device of `input`."""
    kind = dtype or input.dtype
    return randn(*input.shape, dtype=kind, device=input.device, requires_grad=requires_grad)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, dtype: npt.DTypeLike | None = None
) -> Tensor:
    """Return random integers from `low` (or 0) to `high`, like `input` in shape and dtype."""
    bounds = (0, low) if high is None else (low, high)
    return randint(*bounds, input.shape, dtype=dtype or input.dtype, device=input.device)


def bernoulli(input: Any, p: float | None = None, *, generator: Generator = None) -> Tensor:
    """Return 1 with the probability that each element of `input` has (or `p`), else 0."""
    given = raw(input)
    chance = to_host(given) if p is None else p
    if np.min(chance, initial=0) < 0 or np.max(chance, initial=0) > 1:
        raise UsageError("bernoulli: probabilities from 0 to 1 are expected")
    drawn = _drawing(generator).random(given.shape) < chance
    return _made(drawn, given.dtype, device_of(given), False)


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Sequence[int] | None = None,
    *,
    dtype: npt.DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
    generator: Generator = None,
) -> Tensor:
    """Return normal random numbers; `mean` and `std` are numbers, or tensors that broadcast."""
    centre, spread = raw(mean), raw(std)
    if np.min(spread, initial=0) < 0:
        raise UsageError("normal: a standard deviation is not negative")
    shape = size if size is not None else np.broadcast_shapes(np.shape(centre), np.shape(spread))
    drawn = _drawing(generator).standard_normal(tuple(shape))
    given = [part for part in (mean, std) if isinstance(part, Variable)]
    kind = dtype or (given[0].dtype if given else DEFAULT_FLOAT)
    where = device or (given[0].device if given else None)
    host = [to_host(part) if hasattr(part, "dtype") else part for part in (centre, spread)]
    return _made(drawn * host[1] + host[0], kind, where, requires_grad)


def multinomial(
    input: Any, num_samples: int, replacement: bool = False, *, generator: Generator = None
) -> Tensor:
    """Return int64 (..., num_samples): places drawn with the weights that `input` has for them.

    `input` is (n,), or (rows, n) whose rows are drawn from by themselves; the weights need not sum
    to 1. Without `replacement` no place is drawn twice in a row.
    """
    given = raw(input)
    weights = to_host(given).astype(np.float64)
    total = weights.sum(axis=-1, keepdims=True)
    if weights.ndim not in (1, 2) or not np.isfinite(total).all() or (weights < 0).any():
        raise UsageError(
            "multinomial takes one or two axes of weights that are finite and not negative; found "
            f"shape {weights.shape}"
        )
    enough = 1 if replacement else num_samples
    if num_samples < 1 or ((weights > 0).sum(axis=-1) < enough).any():
        raise UsageError(
            f"multinomial: {num_samples} samples need at least {enough} weights above 0 in each row"
        )
    drawing = _drawing(generator)
    if replacement or num_samples == 1:
        # Where a number from 0 to 1 falls on the line of the shares laid end to end.
        ends = np.cumsum(weights / total, axis=-1)
        rows = ends.reshape(-1, ends.shape[-1])
        spots = drawing.random((len(rows), num_samples)) * rows[:, -1:]
        found = [np.searchsorted(*pair, side="right") for pair in zip(rows, spots, strict=True)]
        places = np.stack(found).reshape(*weights.shape[:-1], num_samples)
    else:
        # The first arrivals of clocks that run as fast as the weights (Efraimidis, Spirakis, 2006).
        with np.errstate(divide="ignore"):
            arrivals = drawing.standard_exponential(weights.shape) / weights
        places = np.argsort(arrivals, axis=-1)[..., :num_samples]
    return _made(places, np.int64, device_of(given), False)


def _drawing(generator: Generator) -> np.random.Generator:
    return random.generator() if generator is None else generator


def _drawn_in(dtype: Any) -> Any:
    """Return the dtype to draw in: float64 where that is asked for, else float32."""
    return np.float64 if dtype is not None and np.dtype(dtype) == np.float64 else np.float32


def _made(drawn: Any, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    array = np.asarray(drawn).astype(dtype, copy=False)
    return Tensor(backend(device or "cpu").asarray(array), requires_grad)
