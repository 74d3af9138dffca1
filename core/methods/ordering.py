"""How a tensor's elements are sorted, ranked, searched and counted: PyTorch's methods."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from holdfast.core.methods.shapes import ShapeMethods, axis
from holdfast.core.ops import gather
from holdfast.core.ops.ask import ask
from holdfast.core.primitive import wrap
from holdfast.core.variable import raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class Sorted(NamedTuple):
    """Elements in an order, and where they were."""

    values: "Tensor"
    indices: "Tensor"


class OrderingMethods(ShapeMethods):
    """Orders and counts."""

    __slots__ = ()

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> Sorted:
        """Return the named tuple (values, indices) of the elements in order along `dim`."""
        if not self.array.ndim:
            return _without_axes(self.reshape(1).sort(dim))
        at = axis(dim, self.array.ndim)
        return self._at(at, "order", descending=descending, stable=stable)

    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> "Tensor":
        """Return the indices that sort along `dim`."""
        if not self.array.ndim:
            return self.reshape(1).argsort(dim).reshape(())
        at = axis(dim, self.array.ndim)
        return ask(self, question="order", dim=at, descending=descending, stable=stable)

    def msort(self) -> "Tensor":
        """Return the elements in order along the first axis."""
        return self.sort(0).values

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Sorted:
        """Return the named tuple (values, indices) of the `k` largest, or smallest, along `dim`."""
        if not self.array.ndim:
            return _without_axes(self.reshape(1).topk(k, dim, largest, sorted))
        at = axis(dim, self.array.ndim)
        if not 0 <= k <= self.array.shape[at]:
            raise UsageError(f"topk: k={k} of the {self.array.shape[at]} elements of axis {dim}")
        return self._at(at, "leading", k=k, largest=largest, ordered=sorted)

    def kthvalue(self, k: int, dim: int = -1, keepdim: bool = False) -> Sorted:
        """Return the named tuple (values, indices) of the `k`-th smallest along `dim`."""
        if not self.array.ndim:
            return _without_axes(self.reshape(1).kthvalue(k, dim, keepdim=True))
        at = axis(dim, self.array.ndim)
        if not 1 <= k <= self.array.shape[at]:
            raise UsageError(f"kthvalue: k={k} of the {self.array.shape[at]} elements of {dim=}")
        found = self._at(at, "kth", k=k)
        return found if keepdim else Sorted(found.values.squeeze(at), found.indices.squeeze(at))

    def _at(self, dim: int, question: str, **options: Any) -> Sorted:
        """Return the elements along `dim` at the indices that answer a question."""
        places = ask(self, question=question, dim=dim, **options)
        return Sorted(gather.gather(self, places, dim=dim, unique=True), places)

    def unique(
        self,
        sorted: bool = True,
        return_inverse: bool = False,
        return_counts: bool = False,
        dim: int | None = None,
    ) -> Any:
        """Return the different elements, or slices along `dim`, in order; on request also which of
        them each element is, and how often each occurs.

        They are in order whatever `sorted` says, as PyTorch's are too.
        """
        return _asked(ask(self, question="different", dim=dim), return_inverse, return_counts)

    def unique_consecutive(self, return_inverse: bool = False, return_counts: bool = False) -> Any:
        """Return the flat elements without those that repeat the one before; on request also which
        of them each element is, and how often each is repeated."""
        return _asked(ask(self, question="runs"), return_inverse, return_counts)

    def bincount(self, weights: Any = None, minlength: int = 0) -> "Tensor":
        """Return how often, or with what weight, each of 0, 1, … occurs."""
        if self.array.ndim != 1 or self.array.dtype.kind not in "iu":
            raise UsageError(
                f"bincount takes integers along one axis; found {self.dtype} of shape {self.shape}"
            )
        if weights is None:
            return ask(self, question="occurrences", minlength=minlength)
        held = raw(weights)
        counts = np.bincount(self.array, weights=held, minlength=minlength)
        return wrap(counts.astype(held.dtype) if held.dtype == np.float32 else counts)


def _without_axes(found: Sorted) -> Sorted:
    """Return what was found in a tensor without axes, as such."""
    return Sorted(found.values.reshape(()), found.indices.reshape(()))


def _asked(found: Any, inverse: bool, counts: bool) -> Any:
    """Return what is asked for: the first of three tensors alone, or with one of the others."""
    values, which, often = found
    chosen = (values,) + (which,) * inverse + (often,) * counts
    return values if len(chosen) == 1 else chosen
