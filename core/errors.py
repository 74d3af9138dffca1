"""The errors of this room that are also one of Python's own kinds."""

from holdfast.errors import HoldfastError


class ShapeError(HoldfastError, ValueError):
    """Shapes do not fit; the message names the primitive, its arguments and their shapes."""


class AnomalyError(HoldfastError, ArithmeticError):
    """A primitive made a NaN; the message names it and what it was called with."""


def shape_error(operation: str, expected: str, **shapes: tuple[int, ...]) -> ShapeError:
    """Return the error that `operation` raises when its arguments' `shapes` do not fit."""
    found = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
    return ShapeError(f"{operation}: expected {expected}; found {found}")
