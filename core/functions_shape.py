"""Functions that rearrange, choose and multiply tensors, with PyTorch's names and arguments.

Most are the methods of that name, which take the tensor as their first argument.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from holdfast.core.backend import backend
from holdfast.core.errors import shape_error
from holdfast.core.methods.named import function
from holdfast.core.methods.shapes import axis
from holdfast.core.ops import shape
from holdfast.core.ops.ask import ask
from holdfast.core.ops.einsum import einsum
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = [
    "addmm",
    "addmv",
    "addr",
    "argsort",
    "argwhere",
    "baddbmm",
    "bincount",
    "bmm",
    "broadcast_tensors",
    "broadcast_to",
    "bucketize",
    "cat",
    "chunk",
    "clone",
    "column_stack",
    "concat",
    "concatenate",
    "cross",
    "detach",
    "diag",
    "diag_embed",
    "diagflat",
    "diagonal",
    "dot",
    "dsplit",
    "dstack",
    "einsum",
    "flatten",
    "flip",
    "fliplr",
    "flipud",
    "gather",
    "ger",
    "hsplit",
    "hstack",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_select",
    "inner",
    "is_floating_point",
    "is_tensor",
    "kron",
    "kthvalue",
    "masked_scatter",
    "masked_select",
    "matmul",
    "meshgrid",
    "mm",
    "moveaxis",
    "movedim",
    "msort",
    "mv",
    "narrow",
    "nonzero",
    "numel",
    "outer",
    "permute",
    "ravel",
    "repeat_interleave",
    "reshape",
    "roll",
    "rot90",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "searchsorted",
    "select",
    "sort",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "swapdims",
    "t",
    "take",
    "take_along_dim",
    "tensor_split",
    "tensordot",
    "tile",
    "topk",
    "trace",
    "transpose",
    "tril",
    "tril_indices",
    "triu",
    "triu_indices",
    "unbind",
    "unflatten",
    "unique",
    "unique_consecutive",
    "unsqueeze",
    "vdot",
    "vsplit",
    "vstack",
]

addmm = function(Tensor.addmm)
addmv = function(Tensor.addmv)
addr = function(Tensor.addr)
argsort = function(Tensor.argsort)
argwhere = function(Tensor.argwhere)
baddbmm = function(Tensor.baddbmm)
bincount = function(Tensor.bincount)
bmm = function(Tensor.bmm)
broadcast_to = function(Tensor.broadcast_to)
chunk = function(Tensor.chunk)
clone = function(Tensor.clone)
cross = function(Tensor.cross)
detach = function(Tensor.detach)
diag = function(Tensor.diag)
diag_embed = function(Tensor.diag_embed)
diagflat = function(Tensor.diagflat)
diagonal = function(Tensor.diagonal)
dot = function(Tensor.dot)
dsplit = function(Tensor.dsplit)
flatten = function(Tensor.flatten)
flip = function(Tensor.flip)
fliplr = function(Tensor.fliplr)
flipud = function(Tensor.flipud)
gather = function(Tensor.gather)
ger = function(Tensor.ger)
hsplit = function(Tensor.hsplit)
index_add = function(Tensor.index_add)
index_copy = function(Tensor.index_copy)
index_fill = function(Tensor.index_fill)
index_put = function(Tensor.index_put)
index_select = function(Tensor.index_select)
inner = function(Tensor.inner)
is_floating_point = function(Tensor.is_floating_point)
kron = function(Tensor.kron)
kthvalue = function(Tensor.kthvalue)
masked_scatter = function(Tensor.masked_scatter)
masked_select = function(Tensor.masked_select)
matmul = Tensor.matmul
mm = function(Tensor.mm)
moveaxis = function(Tensor.moveaxis)
movedim = function(Tensor.movedim)
msort = function(Tensor.msort)
mv = function(Tensor.mv)
narrow = function(Tensor.narrow)
nonzero = function(Tensor.nonzero)
numel = function(Tensor.numel)
outer = function(Tensor.outer)
permute = function(Tensor.permute)
ravel = function(Tensor.ravel)
reshape = function(Tensor.reshape)
roll = function(Tensor.roll)
rot90 = function(Tensor.rot90)
scatter = function(Tensor.scatter)
scatter_add = function(Tensor.scatter_add)
scatter_reduce = function(Tensor.scatter_reduce)
select = function(Tensor.select)
sort = function(Tensor.sort)
squeeze = function(Tensor.squeeze)
swapaxes = function(Tensor.swapaxes)
swapdims = function(Tensor.swapdims)
t = function(Tensor.t)
take = function(Tensor.take)
take_along_dim = function(Tensor.take_along_dim)
tensor_split = function(Tensor.tensor_split)
tile = function(Tensor.tile)
topk = function(Tensor.topk)
trace = function(Tensor.trace)
transpose = function(Tensor.transpose)
tril = function(Tensor.tril)
triu = function(Tensor.triu)
unbind = function(Tensor.unbind)
unflatten = function(Tensor.unflatten)
unique = function(Tensor.unique)
unique_consecutive = function(Tensor.unique_consecutive)
unsqueeze = function(Tensor.unsqueeze)
vdot = function(Tensor.vdot)
vsplit = function(Tensor.vsplit)


def is_tensor(obj: Any) -> bool:
    """Return whether `obj` is a tensor."""
    return isinstance(obj, Tensor)


# -- joining --------------------------------------------------------------------------------------


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    return shape.stack(*tensors, dim=dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an existing axis; empty ones of shape (0,) fit everywhere."""
    parts = [tensor for tensor in tensors if tensor.shape != (0,)]
    return shape.concatenate(*(parts or tensors), dim=dim)


