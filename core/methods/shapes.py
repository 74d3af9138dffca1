"""How a tensor's elements are rearranged and chosen: PyTorch's methods."""

from typing import TYPE_CHECKING, Any, cast

from holdfast.core.ops import elementwise, shape
from holdfast.core.variable import Variable, raw

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class ShapeMethods(Variable):
    """Views, transposes, selections."""

    __slots__ = ()

    def gather(self, dim: int, index: "Tensor") -> "Tensor":
        """Return the elements at `index` along `dim`."""
        return shape.gather(self, raw(index), dim=dim)

    def reshape(self, *shape_: Any) -> "Tensor":
        """Return the elements in another shape; one size may be -1."""
        return shape.reshape(self, shape=_sizes(shape_))

    def view(self, *shape_: Any) -> "Tensor":
        """Do what `reshape` does: share memory where the layout allows it, else copy."""
        return shape.reshape(self, shape=_sizes(shape_))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Merge the axes from `start_dim` to `end_dim`."""
        sizes, ndim = self.array.shape, self.array.ndim
        if not ndim:
            return self.reshape(1)
        first, last = range(ndim)[start_dim], range(ndim)[end_dim]
        merged = first != last
        return (
            self.reshape(*sizes[:first], -1, *sizes[last + 1 :]) if merged else cast("Tensor", self)
        )

    def permute(self, *dims: Any) -> "Tensor":
        """Return a view with the axes in the order `dims`."""
        return shape.permute(self, dims=_sizes(dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Return a view with two axes exchanged."""
        dims = list(range(self.array.ndim))
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
        return shape.permute(self, dims=tuple(dims))

    def t(self) -> "Tensor":
        """Return the transpose of a matrix."""
        return self.T

    @property
    def T(self) -> "Tensor":
        """A view with the axes in reverse order."""
        return shape.permute(self, dims=tuple(range(self.array.ndim))[::-1])

    def squeeze(self, dim: int | None = None) -> "Tensor":
        """Drop axes of size 1: all of them, or `dim` if it is one."""
        sizes = self.array.shape
        drop = range(len(sizes)) if dim is None else [range(len(sizes))[dim]]
        return self.reshape(tuple(n for i, n in enumerate(sizes) if n != 1 or i not in drop))

    def unsqueeze(self, dim: int) -> "Tensor":
        """Add an axis of size 1 before `dim`."""
        sizes = list(self.array.shape)
        sizes.insert(range(len(sizes) + 1)[dim], 1)
        return self.reshape(tuple(sizes))

    def expand(self, *shape_: Any) -> "Tensor":
        """Return a view that repeats axes of size 1; -1 keeps an axis as it is."""
        sizes = _sizes(shape_)
        own = (1,) * (len(sizes) - self.array.ndim) + self.array.shape
        return shape.broadcast(
            self, shape=tuple(o if s == -1 else s for s, o in zip(sizes, own, strict=False))
        )

    def contiguous(self) -> "Tensor":
        """Return the tensor in row-major memory: itself if it is, else a copy."""
        ordered = self.array.flags.c_contiguous
        return cast("Tensor", self) if ordered else elementwise.clone(self)


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Take sizes given one by one or as one sequence."""
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return tuple(sizes[0])
    return sizes
