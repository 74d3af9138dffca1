"""A tensor that a model learns."""

from typing import TYPE_CHECKING

from holdfast.core.backend import Array, device_of, is_floating, to_device
from holdfast.core.backward import Leaf
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import GradientError, UsageError

if TYPE_CHECKING:
    from holdfast.core.arena import Arena


class Parameter(Tensor):
    """A leaf tensor that requires a gradient; modules register it under its attribute's name.

    `arena` is the arena that holds its value and gradient, once there is one. `leaf` is where its
    gradient goes: it stays the same while `requires_grad` is switched off and on.
    """

    __slots__ = ("arena", "leaf")

    def __init__(self, data: Tensor | Array, requires_grad: bool = True) -> None:
        super().__init__(raw(data))
        if not is_floating(self.array.dtype):
            raise GradientError(f"a parameter holds floats; found {self.dtype}")
        self.leaf = Leaf(self.array.shape, self.array.dtype)
        self.arena: Arena | None = None
        self.requires_grad = requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether backward leaves a gradient here; switch it off to freeze the parameter."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not value:
            self.leaf.clear()
        self.node = self.leaf if value else None

    def adopt(self, array: Array) -> None:
        """Take `array`, of this shape but any floating dtype and device, for the value.

        A gradient is converted along. Raises UsageError if the parameter would leave an arena.
        """
        if array is self.array:
            return
        if self.arena is not None:
            raise UsageError(
                f"a parameter of shape {self.shape} lies in an arena and cannot get other memory: "
                "move or convert the model before the optimizer is made"
            )
        if array.shape != self.shape or not is_floating(array.dtype):
            raise UsageError(
                f"a parameter of shape {self.shape} takes floats of its shape; found "
                f"{array.dtype} of shape {array.shape}"
            )
        leaf = self.leaf
        if leaf.gradient is not None:
            gradient = to_device(leaf.gradient, device_of(array))
            leaf.gradient = gradient.astype(array.dtype, copy=False)
        leaf.dtype = array.dtype
        self.array = array

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
