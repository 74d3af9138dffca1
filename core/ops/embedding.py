"""The primitive that looks rows of a table up."""

from typing import Any

import numpy as np

from holdfast.core.backward import Into, Pullback
from holdfast.core.ops.accumulate import sum_rows
from holdfast.core.ops.adjoint import transpose
from holdfast.core.ops.index import ARRAY
from holdfast.core.primitive import primitive
from holdfast.core.variable import Variable


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    # A row that is looked up would have a slope, where padding has no gradient: row 1 is not.
    padding = 1 if rng.random() < 0.5 else None
    return (np.array([[0, 3, 3], [2, 3, 0]]), rng.normal(size=(4, 5))), {"padding_idx": padding}


@primitive(sample=_sample, second="linear")
def embedding(indices: Any, weight: Any, *, padding_idx: int | None = None) -> tuple[Any, Pullback]:
    """Return the rows of weight (n, m) at `indices`, integers of any shape: (..., m).

    The row `padding_idx` gets no gradient. Raises IndexError where there is no such row.
    """
    count, width = weight.shape
    if indices.dtype.kind not in "iu":
        raise IndexError(f"embedding: indices are integers; found {indices.dtype}")
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise IndexError(
            f"embedding: an index is out of range for {count} rows; found {indices.min()} to "
            f"{indices.max()}"
        )

    def pullback(g: Any) -> tuple[Any, ...]:
        if isinstance(g, Variable):
            known = g if padding_idx is None else g * (indices != padding_idx)[..., None]
            return None, transpose("place", known, indices, at=(ARRAY,), shape=(count, width))

        def add(out: Any) -> Any:
            sums = sum_rows(count, indices.reshape(-1), g.reshape(indices.size, width), out)
            if padding_idx is not None:
                sums[padding_idx] = 0
            return sums

        return None, Into(add)

    return np.take(weight, indices, axis=0), pullback
