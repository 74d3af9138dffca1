"""Matrix products with weights, as functions: PyTorch's names and arguments."""

from typing import TYPE_CHECKING

from holdfast.core.errors import shape_error
from holdfast.core.ops.einsum import einsum
from holdfast.core.ops.linear import linear as affine

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = ["bilinear", "linear"]


def linear(input: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """Return `input @ weight.T + bias`: input (..., in), weight (out, in), bias (out,) or None."""
    return affine(input, weight, bias)


def bilinear(
    input1: "Tensor", input2: "Tensor", weight: "Tensor", bias: "Tensor | None" = None
) -> "Tensor":
    """Return `input1 @ weight[o] @ input2 + bias[o]` for each output `o`.

    The inputs are (..., in1) and (..., in2), weight (out, in1, in2), bias (out,): (..., out).
    """
    if weight.ndim != 3 or (input1.shape[-1], input2.shape[-1]) != weight.shape[1:]:
        raise shape_error(
            "bilinear",
            "input1 (..., in1), input2 (..., in2) and weight (out, in1, in2)",
            input1=input1.shape,
            input2=input2.shape,
            weight=weight.shape,
        )
    y = einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias
