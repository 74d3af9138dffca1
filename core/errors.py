"""How this room words its errors about shapes and dtypes."""

from typing import Any

from holdfast.errors import ShapeError, UsageError


def shape_error(operation: str, expected: str, **shapes: tuple[int, ...]) -> ShapeError:
    """Return the error that `operation` raises when its arguments' `shapes` do not fit."""
    found = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
    return ShapeError(f"{operation}: expected {expected}; found {found}")


def check_dtypes(operation: str, **arrays: Any) -> None:
    """Raise UsageError unless the arrays of `operation` have one dtype; None is left out.

    What multiplies matrices asks for that, as PyTorch does: in the larger of two dtypes it would be
    slow, and nobody would know why.
    """
    dtypes = {name: array.dtype for name, array in arrays.items() if array is not None}
    first = next(iter(dtypes.values()))
    if any(dtype is not first and dtype != first for dtype in dtypes.values()):
        *names, last = dtypes
        found = ", ".join(f"{name} of {dtype}" for name, dtype in dtypes.items())
        raise UsageError(
            f"{operation}: {', '.join(names)} and {last} of one dtype were expected; found "
            f"{found}: convert with .to(dtype)"
        )
