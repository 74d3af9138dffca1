"""What changes a tensor itself: PyTorch's methods whose names end in an underscore.

The rule: without a graph the array is written to. Where a graph is recorded, the tensor becomes the
output of the operation, and the value that it had before stays untouched for the pullbacks that
need it; a leaf that requires a gradient and a view of another tensor are refused there, since the
first would lose its history and the second would have to change the other.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from holdfast.core import random
from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Leaf, Node
from holdfast.core.changes import mark, next_sequence
from holdfast.core.errors import shape_error
from holdfast.core.ops import elementwise
from holdfast.core.primitive import wrap
from holdfast.core.recording import recording
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError, UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

VIEWS = {
    "broadcast",
    "diagonal",
    "flip",
    "index",
    "pad",
    "permute",
    "reshape",
    "split",
    "unbind",
    "unfold",
}
"""Primitives whose value may share memory with their argument."""


class InPlaceMethods(Variable):
    """The methods that change a tensor and return it."""

    __slots__ = ()

    def _linked(self, *arguments: Any) -> bool:
        """Return whether a change that these arguments make is to be recorded in a graph."""
        if not recording.enabled or hasattr(self, "unrecorded"):
            return False
        return self.node is not None or any(
            isinstance(a, Variable) and a.node is not None for a in arguments
        )

    def _become(self, operation: Callable[..., "Tensor"], *arguments: Any) -> "Tensor":
        """Change this tensor into `operation(self, *arguments)`."""
        mine = cast("Tensor", self)
        if not self._linked(*arguments) and recording.tracer is None:
            bare = (raw(a) if isinstance(a, Variable) else a for a in arguments)
            result = operation(wrap(self.array), *bare)
            if is_floating(result.dtype) and not is_floating(self.dtype):
                raise UsageError(
                    f"in-place operation: the result is {result.dtype}, and cannot be kept in a "
                    f"tensor of {self.dtype}: convert that first, or do it out of place"
                )
            return self._store(result.array)
        self._refuse_leaf()
        made_by = self.node.name if isinstance(self.node, Node) else "an operation before"
        if made_by in VIEWS or (self.node is None and self.array.base is not None):
            raise GradientError(
                f"this tensor is a view, made by {made_by!r}, and what it views would have to "
                "change with it: work on a clone(), or write x[i] = x[i] + y instead of x[i] += y"
            )
        result = operation(mine, *arguments)
        if result.shape != self.shape:
            raise shape_error(
                "in-place operation", "a result of x's shape", x=self.shape, result=result.shape
            )
        result = result.to(self.dtype)
        self.array, self.node = result.array, result.node
        return mine

    def _refuse_leaf(self) -> None:
        if recording.enabled and isinstance(self.node, Leaf):
            raise GradientError(
                "a leaf that requires a gradient cannot be changed in place: do it under no_grad()"
            )

    def _store(self, value: Any) -> "Tensor":
        """Copy `value` into this tensor's memory."""
        value = raw(value)
        shape = getattr(value, "shape", ())
        if shape != self.shape and not _fits(shape, self.shape):
            raise shape_error(
                "in-place operation", "a value that fits x", x=self.shape, value=shape
            )
        self.array[...] = value
        mark(self.array)
        if self.node is not None:
            self.node.changed = next_sequence()
        return cast("Tensor", self)

    # -- new values ---------------------------------------------------------------------------

    def copy_(self, source: Any) -> "Tensor":
        """Copy `source` in, with broadcasting."""
        return self._overwrite(source)

    def _overwrite(self, value: Any) -> "Tensor":
        """Store a value; in a graph, as the output of an operation on it and this tensor."""
        if not self._linked(value) and recording.tracer is None:
            return self._store(value)
        never = array_module(self.array).zeros((), dtype=bool)
        return self._become(lambda x, v: elementwise.where(never, x, v), value)

    def fill_(self, value: float) -> "Tensor":
        """Set every element to `value`."""
        return self._overwrite(value)

    def zero_(self) -> "Tensor":
        """Set every element to 0."""
        return self._overwrite(0)

    def uniform_(self, a: float = 0.0, b: float = 1.0) -> "Tensor":
        """Fill with numbers evenly spread from `a` to `b`."""
        drawn = random.generator().uniform(a, b, self.shape)
        return self._overwrite(array_module(self.array).asarray(drawn, dtype=self.dtype))

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> "Tensor":
        """Fill with normal random numbers."""
        drawn = random.generator().normal(mean, std, self.shape)
        return self._overwrite(array_module(self.array).asarray(drawn, dtype=self.dtype))

    # -- arithmetic ---------------------------------------------------------------------------

    def add_(self, other: Any, *, alpha: float = 1) -> "Tensor":
        """Add `alpha * other`."""
        return self._become(lambda x, y: x + (y if alpha == 1 else y * alpha), other)

    def sub_(self, other: Any, *, alpha: float = 1) -> "Tensor":
        """Subtract `alpha * other`."""
        return self._become(lambda x, y: x - (y if alpha == 1 else y * alpha), other)

    def mul_(self, other: Any) -> "Tensor":
        """Multiply."""
        return self._become(lambda x, y: x * y, other)

    def div_(self, other: Any) -> "Tensor":
        """Divide."""
        return self._become(lambda x, y: x / y, other)

    def pow_(self, exponent: Any) -> "Tensor":
        """Raise to a power."""
        return self._become(lambda x, y: x**y, exponent)

    def lerp_(self, end: Any, weight: float) -> "Tensor":
        """Move towards `end` by the fraction `weight`."""
        return self._become(lambda x, y: x + (y - x) * weight, end)

    def addcmul_(self, tensor1: Any, tensor2: Any, *, value: float = 1) -> "Tensor":
        """Add `value * tensor1 * tensor2`."""
        return self._become(lambda x, a, b: x + a * b * value, tensor1, tensor2)

    def addcdiv_(self, tensor1: Any, tensor2: Any, *, value: float = 1) -> "Tensor":
        """Add `value * tensor1 / tensor2`."""
        return self._become(lambda x, a, b: x + a / b * value, tensor1, tensor2)

    def clamp_(self, min: Any = None, max: Any = None) -> "Tensor":
        """Limit to `min` and `max`."""
        return self._become(lambda x: x.clamp(min, max))

    def masked_fill_(self, mask: Any, value: Any) -> "Tensor":
        """Set the elements where `mask` holds to `value`."""
        return self._become(lambda x: elementwise.where(raw(mask), value, x))


