"""The layers that put a border around images: of a constant, or of what the image itself has."""

from collections.abc import Sequence
from typing import ClassVar

from holdfast.core.nn import functional as F
from holdfast.core.nn.module import Module
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(Module):
    """A border of the widths `padding`: (left, right, top, bottom, front, back), or one for all."""

    axes: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        sides = 2 * self.axes
        given = (padding,) * sides if isinstance(padding, int) else tuple(padding)
        if len(given) != sides:
            raise UsageError(
                f"{type(self).__name__}: padding is one width, or {sides}; found {given}"
            )
        self.padding = given

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *wider image), or (C, *wider image)."""
        return F.pad(x, self.padding, self.mode)

    def extra_repr(self) -> str:
        """Return the widths."""
        return f"{self.padding}"


class _ConstantPad(_Pad):
    """A border of `value`; negative widths cut off."""

    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *wider image), or (C, *wider image)."""
        return F.pad(x, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """Return the widths and the value."""
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    """A border of zeros; negative widths cut off."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """Return the widths."""
        return f"{self.padding}"


class ZeroPad1d(_ZeroPad):
    """A border of zeros around the last axis; negative widths cut off."""

    axes = 1


class ZeroPad2d(_ZeroPad):
    """A border of zeros around the last two axes; negative widths cut off."""

    axes = 2


class ZeroPad3d(_ZeroPad):
    """A border of zeros around the last three axes; negative widths cut off."""

    axes = 3


class ConstantPad1d(_ConstantPad):
    """A border of `value` around the last axis; negative widths cut off."""

    axes = 1


class ConstantPad2d(_ConstantPad):
    """A border of `value` around the last two axes; negative widths cut off."""

    axes = 2


class ConstantPad3d(_ConstantPad):
    """A border of `value` around the last three axes; negative widths cut off."""

    axes = 3


class ReflectionPad1d(_Pad):
    """A border of what lies mirrored at the edges of the last axis."""

    axes = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """A border of what lies mirrored at the edges of the last two axes."""

    axes = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """A border of what lies mirrored at the edges of the last three axes."""

    axes = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """A border of the elements at the edges of the last axis."""

    axes = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """A border of the elements at the edges of the last two axes."""

    axes = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """A border of the elements at the edges of the last three axes."""

    axes = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """A border of what is at the other end of the last axis."""

    axes = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """A border of what is at the other end of the last two axes."""

    axes = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """A border of what is at the other end of the last three axes."""

    axes = 3
    mode = "circular"
