"""What every tensor is before it has operations: an array, and its place in the graph."""

from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.backend import Array, device_of, is_floating, to_host
from holdfast.core.backward import Leaf, Node
from holdfast.core.device import Device
from holdfast.core.recording import recording
from holdfast.errors import GradientError, UsageError


class Variable:
    """An array that knows how it was made.

    `array` is the raw array and may be shared with others. `node` is None where no gradient is
    required, a `Leaf` for a tensor made by hand, a `Node` for the output of an operation.
    `unrecorded` is set on what `data` returns: changes of it go into the memory, and no graph.
    """

    __slots__ = ("__weakref__", "array", "node", "unrecorded")
    unrecorded: bool
    __array_priority__ = 1000.0  # so that `array * tensor` asks the tensor

    def __init__(self, array: Array, requires_grad: bool = False) -> None:
        self.array = array
        self.node: Node | Leaf | None = None
        if requires_grad:
            self.requires_grad = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements, as NumPy names it."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def device(self) -> Device:
        """The device that holds the array: "cpu" or "cuda"."""
        return device_of(self.array)

    @property
    def is_cuda(self) -> bool:
        """Whether the array is on a GPU."""
        return self.device == "cuda"

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the size of axis `dim`."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def dim(self) -> int:
        """Return the number of axes."""
        return self.array.ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return self.array.size

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("len() of a tensor without axes: use item() for its value")
        return len(self.array)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        value = self.item()
        if not isinstance(value, int):
            raise TypeError(f"only a tensor of integers can be an index, this one is {self.dtype}")
        return value

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else str(self), spec)

    def __repr__(self) -> str:
        text = np.array2string(to_host(self.array), separator=", ", precision=4, prefix="tensor(")
        if self.array.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.array.dtype}"
        if isinstance(self.node, Node):
            text += f", made_by={self.node.name}"
        elif self.node is not None:
            text += ", requires_grad=True"
        return f"tensor({text})"

    # -- its values on the host ---------------------------------------------------------------

    def item(self) -> Any:
        """Return the value of a tensor of one element as a Python number."""
        if self.array.size != 1:
            raise ValueError(
                f"item() needs a tensor of one element, this one has shape {self.shape}: "
                "index it or use tolist()"
            )
        return self._read().item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return self._read().tolist()

    def numpy(self) -> Array:
        """Return the values as a NumPy array that shares memory where it is on the CPU.

        Raises GradientError if the tensor requires a gradient: `detach()` it first.
        """
        if self.node is not None:
            raise GradientError(
                "numpy() of a tensor that requires a gradient would lose its history: "
                "use detach().numpy()"
            )
        return to_host(self._read())

    def _read(self) -> Array:
        """Return the array, whose values Python is going to see."""
        if recording.tracer is not None:
            recording.tracer.read(self.array)
        return self.array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    # -- its place in the graph ---------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether backward passes through this tensor or leaves a gradient in it."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == (self.node is not None):
            return
        if isinstance(self.node, Node):
            raise GradientError(
                "requires_grad can be changed on leaves only, and this tensor was made by "
                f"{self.node.name!r}: use detach()"
            )
        if value and not is_floating(self.array.dtype):
            raise GradientError(f"only floats can require a gradient, this is {self.dtype}")
        self.node = Leaf(self.array.shape, self.array.dtype) if value else None

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by hand rather than by a recorded operation."""
        return not isinstance(self.node, Node)


def raw(value: Any) -> Any:
    """Return the array of a tensor, anything else as it is."""
    return value.array if isinstance(value, Variable) else value


def require(condition: bool, message: str) -> None:
    """Raise UsageError with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)
