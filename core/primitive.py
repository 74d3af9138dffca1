"""What makes a function of arrays an operation on tensors: the driver, and the registry.

A primitive is one function of plain arrays that returns its value and its pullback:

    @primitive(sample=lambda rng: (rng.normal(size=(5, 7)),))
    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y = e / e.sum(axis=-1, keepdims=True)
        return y, lambda g: (y * (g - (g * y).sum(axis=-1, keepdims=True)),)

Its positional arguments are arrays (or None, or Python scalars), its options are keywords. The
pullback takes the cotangent `g` of the value and returns one entry per positional argument: an
array, None, or a callable that is only called if that cotangent is needed. It may return it in the
shape that broadcasting gave: it is summed back here, once for all. `sample(rng)` returns positional
arguments, or those and a dict of options: the gradient check runs over the registry, so that a
primitive without a check cannot exist.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import holdfast.core.tensor as tensors  # as a module: it needs this one to be complete
from holdfast.core.backward import Node, Pullback, recording
from holdfast.core.errors import ShapeError, shape_error
from holdfast.core.variable import Variable

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Rule = Callable[..., tuple[Any, Pullback]]
Operation = Callable[..., "Tensor"]
Sample = Callable[[np.random.Generator], tuple[Any, ...]]
Second = Literal["linear", "rerun"] | Operation | None

DEFAULT_FLOAT = np.dtype(np.float32)


def wrap(value: Any) -> "Tensor":
    """Return a tensor over `value`, an array or a NumPy scalar; it requires no gradient."""
    out = tensors.Tensor.__new__(tensors.Tensor)
    out.array = np.asarray(value) if isinstance(value, np.generic) else value
    out.node = None
    return out


@dataclass(frozen=True)
class Primitive:
    """An entry of the registry: the rule on arrays, the operation on tensors, the sample."""

    name: str
    rule: Rule
    operation: Operation
    sample: Sample

    def example(self, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional arguments and options of the sample drawn with `seed`."""
        drawn = self.sample(np.random.default_rng(seed))
        if len(drawn) == 2 and isinstance(drawn[1], dict):
            return drawn[0], drawn[1]
        return drawn, {}


_REGISTRY: dict[str, Primitive] = {}


def registry() -> Mapping[str, Primitive]:
    """Return all primitives by name."""
    return dict(_REGISTRY)


def primitive(
    *, sample: Sample, name: str | None = None, promote: bool = False, second: Second = None
) -> Callable[[Rule], Operation]:
    """Register a rule and return its operation on tensors.

    With `promote`, array arguments of different dtypes are brought to one first, as PyTorch does.
    Raises ValueError if the name is taken.
    """

    def register(rule: Rule) -> Operation:
        label = name or rule.__name__
        if label in _REGISTRY:
            raise ValueError(f"a primitive named {label!r} exists already: choose another name")
        kinds = [p.kind for p in inspect.signature(rule).parameters.values()]
        binary = promote and kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
        operation = _binary(label, rule) if binary else _operation(label, rule, promote)
        operation.__name__ = operation.__qualname__ = label
        operation.__doc__, operation.__module__ = rule.__doc__, rule.__module__
        _REGISTRY[label] = Primitive(label, rule, operation, sample)
        return operation

    return register


def _operation(label: str, rule: Rule, promote: bool) -> Operation:
    """Return the function that runs `rule` on the arrays of tensors and records its pullback."""

    def operation(*args: Any, **options: Any) -> "Tensor":
        arrays = []
        parents: list[Any] = []
        recorded = False
        for argument in args:
            if isinstance(argument, Variable):
                arrays.append(argument.array)
                node = argument.node
                parents.append(node)
                if node is not None:
                    recorded = True
            else:
                arrays.append(argument)
                parents.append(None)
        if promote:
            arrays = promoted(arrays)
        try:
            value, pullback = rule(*arrays, **options)
        except ShapeError:
            raise
        except ValueError as error:
            raise _explained(label, rule, arrays, error) from error
        out = wrap(value)
        if recorded and recording.enabled:
            out.node = Node(label, pullback, tuple(parents), out.array)
        return out

    return operation


def _binary(label: str, rule: Rule) -> Operation:
    """Return what `_operation` does for two arguments that are promoted, only quicker.

    Arithmetic on small tensors is nothing but overhead, and this is the half of it.
    """
    general = _operation(label, rule, promote=True)

    def operation(x: Any, y: Any) -> "Tensor":
        if not (isinstance(x, Variable) and isinstance(y, Variable)):
            return general(x, y)
        left, right = x.array, y.array
        if left.dtype is not right.dtype:
            return general(x, y)
        try:
            value, pullback = rule(left, right)
        except ValueError as error:
            raise _explained(label, rule, [left, right], error) from error
        out = wrap(value)
        first, second = x.node, y.node
        if (first is not None or second is not None) and recording.enabled:
            out.node = Node(label, pullback, (first, second), out.array)
        return out

    return operation


def promoted(arrays: list[Any]) -> list[Any]:
    """Bring arrays to one dtype by PyTorch's rules.

    A float wins over an integer and an integer over a bool, whatever their sizes; within a kind
    the larger wins, where an array with axes outranks one without. Python's scalars are weak.
    """
    dtypes = {array.dtype for array in arrays if hasattr(array, "dtype")}
    floats = any(isinstance(array, float) for array in arrays)
    if len(dtypes) == 1:
        (dtype,) = dtypes
        if dtype.kind == "f" or not floats:
            return arrays
    ranked = [(_kind(array), getattr(array, "ndim", -1) > 0, array) for array in arrays]
    kind = max(k for k, _, _ in ranked)
    deciding = [a for k, axes, a in ranked if k == kind and axes] or [
        a for k, _, a in ranked if k == kind and hasattr(a, "dtype")
    ]
    dtype = np.result_type(*(a.dtype for a in deciding)) if deciding else DEFAULT_FLOAT
    return [a.astype(dtype) if hasattr(a, "dtype") and a.dtype != dtype else a for a in arrays]


def _kind(array: Any) -> int:
    """Rank bool, integer and float, for arrays and Python scalars alike."""
    code = array.dtype.kind if hasattr(array, "dtype") else np.asarray(array).dtype.kind
    return "biuf".index(code) if code in "bif" else 1


def _explained(label: str, rule: Rule, arrays: list[Any], error: ValueError) -> ShapeError:
    """Name the arguments of a rule that NumPy refused, and their shapes."""
    names = list(inspect.signature(rule).parameters)
    names += [f"argument {i}" for i in range(len(names), len(arrays))]
    shapes = {n: a.shape for n, a in zip(names, arrays, strict=False) if hasattr(a, "shape")}
    return shape_error(label, f"shapes that fit ({error})", **shapes)
