"""How a tensor's elements are rearranged: PyTorch's methods.

They return views, which share memory with the tensor, where NumPy's do.
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.ops import elementwise, index, shape
from holdfast.core.ops.shape import reshape as rearranged
from holdfast.core.variable import Variable, raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


def axis(dim: int, ndim: int) -> int:
    """Return `dim` counted from the front; raise IndexError where there is no such axis."""
    if -ndim <= dim < ndim:
        return dim % ndim
    raise IndexError(f"dim {dim} is out of range: expected {-ndim} to {ndim - 1}")


def sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Take sizes, or axes, given one by one or as one sequence."""
    if len(given) == 1 and not isinstance(given[0], (int, np.integer)):
        return tuple(given[0])
    return given


class ShapeMethods(Variable):
    """Views, axes, parts."""

    __slots__ = ()

    # -- the same elements in another shape ---------------------------------------------------

    def reshape(self, *sizes_: Any, shape: Any = None) -> "Tensor":
        """Return the elements in another shape; one size may be -1."""
        return rearranged(self, shape=sizes(sizes_) if shape is None else tuple(shape))

    def view(self, *shape_: Any) -> "Tensor":
        """Do what `reshape` does: share memory where the layout allows it, else copy."""
        return shape.reshape(self, shape=sizes(shape_))

    def reshape_as(self, other: "Tensor") -> "Tensor":
        """Return the elements in the shape of `other`."""
        return self.reshape(other.shape)

    def view_as(self, other: "Tensor") -> "Tensor":
        """Return the elements in the shape of `other`."""
        return self.reshape(other.shape)

    def ravel(self) -> "Tensor":
        """Return the elements along one axis."""
        return self.reshape(-1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Merge the axes from `start_dim` to `end_dim`."""
        own, ndim = self.array.shape, self.array.ndim
        if not ndim:
            return self.reshape(1)
        first, last = axis(start_dim, ndim), axis(end_dim, ndim)
        if first == last:
            return cast("Tensor", self)
        if first > last:
            raise UsageError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
        return self.reshape(*own[:first], prod(own[first : last + 1]), *own[last + 1 :])

    def unflatten(self, dim: int, sizes: Sequence[int]) -> "Tensor":
        """Split axis `dim` into axes of `sizes`, of which one may be -1."""
        own, at = self.array.shape, axis(dim, self.array.ndim)
        inner = list(sizes)
        if -1 in inner:
            inner[inner.index(-1)] = own[at] // max(-prod(inner), 1)
        if prod(inner) != own[at]:
            raise UsageError(f"unflatten: axis {dim} has {own[at]} elements, not {tuple(sizes)}")
        return self.reshape(*own[:at], *inner, *own[at + 1 :])

    def squeeze(self, dim: int | Sequence[int] | None = None) -> "Tensor":
        """Drop axes of size 1: all of them, or those of `dim` that are."""
        own = self.array.shape
        given = range(len(own)) if dim is None else (dim,) if isinstance(dim, int) else dim
        drop = {axis(d, len(own) or 1) for d in given}
        return self.reshape(tuple(n for i, n in enumerate(own) if n != 1 or i not in drop))

    def unsqueeze(self, dim: int) -> "Tensor":
        """Add an axis of size 1 before `dim`."""
        own = list(self.array.shape)
        own.insert(axis(dim, len(own) + 1), 1)
        return self.reshape(tuple(own))

    # -- axes in another order ----------------------------------------------------------------

    def permute(self, *axes: Any, dims: Sequence[int] = ()) -> "Tensor":
        """Return a view with the axes in the order `dims`, given one by one or as a sequence."""
        ndim, given = self.array.ndim, sizes(axes or (dims,))
        order = tuple(axis(dim, ndim) for dim in given)
        if len(order) != ndim or len(set(order)) != ndim:
            raise UsageError(f"permute: {ndim} axes, each once, are expected; found {given}")
        return shape.permute(self, dims=order)

    def transpose(self, dim0: Any, dim1: int | None = None) -> "Tensor":
        """Return a view with two axes exchanged; or, as NumPy does, with the axes in the order of
        one sequence."""
        if dim1 is None:
            return self.permute(dim0)
        order = list(range(self.array.ndim))
        first, second = axis(dim0, len(order)), axis(dim1, len(order))
        order[first], order[second] = second, first
        return shape.permute(self, dims=tuple(order))

    swapaxes = transpose
    swapdims = transpose

    def movedim(self, source: int | Sequence[int], destination: int | Sequence[int]) -> "Tensor":
        """Return a view with the axes `source` moved to `destination`, the others in order."""
        ndim = self.array.ndim
        sources = [axis(d, ndim) for d in ((source,) if isinstance(source, int) else source)]
        targets = [
            axis(d, ndim) for d in ((destination,) if isinstance(destination, int) else destination)
        ]
        if len(sources) != len(targets):
            raise UsageError("movedim: as many destinations as sources are expected")
        order = [i for i in range(ndim) if i not in sources]
        for target, moved in sorted(zip(targets, sources, strict=True)):
            order.insert(target, moved)
        return self.permute(order)

    moveaxis = movedim

    def t(self) -> "Tensor":
        """Return the transpose of a matrix; what has fewer axes stays as it is."""
        if self.array.ndim > 2:
            raise UsageError(f"t() takes a matrix at most; found shape {self.shape}: use transpose")
        return self.T

    @property
    def T(self) -> "Tensor":
        """A view with the axes in reverse order."""
        return shape.permute(self, dims=tuple(range(self.array.ndim))[::-1])

    @property
    def mT(self) -> "Tensor":
        """A view of transposed matrices: the last two axes exchanged."""
        return self.transpose(-2, -1)

    # -- more of the same ---------------------------------------------------------------------

    def expand(self, *shape_: Any) -> "Tensor":
        """Return a view that repeats axes of size 1; -1 keeps an axis as it is."""
        wanted = sizes(shape_)
        own = (1,) * (len(wanted) - self.array.ndim) + self.array.shape
        return shape.broadcast(
            self, shape=tuple(o if s == -1 else s for s, o in zip(wanted, own, strict=False))
        )

    def expand_as(self, other: "Tensor") -> "Tensor":
        """Return a view in the shape of `other`."""
        return self.expand(other.shape)

    def broadcast_to(self, *shape_: Any) -> "Tensor":
        """Return a view in this shape."""
        return self.expand(*shape_)

    def repeat(self, *repeats: Any) -> "Tensor":
        """Lay copies side by side: so many along each axis, of which there may be more in front."""
        counts, own = sizes(repeats), self.array.shape
        if len(counts) < len(own):
            raise UsageError(f"repeat: {len(own)} counts at least are expected; found {counts}")
        own = (1,) * (len(counts) - len(own)) + own
        apart = self.reshape([n for size in own for n in (1, size)])
        wide = [n for pair in zip(counts, own, strict=True) for n in pair]
        return apart.expand(wide).reshape([c * n for c, n in zip(counts, own, strict=True)])

    def tile(self, *dims: Any) -> "Tensor":
        """Do what `repeat` does, with counts for the last axes only where they are fewer."""
        counts = sizes(dims)
        return self.repeat((1,) * (self.array.ndim - len(counts)) + tuple(counts))

    def repeat_interleave(
        self, repeats: Any, dim: int | None = None, *, output_size: int | None = None
    ) -> "Tensor":
        """Repeat each element along `dim` (of the flat elements if None) so often, or as often as
        an array has it for each. `output_size` is PyTorch's, and makes no difference."""
        if dim is None:
            return self.ravel().repeat_interleave(repeats, 0)
        at, own = axis(dim, self.array.ndim), self.array.shape
        counts = raw(repeats)
        if isinstance(counts, int) or counts.size == 1:
            count = int(counts)
            return (
                self.unsqueeze(at + 1)
                .expand(*own[: at + 1], count, *own[at + 1 :])
                .reshape(*own[:at], own[at] * count, *own[at + 1 :])
            )
        chosen = np.repeat(array_module(counts).arange(own[at]), counts)
        return index.choose(self, shape.along(at, chosen))

    # -- parts --------------------------------------------------------------------------------

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> "tuple[Tensor, ...]":
        """Return views of parts along `dim`: of so many elements each, or of these sizes."""
        size = self.array.shape[axis(dim, self.array.ndim)]
        if isinstance(split_size, int):
            if split_size < 1:
                raise UsageError(f"split: parts of at least one element; found {split_size}")
            full, rest = divmod(size, split_size)
            parts = [split_size] * full + [rest] * (rest > 0 or not size)
        else:
            parts = list(split_size)
            if sum(parts) != size or min(parts, default=0) < 0:
                raise UsageError(
                    f"split: sizes that sum to the {size} elements of axis {dim} are expected; "
                    f"found {parts}"
                )
        return tuple(shape.split(self, sizes=parts, dim=dim))

    split_with_sizes = split

    def chunk(self, chunks: int, dim: int = 0) -> "tuple[Tensor, ...]":
        """Return views of up to so many parts along `dim`, of equal size but for the last."""
        if chunks < 1:
            raise UsageError(f"chunk: at least one chunk is expected; found {chunks}")
        size = self.array.shape[axis(dim, self.array.ndim)]
        if not size:
            return tuple(shape.split(self, sizes=[0] * chunks, dim=dim))
        return self.split(-(-size // chunks), dim)

    def tensor_split(
        self, indices_or_sections: int | Sequence[int], dim: int = 0
    ) -> "tuple[Tensor, ...]":
        """Return views of so many parts whose sizes differ by one at most, or of those that end at
        these places."""
        size, given = self.array.shape[axis(dim, self.array.ndim)], indices_or_sections
        if isinstance(given, int):
            least, more = divmod(size, given)
            parts = [least + 1] * more + [least] * (given - more)
            return tuple(shape.split(self, sizes=parts, dim=dim))
        bounds = [slice(*pair) for pair in zip((0, *given), (*given, size), strict=True)]
        at = axis(dim, self.array.ndim)
        return tuple(index.choose(self, shape.along(at, part)) for part in bounds)

    def hsplit(self, indices_or_sections: int | Sequence[int]) -> "tuple[Tensor, ...]":
        """Return views of equal parts, or those that end at these places, along the columns: along
        the only axis of a vector."""
        return self._divided("hsplit", indices_or_sections, 0 if self.array.ndim == 1 else 1, 1)

    def vsplit(self, indices_or_sections: int | Sequence[int]) -> "tuple[Tensor, ...]":
        """Return views of equal parts, or those that end at these places, along the rows."""
        return self._divided("vsplit", indices_or_sections, 0, 2)

    def dsplit(self, indices_or_sections: int | Sequence[int]) -> "tuple[Tensor, ...]":
        """Return views of equal parts, or those that end at these places, along the third axis."""
        return self._divided("dsplit", indices_or_sections, 2, 3)

    def _divided(
        self, name: str, given: int | Sequence[int], dim: int, least: int
    ) -> "tuple[Tensor, ...]":
        if self.array.ndim < least:
            raise UsageError(f"{name}: a tensor of {least} axes at least; found {self.shape}")
        size = self.array.shape[dim]
        if isinstance(given, int) and (given < 1 or size % given):
            raise UsageError(f"{name}: axis {dim} of {size} elements has no {given} equal parts")
        return self.tensor_split(given, dim)

    def unbind(self, dim: int = 0) -> "tuple[Tensor, ...]":
        """Return views of what lies at each place along `dim`, without that axis."""
        axis(dim, self.array.ndim)
        return tuple(shape.unbind(self, dim=dim))

    def narrow(self, dim: int, start: Any, length: int) -> "Tensor":
        """Return a view of `length` elements from `start` along `dim`."""
        at = axis(dim, self.array.ndim)
        size, first = self.array.shape[at], int(start)
        if first < 0:
            first += size
        if length < 0 or first < 0 or first + length > size:
            raise UsageError(
                f"narrow: {length} elements from {start} are not within the {size} of axis {dim}"
            )
        return index.choose(self, shape.along(at, slice(first, first + length)))

    def select(self, dim: int, place: int) -> "Tensor":
        """Return a view of what lies at one place along `dim`, without that axis."""
        return index.choose(self, shape.along(axis(dim, self.array.ndim), int(place)))

    def unfold(self, dimension: int, size: int, step: int) -> "Tensor":
        """Return a view of the windows of `size` elements, `step` apart, along `dimension`; their
        elements are a new last axis."""
        return shape.unfold(self, dim=axis(dimension, self.array.ndim), size=size, step=step)

    # -- turned and shifted -------------------------------------------------------------------

    def flip(self, *axes: Any, dims: Sequence[int] = ()) -> "Tensor":
        """Return a view with the order along `dims`, one by one or a sequence, reversed."""
        given, ndim = sizes(axes or (dims,)), self.array.ndim
        turned = tuple(axis(dim, ndim or 1) for dim in given)
        return shape.flip(self, dims=turned if ndim else ())

    def fliplr(self) -> "Tensor":
        """Return a view with the order of the columns reversed."""
        return self.flip(1)

    def flipud(self) -> "Tensor":
        """Return a view with the order of the rows reversed."""
        return self.flip(0)

    def roll(self, shifts: Any, dims: Any = None) -> "Tensor":
        """Shift along `dims`, or along all elements in a row; what leaves returns in front."""
        by = (shifts,) if isinstance(shifts, int) else tuple(shifts)
        along = None if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
        if along is not None and len(along) != len(by):
            raise UsageError(f"roll: a shift for each of dims {along} is expected; found {by}")
        return shape.roll(self, shifts=by, dims=along)

    def rot90(self, k: int = 1, dims: Sequence[int] = (0, 1)) -> "Tensor":
        """Return a view turned `k` times by 90 degrees, from the first of `dims` to the second."""
        first, second = dims
        turns = k % 4
        if turns == 0:
            return cast("Tensor", self)
        if turns == 2:
            return self.flip(first, second)
        turned = self.transpose(first, second)
        return turned.flip(first if turns == 1 else second)

    # -- diagonals ----------------------------------------------------------------------------

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> "Tensor":
        """Return a view of the diagonals of the matrices along two axes, as the last axis."""
        ndim = self.array.ndim
        return shape.diagonal(self, offset=offset, dim1=axis(dim1, ndim), dim2=axis(dim2, ndim))

    def diag_embed(self, offset: int = 0, dim1: int = -2, dim2: int = -1) -> "Tensor":
        """Return matrices with the last axis on a diagonal, and zeros elsewhere."""
        ndim = self.array.ndim + 1
        return shape.diag_embed(self, offset=offset, dim1=axis(dim1, ndim), dim2=axis(dim2, ndim))

    def diag(self, diagonal: int = 0) -> "Tensor":
        """Return the diagonal of a matrix, or the matrix that has a vector on its diagonal."""
        if self.array.ndim not in (1, 2):
            raise UsageError(f"diag takes a vector or a matrix; found shape {self.shape}")
        return self.diag_embed(diagonal) if self.array.ndim == 1 else self.diagonal(diagonal)

    def diagflat(self, offset: int = 0) -> "Tensor":
        """Return the matrix that has all elements on a diagonal."""
        return self.ravel().diag_embed(offset)

    def tril(self, diagonal: int = 0) -> "Tensor":
        """Set what is above a diagonal of each matrix to zero."""
        return shape.tril(self, diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> "Tensor":
        """Set what is below a diagonal of each matrix to zero."""
        return shape.triu(self, diagonal=diagonal)

    def contiguous(self) -> "Tensor":
        """Return the tensor in row-major memory: itself if it is, else a copy."""
        return cast("Tensor", self) if self.is_contiguous() else elementwise.clone(self)

    def is_contiguous(self) -> bool:
        """Return whether the elements lie in row-major order, without gaps."""
        return bool(self.array.flags.c_contiguous)