concat = cat
concatenate = cat


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the columns; vectors, and numbers, along their only axis."""
    parts = [with_axes(tensor, 1) for tensor in tensors]
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the rows; vectors are rows."""
    return cat([with_axes(tensor, 2) for tensor in tensors], 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the third axis; matrices have one element there."""
    return cat([with_axes(tensor, 3) for tensor in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the columns; vectors are columns."""
    return cat([t.reshape(-1, 1) if t.ndim < 2 else t for t in tensors], 1)


def with_axes(tensor: Tensor, ndim: int) -> Tensor:
    """Return a view with `ndim` axes at least, where NumPy's atleast functions put them."""
    own = tensor.shape
    if len(own) >= ndim:
        return tensor
    front = () if ndim == 1 else (1,)[: 2 - len(own)]
    return tensor.reshape(*front, *own, *(1,) * (ndim - len(front) - len(own)))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return views of the tensors in their common shape."""
    common = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    return tuple(tensor.expand(common) for tensor in tensors)


def meshgrid(*tensors: Any, indexing: Literal["ij", "xy"] = "ij") -> tuple[Tensor, ...]:
    """Return for each vector a view of it along its own axis of a grid; with "xy" the first two
    axes are exchanged."""
    if indexing not in ("ij", "xy"):
        raise UsageError(f"meshgrid: indexing is 'ij' or 'xy'; found {indexing!r}")
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    swapped = indexing == "xy" and len(given) > 1
    lines = [given[1], given[0], *given[2:]] if swapped else list(given)
    common = [line.numel() for line in lines]
    views = [
        line.reshape([-1 if k == i else 1 for k in range(len(lines))]).expand(common)
        for i, line in enumerate(lines)
    ]
    return (views[1], views[0], *views[2:]) if swapped else tuple(views)


# -- parts and repetitions ------------------------------------------------------------------------


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Return views of parts along `dim`: of so many elements each, or of these sizes."""
    return tensor.split(split_size_or_sections, dim)


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Repeat each element along `dim` (of the flat elements if None) so often, or as often as
    `repeats` has it for each.

    A tensor alone is the repeats, of the places 0, 1, … . `output_size` is PyTorch's, and makes no
    difference.
    """
    if repeats is not None:
        return input.repeat_interleave(repeats, dim)
    if input.ndim != 1 or input.dtype.kind not in "iu":
        raise UsageError(
            f"repeat_interleave: repeats are integers along one axis; found {input.dtype} of shape "
            f"{input.shape}"
        )
    return ask(input, question="repeated")


# -- products -------------------------------------------------------------------------------------


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum products over axes: the last `dims` of `a` and first of `b`, or two lists of axes."""
    if isinstance(dims, int):
        left, right = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        left = [axis(dim, a.ndim) for dim in dims[0]]
        right = [axis(dim, b.ndim) for dim in dims[1]]
    rows = [i for i in range(a.ndim) if i not in left]
    columns = [i for i in range(b.ndim) if i not in right]
    summed = [a.shape[i] for i in left]
    if len(left) != len(right) or summed != [b.shape[i] for i in right]:
        raise shape_error("tensordot", f"equal sizes over dims={dims}", a=a.shape, b=b.shape)
    size = math.prod(summed)
    lying = a.permute([*rows, *left]).reshape(math.prod(a.shape[i] for i in rows), size)
    standing = b.permute([*right, *columns]).reshape(size, math.prod(b.shape[i] for i in columns))
    outer_shape = [*(a.shape[i] for i in rows), *(b.shape[i] for i in columns)]
    return (lying @ standing).reshape(outer_shape)


# -- places ---------------------------------------------------------------------------------------


def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    right: bool = False,
    side: Literal["left", "right", None] = None,
) -> Tensor:
    """Return where in a sorted sequence the values belong: before equal ones, or after (`right`).

    The sequence has one axis, or is (..., n) beside values (..., m) of the same rows.
    """
    number = isinstance(input, (int, float))
    values = sorted_sequence.dtype.type(input) if number else input
    return ask(sorted_sequence, values, question="ranks", right=right or side == "right")


def bucketize(input: Any, boundaries: Any, *, right: bool = False) -> Tensor:
    """Return how many of the sorted boundaries lie below each value (or at it, if `right`)."""
    return searchsorted(boundaries, input, right=right)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = np.int64, device: str = "cpu"
) -> Tensor:
    """Return (2, n): rows and columns of the places on and below a diagonal of a matrix."""
    places = np.stack(np.tril_indices(row, offset, col)).astype(dtype)
    return wrap(backend(device).asarray(places))


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = np.int64, device: str = "cpu"
) -> Tensor:
    """Return (2, n): rows and columns of the places on and above a diagonal of a matrix."""
    places = np.stack(np.triu_indices(row, offset, col)).astype(dtype)
    return wrap(backend(device).asarray(places))
