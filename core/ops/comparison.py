"""Questions about elements, answered by booleans: they have no gradient, and leave no graph."""

from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.ops.ask import ask, question
from holdfast.core.ops.precision import wide

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


@question
def _close(x: Any, y: Any, *, rtol: float, atol: float, equal_nan: bool) -> Any:
    if not wide(x.dtype):
        x, y = (a.astype(np.float64) if hasattr(a, "dtype") else a for a in (x, y))
    return np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan)


def eq(input: "Tensor", other: Any) -> "Tensor":
    """Return where the two are equal."""
    return ask(input, other, question="equal")


def ne(input: "Tensor", other: Any) -> "Tensor":
    """Return where the two differ."""
    return ask(input, other, question="not_equal")


def lt(input: "Tensor", other: Any) -> "Tensor":
    """Return where `input` is less than `other`."""
    return ask(input, other, question="less")


def le(input: "Tensor", other: Any) -> "Tensor":
    """Return where `input` is at most `other`."""
    return ask(input, other, question="less_equal")


def gt(input: "Tensor", other: Any) -> "Tensor":
    """Return where `input` is greater than `other`."""
    return ask(input, other, question="greater")


def ge(input: "Tensor", other: Any) -> "Tensor":
    """Return where `input` is at least `other`."""
    return ask(input, other, question="greater_equal")


def isnan(input: "Tensor") -> "Tensor":
    """Return where the elements are NaN."""
    return ask(input, question="isnan")


def isinf(input: "Tensor") -> "Tensor":
    """Return where the elements are infinite."""
    return ask(input, question="isinf")


def isfinite(input: "Tensor") -> "Tensor":
    """Return where the elements are neither infinite nor NaN."""
    return ask(input, question="isfinite")


def logical_and(input: "Tensor", other: Any) -> "Tensor":
    """Return where both are other than 0."""
    return ask(input, other, question="logical_and")


def logical_or(input: "Tensor", other: Any) -> "Tensor":
    """Return where at least one is other than 0."""
    return ask(input, other, question="logical_or")


def logical_xor(input: "Tensor", other: Any) -> "Tensor":
    """Return where exactly one is other than 0."""
    return ask(input, other, question="logical_xor")


def logical_not(input: "Tensor") -> "Tensor":
    """Return where the elements are 0."""
    return ask(input, question="logical_not")


def isclose(
    input: "Tensor", other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> "Tensor":
    """Return where |input - other| <= atol + rtol * |other|."""
    return ask(input, other, question="close", rtol=rtol, atol=atol, equal_nan=equal_nan)


def allclose(
    input: "Tensor", other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Return whether |input - other| <= atol + rtol * |other| everywhere."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: "Tensor", other: "Tensor") -> bool:
    """Return whether both have the same shape and elements."""
    return input.shape == other.shape and bool(eq(input, other).array.all())
