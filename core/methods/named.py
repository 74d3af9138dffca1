"""The names of first arguments: a method is PyTorch's function too, which calls it `input`.

The rule: what is called most, an operation without options, is wrapped in a function of exactly its
arguments, which costs a few hundredths of a microsecond; the general `function` costs a tenth.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Result = TypeVar("Result")


def of_one(operation: "Callable[..., Tensor]") -> "Callable[[Any], Tensor]":
    """Return an operation on one tensor under PyTorch's name of its argument."""

    def call(input: Any) -> "Tensor":
        return operation(input)

    return _like(operation, call)


def of_two(operation: "Callable[..., Tensor]") -> "Callable[[Any, Any], Tensor]":
    """Return an operation on two tensors under PyTorch's names of its arguments."""

    def call(input: Any, other: Any) -> "Tensor":
        return operation(input, other)

    return _like(operation, call)


def function(method: Callable[..., Result]) -> Callable[..., Result]:
    """Return a method as a function whose first argument may be given as `input`."""

    def call(input: Any, *arguments: Any, **options: Any) -> Result:
        return method(input, *arguments, **options)

    return _like(method, call)


Function = TypeVar("Function", bound=Callable[..., Any])


def _like(origin: Callable[..., Any], call: Function) -> Function:
    """Give a function the name and the text of another; its arguments stay its own."""
    call.__name__, call.__qualname__ = origin.__name__, origin.__qualname__
    call.__doc__, call.__module__ = origin.__doc__, origin.__module__
    return call
