"""What a tensor can be asked for about its memory: PyTorch's methods."""

from holdfast.core.backend import is_floating
from holdfast.core.variable import Variable


class StorageMethods(Variable):
    """Counts, sizes and steps."""

    __slots__ = ()

    def nelement(self) -> int:
        """Return the number of elements."""
        return self.array.size

    def ndimension(self) -> int:
        """Return the number of axes."""
        return self.array.ndim

    def element_size(self) -> int:
        """Return the bytes of one element."""
        return self.array.itemsize

    @property
    def itemsize(self) -> int:
        """The bytes of one element."""
        return self.array.itemsize

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.array.nbytes

    def stride(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Return how many elements lie from one place to the next along each axis, or `dim`."""
        steps = tuple(step // self.array.itemsize for step in self.array.strides)
        return steps if dim is None else steps[dim]

    def is_floating_point(self) -> bool:
        """Return whether the elements are floats."""
        return is_floating(self.array.dtype)
