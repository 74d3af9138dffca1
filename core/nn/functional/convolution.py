"""Convolutions as functions: PyTorch's names and arguments."""

from holdfast.core.ops import conv
from holdfast.core.ops.conv import Pair
from holdfast.core.tensor import Tensor

__all__ = ["conv2d"]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Correlate images (N, C, H, W) with weight (O, C, kh, kw), plus bias (O,)."""
    return conv.conv2d(input, weight, bias, stride=stride, padding=padding, dilation=dilation)
