"""Convolutions as functions: PyTorch's names and arguments."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import shape_error
from holdfast.core.ops import conv, conv_transpose, im2col
from holdfast.core.ops.windows import Sizes, convolved, sizes

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "unfold",
]


def batched(operation: "Callable[[Tensor], Tensor]", x: "Tensor", axes: int) -> "Tensor":
    """Return what `operation` makes of x (N, C, *image), where x may lack the axis of the batch."""
    if x.ndim != axes + 1:
        return operation(x)
    return operation(x.unsqueeze(0)).squeeze(0)


def conv1d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> "Tensor":
    """Correlate (N, C, L) or (C, L) with weight (O, C / groups, k), plus bias (O,).

    `padding` is zeros on both sides, "valid" for none, "same" for as many as keep the size.
    """
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    options |= {"dilation": dilation, "groups": groups}
    return batched(lambda x: conv.conv1d(x, weight, bias, **options), input, 1)


def conv2d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> "Tensor":
    """Correlate (N, C, H, W) or (C, H, W) with weight (O, C / groups, kh, kw), plus bias (O,).

    Arguments as `conv1d`'s; a tuple has a number for each axis.
    """
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    options |= {"dilation": dilation, "groups": groups}
    return batched(lambda x: conv.conv2d(x, weight, bias, **options), input, 2)


def conv3d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> "Tensor":
    """Correlate (N, C, D, H, W) or (C, D, H, W) with weight (O, C / groups, kd, kh, kw).

    Arguments as `conv1d`'s; a tuple has a number for each axis.
    """
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    options |= {"dilation": dilation, "groups": groups}
    return batched(lambda x: conv.conv3d(x, weight, bias, **options), input, 3)


def conv_transpose1d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> "Tensor":
    """Spread (N, C, L) or (C, L) by weight (C, O / groups, k), plus bias (O,).

    It is the gradient of `conv1d` by its input; `output_padding` tells apart the sizes that a
    stride makes one of.
    """
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    options |= {"output_padding": output_padding, "groups": groups}
    return batched(lambda x: conv_transpose.conv_transpose1d(x, weight, bias, **options), input, 1)


def conv_transpose2d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> "Tensor":
    """Spread (N, C, H, W) or (C, H, W) by weight (C, O / groups, kh, kw): as `conv_transpose1d`."""
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    options |= {"output_padding": output_padding, "groups": groups}
    return batched(lambda x: conv_transpose.conv_transpose2d(x, weight, bias, **options), input, 2)


def conv_transpose3d(
    input: "Tensor",
    weight: "Tensor",
    bias: "Tensor | None" = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> "Tensor":
    """Spread (N, C, D, H, W) or (C, D, H, W) by weight (C, O / groups, kd, kh, kw)."""
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    options |= {"output_padding": output_padding, "groups": groups}
    return batched(lambda x: conv_transpose.conv_transpose3d(x, weight, bias, **options), input, 3)


def unfold(
    input: "Tensor",
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> "Tensor":
    """Return the windows of (N, C, H, W) or (C, H, W) as columns (N, C x kh x kw, windows)."""

    def columns(x: "Tensor") -> "Tensor":
        if x.ndim != 4:
            raise shape_error("unfold", "images (N, C, H, W) or (C, H, W)", input=input.shape)
        met = im2col.im2col(
            x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        batch, channels, kh, kw, *_ = met.shape
        return met.reshape(batch, channels * kh * kw, -1)

    return batched(columns, input, 2)


def fold(
    input: "Tensor",
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> "Tensor":
    """Add columns (N, C x kh x kw, windows), or without N, up to images of `output_size`."""
    kernel = sizes("kernel_size", kernel_size, 2)
    image = sizes("output_size", output_size, 2)
    lying = convolved("fold", image, kernel, stride, padding, dilation)
    counts = [axis.output for axis in lying]
    places = kernel[0] * kernel[1]

    def images(x: "Tensor") -> "Tensor":
        if x.ndim != 3 or x.shape[1] % places or x.shape[2] != counts[0] * counts[1]:
            raise shape_error(
                "fold", f"columns (N, C x {places}, {counts[0] * counts[1]})", input=input.shape
            )
        met = x.reshape(x.shape[0], -1, *kernel, *counts)
        return im2col.col2im(
            met,
            output_size=image,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )

    return batched(images, input, 1)
