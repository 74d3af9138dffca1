"""Primitives of `x[...]`: choosing elements by an index of any kind, and putting them back.

The rule: an index is taken apart as PyTorch does it. Integers, slices and new axes come first and
make a view; masks and arrays of integers then choose from that view. (NumPy's own way differs where
an integer stands beside an array: there it counts as an array, and moves the axes.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.ops.accumulate import sum_rows
from holdfast.core.ops.adjoint import transpose
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Ruled = tuple[Any, Pullback]

ARRAY = "array"
"""What stands in an index for an array, which is an argument of its own."""


def is_basic(at: Any) -> bool:
    """Return whether an index has integers, slices and new axes only, and so makes a view."""
    parts = at if at.__class__ is tuple else (at,)
    return all(
        part.__class__ in (int, slice)
        or part is None
        or part is Ellipsis
        or isinstance(part, np.integer)
        for part in parts
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """An index with arrays in it: `basic` makes a view, from whose axes `arrays` choose."""

    basic: tuple[Any, ...]
    arrays: dict[int, Any]
    shape: tuple[int, ...]

    @property
    def trivial(self) -> bool:
        """Whether the view is all of the array."""
        return all(part == slice(None) for part in self.basic)

    @property
    def full(self) -> tuple[Any, ...]:
        """The index into the view."""
        return tuple(self.arrays.get(axis, slice(None)) for axis in range(len(self.shape)))

    def choose(self, x: Any) -> Any:
        """Return the elements that are chosen from `x`, a copy."""
        view = x if self.trivial else x[self.basic]
        if len(self.arrays) == 1:
            ((axis, indices),) = self.arrays.items()
            return np.take(view, indices, axis=axis)
        return view[self.full]

    def put(self, x: Any, values: Any) -> None:
        """Store `values` in place of the elements of `x` that are chosen."""
        view = x if self.trivial else x[self.basic]
        view[self.full] = values

    def spread(self, g: Any, shape: tuple[int, ...]) -> Any:
        """Return zeros of `shape` to which `g` is added at the elements that are chosen."""
        module, axes = array_module(g), sorted(self.arrays)
        chosen = np.broadcast_arrays(*(self.arrays[axis] for axis in axes))
        sizes, ndim = [self.shape[axis] for axis in axes], chosen[0].ndim
        rows: Any = 0
        for size, indices in zip(sizes, chosen, strict=True):
            rows = rows * size + np.where(indices < 0, indices + size, indices)
        rest = [axis for axis in range(len(self.shape)) if axis not in self.arrays]
        # Where the arrays' axes are not neighbours, what they choose comes first.
        start = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
        order = [*range(start, start + ndim), *range(start), *range(start + ndim, g.ndim)]
        others = [self.shape[axis] for axis in rest]
        flat = g.transpose(order).reshape(rows.size, math.prod(others))
        sums = sum_rows(math.prod(sizes), rows.reshape(-1), flat)
        view = sums.reshape(*sizes, *others)
        view = view.transpose(np.argsort([*axes, *rest]).tolist())
        if self.trivial:
            return view
        whole = module.zeros(shape, dtype=g.dtype)
        whole[self.basic] = view
        return whole


def selection(at: tuple[Any, ...], shape: tuple[int, ...], module: Any) -> Any:
    """Take an index into an array of `shape` apart: a Selection, or an index that is basic.

    Raises IndexError if it has more axes than the array, or a mask has another shape.
    """
    parts = [_entry(part, module) for part in at]
    used = sum(_axes_used(part) for part in parts)
    if used > len(shape):
        raise IndexError(f"an index of {used} axes is too long for a tensor of shape {shape}")
    missing = [slice(None)] * (len(shape) - used)
    dots = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts = [*parts[:dots], *missing, *parts[dots + 1 :]]
    basic: list[Any] = []
    arrays: dict[int, Any] = {}
    axis, source = 0, 0  # in the view, and in x
    for part in parts:
        if not hasattr(part, "dtype"):
            basic.append(part)
            axis += not isinstance(part, int)
        elif not _is_mask(part):
            basic.append(slice(None))
            arrays[axis] = part
            axis += 1
        elif not part.ndim:
            basic.append(None)
            arrays[axis] = module.zeros(int(part), dtype=np.int64)
            axis += 1
        else:
            if part.shape != shape[source : source + part.ndim]:
                raise IndexError(
                    f"a mask of shape {part.shape} does not fit axes {source} to "
                    f"{source + part.ndim - 1} of a tensor of shape {shape}"
                )
            for indices in part.nonzero():
                basic.append(slice(None))
                arrays[axis] = indices
                axis += 1
        source += _axes_used(part)
    if not arrays:
        return tuple(basic)
    view = np.broadcast_to(np.False_, shape)[tuple(basic)]
    return Selection(tuple(basic), arrays, view.shape)


def _entry(part: Any, module: Any) -> Any:
    """Return one entry of an index as an integer, a slice, None, Ellipsis or an array."""
    if not hasattr(part, "dtype") or isinstance(part, np.integer):
        return int(part) if isinstance(part, np.integer) else part
    array = module.asarray(part)
    if array.dtype.kind not in "biu":
        raise IndexError(f"tensors are indexed by integers and masks; found {array.dtype}")
    return array if array.ndim or _is_mask(array) else array.item()


def _axes_used(part: Any) -> int:
    """Return how many axes of the array an entry of an index takes."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if _is_mask(part) else 1


