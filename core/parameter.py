"""A tensor that a model learns."""

from typing import TYPE_CHECKING, Any

from holdfast.core.backend import Array
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
        if self.array.dtype.kind != "f":
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

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    def to(self, target: Any) -> "Parameter":
        """Return this parameter in another dtype or on another device: itself if it is there.

        Raises UsageError if it would have to leave an arena.
        """
        moved = self.detach().to(target)
        if moved.array is self.array:
            return self
        if self.arena is not None:
            raise UsageError(
                f"a parameter in an arena cannot be moved to {target!r}: move or convert the "
                "model before the optimizer is made"
            )
        return Parameter(moved, self.requires_grad)