ELEMENTWISE = (
    *("abs", "exp", "log", "neg", "relu", "sigmoid", "sqrt", "tanh"),
    *("acos", "asin", "atan", "ceil", "clamp_max", "clamp_min", "cos", "cosh", "deg2rad", "erf"),
    *("exp2", "expm1", "floor", "fmod", "frac", "hypot", "lgamma", "log10", "log1p", "log2"),
    *("nan_to_num", "rad2deg", "reciprocal", "remainder", "round", "rsqrt", "sign", "sin", "sinc"),
    *("sinh", "square", "tan", "trunc", "xlogy"),
)
"""Elementwise methods of which there is one in place, too, that needs no words of its own."""


def _in_place(name: str) -> Callable[..., "Tensor"]:
    def change(self: InPlaceMethods, *arguments: Any, **options: Any) -> "Tensor":
        def changed(x: "Tensor", *others: Any) -> "Tensor":
            made: Tensor = getattr(x, name)(*others, **options)
            return made

        return self._become(changed, *arguments)

    change.__name__ = f"{name}_"
    change.__qualname__ = f"{InPlaceMethods.__name__}.{name}_"
    change.__doc__ = f"Do what `{name}` does, in place."
    return change


for _name in ELEMENTWISE:
    setattr(InPlaceMethods, f"{_name}_", _in_place(_name))


def _fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    """Return whether `shape` broadcasts to `into`."""
    return len(shape) <= len(into) and all(
        n in (1, m) for n, m in zip(shape[::-1], into[::-1], strict=False)
    )
