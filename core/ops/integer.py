"""What is asked of integers, and of signs: shifts, common divisors and multiples, steps.

These are questions (see `ask.py`), without a gradient.
"""

from typing import Any

import numpy as np

from holdfast.core.ops.ask import question
from holdfast.core.ops.precision import narrow
from holdfast.errors import UsageError


def _integers(name: str, x: Any, y: Any) -> None:
    for a in (x, y):
        if hasattr(a, "dtype") and a.dtype.kind not in "iu":
            raise UsageError(f"{name} takes integers; found {a.dtype}")


@question
def gcd(x: Any, y: Any) -> Any:
    """Return the greatest common divisors, which are not negative."""
    _integers("gcd", x, y)
    return np.gcd(x, y)


@question
def lcm(x: Any, y: Any) -> Any:
    """Return the least common multiples, which are not negative."""
    _integers("lcm", x, y)
    return np.lcm(x, y)


@question
def signbit(x: Any) -> Any:
    """Return where the sign is minus, that of -0.0 included."""
    return np.less(x, 0) if x.dtype.kind in "biu" else np.signbit(x)


@question
def heaviside(x: Any, at_zero: Any) -> Any:
    """Return 0 below zero, 1 above it, and `at_zero` there."""
    step = np.where(np.equal(x, 0), at_zero, np.greater(x, 0))
    return narrow(np.where(np.isnan(x), 0, step), x)
