"""The primitive of the median of all elements, and where medians along an axis are."""

from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.ops.ask import question
from holdfast.core.primitive import primitive


@question
def middle(x: Any, axis: int, skip_nan: bool = False) -> Any:
    """Return where the lower median is along `axis`: of the numbers if `skip_nan`, else the first
    NaN where there is one."""
    order = np.argsort(x, axis=axis, kind="stable")  # NaN comes last
    missing = np.isnan(x)
    if skip_nan:
        count = x.shape[axis] - missing.sum(axis=axis, keepdims=True)
        at = np.take_along_axis(order, np.maximum(count - 1, 0) // 2, axis=axis)
        return np.squeeze(at, axis=axis)
    at = np.take(order, (x.shape[axis] - 1) // 2, axis=axis)
    return np.where(missing.any(axis=axis), np.argmax(missing, axis=axis), at)


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(3, 4)),), {"skip_nan": bool(rng.random() < 0.5)}


@primitive(sample=_sample, second="piecewise")
def median(x: Any, *, skip_nan: bool = False) -> tuple[Any, Pullback]:
    """Return the lower median of all elements; equal ones share the gradient.

    It is NaN where an element is, unless `skip_nan`.
    """
    flat = x.reshape(-1)
    if not flat.size:
        y = np.full_like(flat, np.nan, shape=())
    else:
        y = flat[middle(flat, 0, skip_nan)].reshape(())

    equal = np.isnan(x) if np.isnan(y) else np.equal(x, y)
    return y, lambda g: (g * (equal / equal.sum()).astype(g.dtype),)
