"""What makes a function of arrays an operation on tensors: the driver, and the registry.

A primitive is one function of plain arrays that returns its value and its pullback:

    @primitive(sample=lambda rng: (rng.normal(size=(5, 7)),), second="rerun")
    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y = e / e.sum(axis=-1, keepdims=True)
        return y, lambda g: (y * (g - (g * y).sum(axis=-1, keepdims=True)),)

Its positional arguments are arrays (or None, or Python scalars), its options are keywords. The
pullback takes the cotangent `g` of the value and returns one entry per positional argument: an
array, None, or a callable that is only called if that cotangent is needed. It may return it in the
shape that broadcasting gave: it is summed back here, once for all. The value may be a tuple of
arrays: then `g` is a tuple of cotangents. `sample(rng)` returns positional arguments, or those and
a dict of options: the gradient check runs over the registry, so that a primitive without a check
cannot exist.

`second` says how second derivatives come about (see `higher.py`):

- "linear": the pullback serves tensors as it does arrays, and reads no value;
- "piecewise": it serves tensors too, as it depends on values only where it is locally constant;
- "rerun": the rule itself is run on tensors, as it uses only operators and NumPy's functions;
- a function of tensors that returns the same value by other primitives;
- None: they are refused, in an error that names the primitive.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from holdfast.core.backend import BFLOAT16, is_floating
from holdfast.core.backward import Bundle, Node, Pick, Pullback
from holdfast.core.errors import shape_error
from holdfast.core.recording import GRAPH, recording
from holdfast.core.variable import Variable
from holdfast.core.watch import through_watchers
from holdfast.errors import ShapeError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Rule = Callable[..., tuple[Any, Pullback]]
Operation = Callable[..., "Tensor"]
Sample = Callable[[np.random.Generator], tuple[Any, ...]]
Second = Literal["linear", "piecewise", "rerun"] | Callable[..., Any] | None

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
    sample: Sample
    promote: bool
    second: Second
    operation: Operation = field(init=False)
    reads_nothing: bool = field(init=False)
    """Whether the pullback reads no value that a change in place could spoil."""
    keeps_call: bool = field(init=False)

    def __post_init__(self) -> None:
        kinds = [p.kind for p in inspect.signature(self.rule).parameters.values()]
        binary = self.promote and kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
        operation = _binary(self) if binary else _operation(self)
        operation.__name__ = operation.__qualname__ = self.name
        operation.__doc__, operation.__module__ = self.rule.__doc__, self.rule.__module__
        object.__setattr__(self, "operation", operation)
        object.__setattr__(self, "reads_nothing", self.second == "linear")
        object.__setattr__(self, "keeps_call", self.second not in ("linear", "piecewise", None))

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


def find(name: str) -> Primitive | None:
    """Return the primitive of this name, or None."""
    return _REGISTRY.get(name)


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
        _REGISTRY[label] = Primitive(label, rule, sample, promote, second)
        return _REGISTRY[label].operation

    return register


def _operation(entry: Primitive) -> Operation:
    """Return the function that runs the rule on the arrays of tensors and records its pullback."""
    rule, promote = entry.rule, entry.promote

    def operation(*args: Any, **options: Any) -> Any:
        mode = recording.mode
        if mode > GRAPH:
            return through_watchers(entry, args, options)
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
            raise _explained(entry, arrays, error) from error
        call = (arrays, options) if entry.keeps_call else None
        if value.__class__ is tuple:
            outs = tuple(wrap(part) for part in value)
            if recorded and mode:
                values = tuple(out.array for out in outs)
                bundle = Bundle(entry, pullback, tuple(parents), values, call)
                for i, out in enumerate(outs):
                    if is_floating(out.array.dtype):
                        out.node = Pick(bundle, i, out.array)
            return outs
        out = wrap(value)
        if recorded and mode and out.array.dtype.kind in "fV":  # answers have no gradient
            out.node = Node(entry, pullback, tuple(parents), out.array, call)
        return out

    return operation


def _binary(entry: Primitive) -> Operation:
    """Return what `_operation` does for two arguments that are promoted, only quicker.

    Arithmetic on small tensors is nothing but overhead, and this is the half of it.
    """
    rule, general = entry.rule, _operation(entry)
    keeps_call = entry.second not in ("linear", "piecewise", None)

    def operation(x: Any, y: Any) -> "Tensor":
        mode = recording.mode
        if mode > GRAPH or not isinstance(x, Variable):
            return general(x, y)
        left, first = x.array, x.node
        right: Any
        if isinstance(y, Variable):
            right, second = y.array, y.node
            if left.dtype is not right.dtype:
                return general(x, y)
        elif y.__class__ in _NUMBERS and left.dtype.kind == "f":
            right, second = y, None
        else:
            return general(x, y)
        try:
            value, pullback = rule(left, right)
        except ShapeError:
            raise
        except ValueError as error:
            raise _explained(entry, [left, right], error) from error
        out = wrap(value)
        if (first is not None or second is not None) and mode:
            call = ((left, right), _NO_OPTIONS) if keeps_call else None
            out.node = Node(entry, pullback, (first, second), out.array, call)
        return out

    return operation


_NO_OPTIONS: dict[str, Any] = {}
_NUMBERS = (float, int)


def promoted(arrays: list[Any]) -> list[Any]:
    """Bring arrays to one dtype by PyTorch's rules.

    A float wins over an integer and an integer over a bool, whatever their sizes; within a kind
    the larger wins, where an array with axes outranks one without. Python's scalars are weak.
    """
    dtypes = {array.dtype for array in arrays if hasattr(array, "dtype")}
    floats = any(isinstance(array, float) for array in arrays)
    if len(dtypes) == 1:
        (dtype,) = dtypes
        if is_floating(dtype) or not (floats or dtype.kind == "b"):
            return arrays
    ranked = [(_kind(array), getattr(array, "ndim", -1) > 0, array) for array in arrays]
    kind = max(k for k, _, _ in ranked)
    deciding = [a for k, axes, a in ranked if k == kind and axes] or [
        a for k, _, a in ranked if k == kind and hasattr(a, "dtype")
    ]
    if deciding:
        dtype = common_dtype([a.dtype for a in deciding])
    else:  # a Python number of a kind that no array has
        dtype = DEFAULT_FLOAT if kind == 3 else np.dtype(np.int64)
    return [a.astype(dtype) if hasattr(a, "dtype") and a.dtype != dtype else a for a in arrays]


def common_dtype(dtypes: list[Any]) -> np.dtype[Any]:
    """Return the smallest dtype of one kind that holds all of `dtypes`.

    That of the two 16-bit floats is float32, as in PyTorch: neither holds the other.
    """
    if BFLOAT16 not in dtypes:
        return np.result_type(*dtypes)
    others = [dtype for dtype in dtypes if dtype != BFLOAT16]
    return np.result_type(DEFAULT_FLOAT, *others) if others else BFLOAT16


def _kind(array: Any) -> int:
    """Rank bool, integer and float, for arrays and Python scalars alike."""
    dtype = array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype
    if is_floating(dtype):
        return 3
    return 0 if dtype.kind == "b" else 1


def _explained(entry: Primitive, arrays: list[Any], error: ValueError) -> ShapeError:
    """Name the arguments of a rule that NumPy refused, and their shapes."""
    parameters = inspect.signature(entry.rule).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    names += [f"argument {i}" for i in range(len(names), len(arrays))]
    shapes = {n: a.shape for n, a in zip(names, arrays, strict=False) if hasattr(a, "shape")}
    return shape_error(entry.name, f"shapes that fit ({error})", **shapes)


import holdfast.core.tensor as tensors  # noqa: E402 - last: it needs all of the above
