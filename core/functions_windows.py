"""Functions that make window functions: what a signal is faded in and out with, PyTorch's names."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.backend import backend
from holdfast.core.primitive import DEFAULT_FLOAT
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["hamming_window", "hann_window"]


def hann_window(
    window_length: int,
    periodic: bool = True,
    *,
    dtype: npt.DTypeLike | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return half a cosine wave from 0 to 1 and back; symmetric, or the start of a period."""
    return hamming_window(
        window_length, periodic, 0.5, 0.5, dtype=dtype, device=device, requires_grad=requires_grad
    )


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype: npt.DTypeLike | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return alpha - beta * cos(2 pi n / N): of a `periodic` window N is its length, else one less.

    (R. Blackman, J. Tukey, "The Measurement of Power Spectra", 1958.)
    """
    if window_length < 0:
        raise UsageError(f"a window's length is not negative; found {window_length}")
    steps = window_length if periodic else window_length - 1
    turns = np.arange(window_length) / max(steps, 1)
    window = alpha - beta * np.cos(2 * math.pi * turns)
    if window_length == 1:
        window[:] = 1
    values = window.astype(DEFAULT_FLOAT if dtype is None else dtype)
    return Tensor(backend(device or "cpu").asarray(values), requires_grad)
