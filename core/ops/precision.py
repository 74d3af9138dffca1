"""What a primitive computes in: float32 for 16-bit floats, a float for integers, without warnings.

The rule: a value has the dtype of the arguments, whatever was computed in; integers give the
default float where a result can only be a float. All as in PyTorch.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.primitive import DEFAULT_FLOAT, Rule


def narrow(value: Any, *arguments: Any) -> Any:
    """Return `value` in the dtype of the arguments, which a Python number beside them may widen."""
    for argument in arguments:
        dtype = getattr(argument, "dtype", None)
        if dtype is not None:
            return value if value.dtype == dtype else value.astype(dtype)
    return value


def wide(dtype: Any) -> bool:
    """Return whether to compute in `dtype` itself: float32 or float64."""
    return bool(dtype.kind == "f" and dtype.itemsize > 2)


def accumulator(dtype: Any) -> Any:
    """Return the dtype in which to add up values of `dtype`: float32 for a 16-bit float."""
    return dtype if wide(dtype) or not is_floating(dtype) else DEFAULT_FLOAT


def in_float(rule: Rule) -> Rule:
    """Let `rule` compute in float32 what is an integer or a 16-bit float.

    The value of 16-bit floats comes back in their dtype; that of integers stays a float.
    """

    @wraps(rule)
    def run(*arguments: Any, **options: Any) -> Any:
        dtype = next((a.dtype for a in arguments if hasattr(a, "dtype")), DEFAULT_FLOAT)
        if wide(dtype):
            return rule(*arguments, **options)
        widened = (a.astype(DEFAULT_FLOAT) if hasattr(a, "dtype") else a for a in arguments)
        value, pullback = rule(*widened, **options)
        if not is_floating(dtype):
            return value, pullback
        return value.astype(dtype), lambda g: pullback(g.astype(DEFAULT_FLOAT))

    return run


def quiet(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Let `rule` return infinities and NaN without NumPy's warnings: log(0), 1/0, sqrt(-1)."""

    @wraps(rule)
    def run(*arguments: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return rule(*arguments, **options)

    return run