def _is_mask(part: Any) -> bool:
    return hasattr(part, "dtype") and part.dtype == np.dtype(bool)


def apart(at: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """Return an index with `ARRAY` where it has arrays, masks, lists or tensors, and these."""
    template: list[Any] = []
    arrays: list[Any] = []
    for part in at if isinstance(at, tuple) else (at,):
        if is_basic(part):
            template.append(part)
        else:
            template.append(ARRAY)
            arrays.append(part if hasattr(part, "dtype") else _listed(part))
    return tuple(template), arrays


def _listed(part: Any) -> Any:
    """Return a list, or True or False, as an array."""
    array = np.asarray([raw(item) for item in part] if isinstance(part, (list, tuple)) else part)
    return array if array.size else array.astype(np.int64)


def understood(at: Any, arrays: Sequence[Any], shape: tuple[int, ...], module: Any) -> Any:
    """Return what an index and its arrays choose: a Selection, an index that is basic, or a mask
    of all axes, which NumPy needs no list of places for."""
    if not arrays:
        return at
    if at == (ARRAY,) and _is_mask(arrays[0]) and arrays[0].shape == shape:
        return arrays[0]
    given = iter(arrays)
    return selection(tuple(next(given) if part == ARRAY else part for part in at), shape, module)


def assign(x: Any, at: Any, values: Any) -> None:
    """Do `x[at] = values` in place on an array, as PyTorch understands the index."""
    if not is_basic(at):
        template, arrays = apart(at)
        at = understood(template, [raw(a) for a in arrays], x.shape, array_module(x))
    store(x, at, values)


def store(x: Any, chosen: Any, values: Any) -> None:
    """Put `values` into what an understood index chooses from an array."""
    if isinstance(chosen, Selection):
        chosen.put(x, values)
    else:  # one value fits one element, whatever axes it has
        x[chosen] = values.reshape(()) if getattr(values, "size", 0) == 1 else values


def choose(x: Any, at: Any) -> "Tensor":
    """Return `x[at]`, for an index of any kind that PyTorch takes."""
    if is_basic(at):
        return index(x, at=at)
    template, arrays = apart(at)
    return index(x, *arrays, at=template)


def put(x: Any, at: Any, values: Any) -> "Tensor":
    """Return `x` with `values`, which broadcast, at an index of any kind."""
    template, arrays = apart(at)
    return index_put(x, values, *arrays, at=template)


def spread(x: Any, at: Any, shape: tuple[int, ...]) -> "Tensor":
    """Return zeros of `shape` to which `x` is added at an index of any kind."""
    template, arrays = apart(at)
    return place(x, *arrays, at=template, shape=shape)


def _indexed(rng: np.random.Generator) -> tuple[Any, ...]:
    at = [
        (1, ..., slice(0, 4, 2)),
        (slice(None), [0, 2, 2]),
        ([0, 2, 2], slice(1, 3), [[4], [1]]),
        (None, slice(1, None), np.array([[0, 3], [-1, 3]])),
        (0, slice(None), [1, 4]),
        rng.random((3, 4)) < 0.5,
        rng.random((3, 4, 5)) < 0.5,
    ][int(rng.integers(7))]
    template, arrays = apart(at)
    return (rng.normal(size=(3, 4, 5)), *arrays), {"at": template}


@primitive(sample=_indexed, second="linear")
def index(x: Any, *arrays: Any, at: Any) -> Ruled:
    """Return the elements that an index of PyTorch's kind chooses: a view if it `is_basic`.

    Its arrays and masks are arguments, for which `at` has `ARRAY`.
    """
    shape = x.shape
    chosen = understood(at, arrays, shape, array_module(x))
    value = chosen.choose(x) if isinstance(chosen, Selection) else x[chosen]
    return value, lambda g: (transpose("place", g, at=chosen, shape=shape),)


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(2, 3)), np.array([0, 3, 3])),
        {"at": (slice(1, 3), ARRAY), "shape": (4, 5)},
    ),
    second="linear",
)
def place(x: Any, *arrays: Any, at: Any, shape: tuple[int, ...]) -> Ruled:
    """Return zeros of `shape` to which `x` is added at an index: the transpose of `index`."""
    module = array_module(x)
    chosen = understood(at, arrays, shape, module)
    if isinstance(chosen, Selection):
        whole = chosen.spread(x, shape)
    else:
        whole = module.zeros(shape, dtype=x.dtype)
        whole[chosen] = x
    return whole, lambda g: (transpose("index", g, at=chosen),)


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(4, 5)), rng.normal(size=(2, 1)), np.array([0, 3])),
        {"at": (slice(1, 3), ARRAY)},
    ),
    second="linear",
)
def index_put(x: Any, values: Any, *arrays: Any, at: Any) -> Ruled:
    """Return a copy of `x` with `values`, which broadcast, at an index.

    Where the index names a place more than once, one of the values is stored.
    """
    whole = x.copy()
    chosen = understood(at, arrays, x.shape, array_module(x))
    store(whole, chosen, values)
    ndim = getattr(values, "ndim", 0)

    def by_values(g: Any) -> Any:
        part = transpose("index", g, at=chosen)
        extra = ndim - part.ndim  # values may have had axes of size 1 in front
        return part.reshape((1,) * extra + part.shape) if extra > 0 else part

    def pullback(g: Any) -> tuple[Any, ...]:
        return lambda: transpose("index_put", g, 0, at=chosen), lambda: by_values(g)

    return whole, pullback
