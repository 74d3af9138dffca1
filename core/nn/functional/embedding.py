"""Tables looked up by integers, as functions: PyTorch's names and arguments."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.errors import shape_error
from holdfast.core.ops import elementwise, gather, index
from holdfast.core.ops import embedding as table
from holdfast.core.ops.ask import ask
from holdfast.core.primitive import wrap
from holdfast.core.variable import raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = ["embedding", "embedding_bag", "one_hot"]


def embedding(input: Any, weight: "Tensor", padding_idx: int | None = None) -> "Tensor":
    """Return the rows of weight (n, m) at `input`, integers of any shape: (..., m).

    The row `padding_idx` gets no gradient.
    """
    return table.embedding(input, weight, padding_idx=_row(padding_idx, weight.shape[0]))


def _row(padding_idx: int | None, count: int) -> int | None:
    if padding_idx is None:
        return None
    if not -count <= padding_idx < count:
        raise UsageError(f"padding_idx is a row of the {count} there are; found {padding_idx}")
    return padding_idx % count


def embedding_bag(
    input: Any,
    weight: "Tensor",
    offsets: Any = None,
    *,
    mode: Literal["mean", "sum", "max"] = "mean",
    per_sample_weights: "Tensor | None" = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> "Tensor":
    """Return for each bag of indices the sum, mean or maximum of these rows of weight (n, m).

    The bags are the rows of `input`, or the parts of it that begin at `offsets`, if it has one
    axis. Rows `padding_idx` do not count; an empty bag gives zeros. `per_sample_weights`, of the
    shape of `input`, scale the rows of a sum.
    """
    if mode not in ("sum", "mean", "max"):
        raise UsageError(f"embedding_bag: mode is 'sum', 'mean' or 'max'; found {mode!r}")
    if per_sample_weights is not None and mode != "sum":
        raise UsageError(f"embedding_bag: per_sample_weights scale a sum, not mode={mode!r}")
    indices = raw(input)
    module = array_module(indices)
    if per_sample_weights is not None and per_sample_weights.shape != indices.shape:
        raise shape_error(
            "embedding_bag",
            "per_sample_weights in the shape of input",
            input=indices.shape,
            per_sample_weights=per_sample_weights.shape,
        )
    if indices.ndim == 2 and offsets is None:
        count = len(indices)
        bags = np.repeat(module.arange(count), indices.shape[1])
    elif indices.ndim == 1 and offsets is not None:
        starts = raw(offsets)[: -1 if include_last_offset else None]
        count = len(starts)
        bags = np.searchsorted(starts, module.arange(len(indices)), side="right") - 1
    else:
        raise UsageError(
            "embedding_bag: input of two axes, or of one with offsets; found "
            f"{indices.ndim} axes and {'no' if offsets is None else 'an array of'} offsets"
        )
    flat, padding = indices.reshape(-1), _row(padding_idx, weight.shape[0])
    scales = None if per_sample_weights is None else per_sample_weights.reshape(-1, 1)
    if padding is not None:
        counted = np.flatnonzero(flat != padding)
        flat, bags = flat[counted], bags[counted]
        scales = None if scales is None else index.choose(scales, counted)
    rows = table.embedding(flat, weight)
    if scales is not None:
        rows = elementwise.mul(rows, scales)
    shape = (count, weight.shape[1])
    if mode == "max":
        empty = wrap(module.zeros(shape, dtype=rows.dtype))
        to = np.broadcast_to(bags[:, None], rows.shape)
        return gather.scatter_reduce(empty, to, rows, dim=0, reduce="amax", include_self=False)
    sums = index.spread(rows, bags, shape)
    if mode == "sum":
        return sums
    sizes = np.maximum(np.bincount(bags, minlength=count), 1)
    return elementwise.div(sums, sizes[:, None].astype(rows.dtype))


def one_hot(tensor: Any, num_classes: int = -1) -> "Tensor":
    """Return int64 zeros with a 1 at each of the integers `tensor`, along a new last axis.

    The axis has `num_classes` elements, or as many as the largest integer needs if -1.
    """
    classes = raw(tensor)
    if classes.dtype.kind not in "iu":
        raise UsageError(f"one_hot takes integers; found {classes.dtype}")
    most = int(classes.max()) + 1 if classes.size else 0
    count = most if num_classes == -1 else num_classes
    if count < 1 or most > count or (classes.size and classes.min() < 0):
        raise UsageError(
            f"one_hot: classes from 0 to {count - 1} are expected; found up to {most - 1}"
            if classes.size and classes.min() >= 0
            else "one_hot: classes from 0 on are expected, and num_classes where there are none"
        )
    return ask(tensor, question="one_hot", count=count)
