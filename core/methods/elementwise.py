"""What a tensor can be asked for element by element: PyTorch's methods."""

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from holdfast.core.backend import to_device
from holdfast.core.ops import activation, elementwise, linear
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class ElementwiseMethods(Variable):
    """Arithmetic, functions of each element, and conversions."""

    __slots__ = ()

    def exp(self) -> "Tensor":
        """Return e to the power of each element."""
        return elementwise.exp(self)

    def log(self) -> "Tensor":
        """Return the natural logarithms."""
        return elementwise.log(self)

    def sqrt(self) -> "Tensor":
        """Return the square roots."""
        return elementwise.sqrt(self)

    def abs(self) -> "Tensor":
        """Return the absolute values."""
        return elementwise.absolute(self)

    def pow(self, exponent: Any) -> "Tensor":
        """Return the elements to the power `exponent`."""
        return elementwise.power(self, exponent)

    def relu(self) -> "Tensor":
        """Return max(x, 0)."""
        return activation.relu(self)

    def sigmoid(self) -> "Tensor":
        """Return 1 / (1 + exp(-x))."""
        return activation.sigmoid(self)

    def tanh(self) -> "Tensor":
        """Return the hyperbolic tangents."""
        return activation.tanh(self)

    def softmax(self, dim: int) -> "Tensor":
        """Return the exponentials along `dim`, scaled to sum to 1."""
        return activation.softmax(self, dim=dim)

    def log_softmax(self, dim: int) -> "Tensor":
        """Return the logarithms of the softmax along `dim`."""
        return activation.log_softmax(self, dim=dim)

    def clamp(self, min: float | None = None, max: float | None = None) -> "Tensor":
        """Limit to `min` and `max`."""
        return elementwise.clamp(self, low=min, high=max)

    def matmul(self, other: Any) -> "Tensor":
        """Multiply matrices; batches broadcast."""
        return linear.matmul(self, other)

    def to(self, target: Any) -> "Tensor":
        """Convert to a dtype, or move to the device "cpu" or "cuda" (a move leaves the graph)."""
        if isinstance(target, str) and target in ("cpu", "cuda"):
            same = self.device == target
            return cast("Tensor", self) if same else wrap(to_device(self.array, target))
        if np.dtype(target) == self.array.dtype:
            return cast("Tensor", self)
        return elementwise.cast(self, dtype=np.dtype(target))

    def float(self) -> "Tensor":
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> "Tensor":
        """Convert to float64."""
        return self.to(np.float64)

    def long(self) -> "Tensor":
        """Convert to int64."""
        return self.to(np.int64)
