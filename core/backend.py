"""The array-module seam: which library holds an array, and how arrays move between devices.

The rule: primitives call `numpy` functions, which CuPy's arrays answer through NumPy's dispatch
protocols; they ask for the array module only where they create arrays.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from holdfast.core.device import CPU, CUDA, Device
from holdfast.errors import MissingDependency, UsageError

Array: TypeAlias = npt.NDArray[Any]
"""An array of any backend. CuPy's arrays answer to the same operations as NumPy's."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
"""The upper half of a float32, which NumPy has through ml_dtypes."""

ALIGNMENT = 64
"""Bytes to which flat buffers are aligned: a cache line, and the widest vector register."""


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise MissingDependency(
            "device 'cuda' needs CuPy, which is not installed: pip install 'holdfast[cuda13]' "
            "(or 'holdfast[cuda12]' for a driver of CUDA 12)"
        ) from error


_BACKENDS: dict[str, Callable[[], Any]] = {"cpu": lambda: np, "cuda": _cupy}


def backend(device: str) -> Any:
    """Return the array module of `device`: "cpu" is NumPy, "cuda" is CuPy.

    Raises MissingDependency if it is not installed, UsageError for an unknown name.
    """
    load = _BACKENDS.get(device)
    return load() if load is not None else _BACKENDS[Device(device)]()


def choose_device(asked: str) -> str:
    """Return the device to compute on: `asked`, or for "auto" a GPU where one can be used.

    Raises MissingDependency for "cuda" without CuPy, UsageError where there is no GPU for it.
    """
    if asked != "auto":
        module = backend(asked)
        if asked == "cuda" and not module.cuda.is_available():
            raise UsageError("device 'cuda' was asked for, and no GPU is to be seen: --device cpu")
        return asked
    try:
        return "cuda" if _cupy().cuda.is_available() else "cpu"
    except MissingDependency:
        return "cpu"


def array_module(*arrays: Any) -> Any:
    """Return the module (numpy or cupy) that holds `arrays`; NumPy if none is an array of CuPy."""
    for array in arrays:
        if type(array) is np.ndarray:
            continue
        if type(array).__module__.partition(".")[0] == "cupy":
            return backend("cuda")
    return np


def device_of(array: Any) -> Device:
    """Return the device that holds `array`."""
    return CPU if array_module(array) is np else CUDA


def to_host(array: Any) -> Array:
    """Return `array` as a NumPy array: itself if it is one, else a copy."""
    if isinstance(array, np.ndarray):
        return array
    if array_module(array) is np:
        return np.asarray(array)
    host: Array = array.get()
    return host


def to_device(array: Any, device: str) -> Array:
    """Return `array` on `device`: itself if it is there, else a copy."""
    module = backend(device)
    if module is np:
        return to_host(array)
    moved: Array = module.asarray(array)
    return moved


def is_floating(dtype: Any) -> bool:
    """Return whether `dtype` is a float, bfloat16 included, whose kind NumPy does not know."""
    return bool(dtype.kind == "f" or dtype == BFLOAT16)


def aligned_zeros(size: int, dtype: npt.DTypeLike, module: Any = np) -> Array:
    """Return a flat array of `size` zeros that starts at a multiple of ALIGNMENT bytes."""
    dtype = np.dtype(dtype)
    nbytes = size * dtype.itemsize
    raw = module.zeros(nbytes + ALIGNMENT, dtype=np.uint8)
    address = raw.ctypes.data if module is np else raw.data.ptr
    start = -address % ALIGNMENT
    flat: Array = raw[start : start + nbytes].view(dtype)
    return flat


def strided(array: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Return a view of `array` with these `shape` and `strides` (in bytes), unchecked."""
    view: Array = array_module(array).lib.stride_tricks.as_strided(array, shape, strides)
    return view
