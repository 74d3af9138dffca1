"""Loops that are compiled: one pass over memory where NumPy's functions take many.

A primitive is written with NumPy's functions, for every dtype and device. The few that are hot in
training have a loop in `loops.py` beside that, which Numba compiles: for large float32 arrays on a
CPU, where it was measured to pay. Numba is loaded at the first of them, so that whoever computes
little does not wait for it; what it compiles is kept beside the source, or in the user's cache.
"""

import contextlib
import importlib
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

FROM = 32 * 1024
"""Elements from which a loop is used, but for `at_all_sizes`: below, NumPy takes microseconds."""

_FLOAT32 = np.dtype(np.float32)


class _Threshold(threading.local):
    least = FROM


_threshold = _Threshold()


@contextlib.contextmanager
def at_all_sizes() -> Iterator[None]:
    """Use loops for small arrays too: for what is called again and again, as a plan is."""
    before, _threshold.least = _threshold.least, 1
    try:
        yield
    finally:
        _threshold.least = before


def loops_for(*arrays: Any) -> ModuleType | None:
    """Return the compiled loops if they can serve `arrays`: float32 on a CPU, in row-major memory.

    None says that NumPy's functions are to be used, as where the first array is small.
    """
    if arrays[0].size < _threshold.least:
        return None
    for array in arrays:
        if array is not None and (
            type(array) is not np.ndarray
            or array.dtype is not _FLOAT32
            or not array.flags.c_contiguous
        ):
            return None
    return importlib.import_module("holdfast.core.kernels.loops")
