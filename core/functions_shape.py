"""Functions that rearrange, choose and multiply tensors, with PyTorch's names and arguments.

Most are the methods of that name, which take the tensor as their first argument.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from holdfast.core.backend import backend
from holdfast.core.errors import shape_error
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
    "column_stack",
    "concat",
    "concatenate",
    "diag",
    "diag_embed",
    "diagonal",
    "dot",
    "dstack",
    "einsum",
    "flatten",
    "flip",
    "fliplr",
    "flipud",
    "gather",
    "ger",
    "hstack",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_select",
    "inner",
    "kthvalue",
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
    "vstack",
]

addmm = Tensor.addmm
addmv = Tensor.addmv
addr = Tensor.addr
argsort = Tensor.argsort
argwhere = Tensor.argwhere
baddbmm = Tensor.baddbmm
bincount = Tensor.bincount
bmm = Tensor.bmm
broadcast_to = Tensor.broadcast_to
chunk = Tensor.chunk
diag = Tensor.diag
diag_embed = Tensor.diag_embed
diagonal = Tensor.diagonal
dot = Tensor.dot
flatten = Tensor.flatten
flip = Tensor.flip
fliplr = Tensor.fliplr
flipud = Tensor.flipud
gather = Tensor.gather
ger = Tensor.ger
index_add = Tensor.index_add
index_copy = Tensor.index_copy
index_fill = Tensor.index_fill
index_put = Tensor.index_put
index_select = Tensor.index_select
inner = Tensor.inner
kthvalue = Tensor.kthvalue
masked_select = Tensor.masked_select
matmul = Tensor.matmul
mm = Tensor.mm
moveaxis = Tensor.moveaxis
movedim = Tensor.movedim
msort = Tensor.msort
mv = Tensor.mv
narrow = Tensor.narrow
nonzero = Tensor.nonzero
outer = Tensor.outer
permute = Tensor.permute
ravel = Tensor.ravel
repeat_interleave = Tensor.repeat_interleave
reshape = Tensor.reshape
roll = Tensor.roll
rot90 = Tensor.rot90
scatter = Tensor.scatter
scatter_add = Tensor.scatter_add
scatter_reduce = Tensor.scatter_reduce
select = Tensor.select
sort = Tensor.sort
split = Tensor.split
squeeze = Tensor.squeeze
swapaxes = Tensor.swapaxes
swapdims = Tensor.swapdims
t = Tensor.t
take = Tensor.take
take_along_dim = Tensor.take_along_dim
tensor_split = Tensor.tensor_split
tile = Tensor.tile
topk = Tensor.topk
trace = Tensor.trace
transpose = Tensor.transpose
tril = Tensor.tril
triu = Tensor.triu
unbind = Tensor.unbind
unflatten = Tensor.unflatten
unique = Tensor.unique
unique_consecutive = Tensor.unique_consecutive
unsqueeze = Tensor.unsqueeze


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
    parts = [_with_axes(tensor, 1) for tensor in tensors]
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the rows; vectors are rows."""
    return cat([_with_axes(tensor, 2) for tensor in tensors], 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the third axis; matrices have one element there."""
    return cat([_with_axes(tensor, 3) for tensor in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the columns; vectors are columns."""
    return cat([t.reshape(-1, 1) if t.ndim < 2 else t for t in tensors], 1)


def _with_axes(tensor: Tensor, ndim: int) -> Tensor:
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
