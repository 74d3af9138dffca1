"""How a tensor's elements are chosen and put back: PyTorch's methods.

Where two names differ by an underscore at the end, that one changes the tensor itself; its rule
is that of `holdfast.core.inplace`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from holdfast.core.errors import shape_error
from holdfast.core.methods.shapes import ShapeMethods, axis
from holdfast.core.ops import elementwise, gather, shape
from holdfast.core.ops.ask import ask
from holdfast.core.ops.index import choose, put, spread
from holdfast.core.variable import raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class IndexingMethods(ShapeMethods):
    """Selections, and their counterparts."""

    __slots__ = ()

    # -- choosing -----------------------------------------------------------------------------

    def gather(self, dim: int, index: Any) -> "Tensor":
        """Return the elements at `index` along `dim`; `index` has as many axes as the tensor."""
        return gather.gather(self, _integers(index), dim=axis(dim, self.array.ndim))

    def take_along_dim(self, indices: Any, dim: int | None = None) -> "Tensor":
        """Return the elements at `indices` along `dim`; the other axes broadcast. Of the flat
        elements if `dim` is None."""
        at = _integers(indices)
        if dim is None:
            return self.ravel().gather(0, at.reshape(-1))
        where = axis(dim, self.array.ndim)
        own, theirs = list(self.array.shape), list(at.shape)
        own[where] = theirs[where] = 1
        common = list(np.broadcast_shapes(tuple(own), tuple(theirs)))
        common[where] = self.array.shape[where]
        mine = self.expand(common)
        common[where] = at.shape[where]
        return mine.gather(where, shape.broadcast(at, shape=tuple(common)))

    def index_select(self, dim: int, index: Any) -> "Tensor":
        """Return what lies at the places `index` (integers along one axis) along `dim`."""
        if not self.array.ndim:
            return self.reshape(1).index_select(dim, index).reshape(())
        return choose(self, _along(axis(dim, self.array.ndim), index))

    def take(self, index: Any) -> "Tensor":
        """Return the flat elements at `index`, in its shape."""
        return choose(self.ravel(), _integers(index))

    def masked_select(self, mask: Any) -> "Tensor":
        """Return the elements where `mask`, which broadcasts, holds, along one axis."""
        common = np.broadcast_shapes(self.array.shape, mask.shape)
        whole = self if common == self.array.shape else self.expand(common)
        known = mask if common == mask.shape else shape.broadcast(mask, shape=common)
        return choose(whole, known)

    def nonzero(self, as_tuple: bool = False) -> Any:
        """Return the places (n, axes) of what is not zero; or a tuple of a tensor for each axis."""
        places = ask(self, question="nonzero")
        return places.unbind(1) if as_tuple else places

    argwhere = nonzero

    # -- putting ------------------------------------------------------------------------------

    def index_put(self, indices: Sequence[Any], values: Any, accumulate: bool = False) -> "Tensor":
        """Return the tensor with `values` at an index, or with them added there."""
        at = tuple(indices)
        if not accumulate:
            return put(self, at, values)
        given = values if hasattr(values, "dtype") else np.asarray(values, self.array.dtype)
        sought = np.broadcast_to(np.False_, self.array.shape)
        added = shape.broadcast(given, shape=choose(sought, at).shape)
        return elementwise.add(self, spread(added, at, self.array.shape))

    def masked_scatter(self, mask: Any, source: Any) -> "Tensor":
        """Return the tensor with the first elements of `source`, in order, where `mask`, which
        broadcasts, holds."""
        common = np.broadcast_shapes(self.array.shape, mask.shape)
        whole = self if common == self.array.shape else self.expand(common)
        held = mask if common == mask.shape else shape.broadcast(mask, shape=common)
        count = int(held.sum())
        if held.dtype != bool or count > raw(source).size:
            raise UsageError(
                f"masked_scatter: expected a mask of booleans and {count} elements for it; found "
                f"{held.dtype} and {raw(source).size} elements"
            )
        return put(whole, (held,), shape.reshape(source, shape=(-1,))[:count])

    def index_add(self, dim: int, index: Any, source: "Tensor", *, alpha: float = 1) -> "Tensor":
        """Return the tensor with `alpha * source` added at the places `index` along `dim`."""
        at = _along(axis(dim, self.array.ndim), index)
        part = source if alpha == 1 else elementwise.mul(source, alpha)
        return elementwise.add(self, spread(part, at, self.array.shape))

    def index_copy(self, dim: int, index: Any, source: "Tensor") -> "Tensor":
        """Return the tensor with `source` at the places `index` along `dim`."""
        return put(self, _along(axis(dim, self.array.ndim), index), source)

    def index_fill(self, dim: int, index: Any, value: Any) -> "Tensor":
        """Return the tensor with `value` at the places `index` along `dim`."""
        return put(self, _along(axis(dim, self.array.ndim), index), value)

    def scatter(
        self, dim: int, index: Any, src: Any, reduce: Literal["add", None] = None
    ) -> "Tensor":
        """Return the tensor with the elements of `src`, or a number, at `index` along `dim`.

        With `reduce="add"` they are added. Where an element is hit more than once without it, one
        of those that hit it is stored.
        """
        if reduce == "add":
            return self.scatter_add(dim, index, src)
        if reduce is not None:
            raise UsageError(f"scatter: reduce is None or 'add', else scatter_reduce; {reduce!r}")
        at, where = _integers(index), axis(dim, self.array.ndim)
        return gather.scatter(self, at, _cropped(src, at), dim=where)

    def scatter_add(self, dim: int, index: Any, src: "Tensor") -> "Tensor":
        """Return the tensor with the elements of `src` added at `index` along `dim`."""
        at, where = _integers(index), axis(dim, self.array.ndim)
        part = _cropped(src, at)
        return elementwise.add(self, gather.deal(part, at, dim=where, shape=self.array.shape))

    def scatter_reduce(
        self,
        dim: int,
        index: Any,
        src: "Tensor",
        reduce: Literal["sum", "mean", "amax", "amin"],
        *,
        include_self: bool = True,
    ) -> "Tensor":
        """Return the tensor with each element reduced with those of `src` that `index` along `dim`
        leads to it; without `include_self` those that are hit do not count themselves."""
        if reduce not in ("sum", "mean", "amax", "amin"):
            raise UsageError(
                f"scatter_reduce: reduce is 'sum', 'mean', 'amax' or 'amin'; found {reduce!r}"
            )
        at, where = _integers(index), axis(dim, self.array.ndim)
        return gather.scatter_reduce(
            self, at, _cropped(src, at), dim=where, reduce=reduce, include_self=include_self
        )

    # -- putting into the tensor itself ---------------------------------------------------------

    def index_put_(self, indices: Sequence[Any], values: Any, accumulate: bool = False) -> "Tensor":
        """Set the elements at an index to `values`, or add those."""
        return self._changed(lambda x, v: x.index_put(indices, v, accumulate), values)

    def index_add_(self, dim: int, index: Any, source: Any, *, alpha: float = 1) -> "Tensor":
        """Add `alpha * source` at the places `index` along `dim`."""
        return self._changed(lambda x, s: x.index_add(dim, index, s, alpha=alpha), source)

    def index_copy_(self, dim: int, index: Any, source: Any) -> "Tensor":
        """Store `source` at the places `index` along `dim`."""
        return self._changed(lambda x, s: x.index_copy(dim, index, s), source)

    def index_fill_(self, dim: int, index: Any, value: Any) -> "Tensor":
        """Store `value` at the places `index` along `dim`."""
        return self._changed(lambda x, v: x.index_fill(dim, index, v), value)

    def scatter_(
        self, dim: int, index: Any, src: Any, reduce: Literal["add", None] = None
    ) -> "Tensor":
        """Store, or add, the elements of `src`, or a number, at `index` along `dim`."""
        return self._changed(lambda x, s: x.scatter(dim, index, s, reduce), src)

    def scatter_add_(self, dim: int, index: Any, src: Any) -> "Tensor":
        """Add the elements of `src` at `index` along `dim`."""
        return self._changed(lambda x, s: x.scatter_add(dim, index, s), src)

    def tril_(self, diagonal: int = 0) -> "Tensor":
        """Set what is above a diagonal of each matrix to zero."""
        return self._changed(lambda x: x.tril(diagonal))

    def triu_(self, diagonal: int = 0) -> "Tensor":
        """Set what is below a diagonal of each matrix to zero."""
        return self._changed(lambda x: x.triu(diagonal))

    def _changed(self, operation: "Callable[..., Tensor]", *arguments: Any) -> "Tensor":
        return cast("Tensor", self)._become(operation, *arguments)


def _integers(places: Any) -> Any:
    """Return places as they are if a tensor or an array holds them, a list as an array."""
    return places if hasattr(places, "dtype") else np.asarray(places, dtype=np.int64)


def _along(dim: int, places: Any) -> tuple[Any, ...]:
    """Return the index of `places`, integers along one axis, along `dim`."""
    at = _integers(places)
    if at.ndim > 1:
        raise UsageError(f"places along an axis are integers along one axis; found {at.shape}")
    return shape.along(dim, at if at.ndim else at.reshape(1))


def _cropped(source: Any, places: Any) -> Any:
    """Return the part of `source`, unless it is a number, in the shape of `places`."""
    held = raw(source)
    if not hasattr(held, "dtype") or held.shape == places.shape or not held.ndim:
        return source.item() if hasattr(held, "dtype") and not held.ndim else source
    if held.ndim != places.ndim or any(
        n < i for n, i in zip(held.shape, places.shape, strict=True)
    ):
        raise shape_error(
            "scatter", "a source no smaller than the index", src=held.shape, index=places.shape
        )
    part = tuple(slice(size) for size in places.shape)
    return choose(source, part)
