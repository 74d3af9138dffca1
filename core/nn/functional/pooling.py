"""Pooling as functions: PyTorch's names and arguments.

Each takes images with or without the axis of the batch. `stride` is `kernel_size` where it is left
out. With `return_indices` the places that were taken come too: int64, in the flattened image.
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import shape_error
from holdfast.core.nn.functional.convolution import batched
from holdfast.core.ops import pool
from holdfast.core.ops.interpolate import resample
from holdfast.core.ops.windows import Sizes, sizes
from holdfast.core.primitive import wrap
from holdfast.core.variable import require

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]

AdaptiveSizes = int | None | Sequence[int | None]
"""One size for every spatial axis, or one for each; None keeps an axis as it is."""

_MAX = {1: pool.max_pool1d, 2: pool.max_pool2d, 3: pool.max_pool3d}
_AVG = {1: pool.avg_pool1d, 2: pool.avg_pool2d, 3: pool.avg_pool3d}
_ADAPTIVE_MAX = {
    1: pool.adaptive_max_pool1d,
    2: pool.adaptive_max_pool2d,
    3: pool.adaptive_max_pool3d,
}


def _max_pool(input: "Tensor", axes: int, return_indices: bool, **options: Any) -> Any:
    value = batched(lambda x: _MAX[axes](x, **options), input, axes)
    if not return_indices:
        return value
    name = f"max_pool{axes}d"
    return value, batched(lambda x: wrap(pool.max_places(name, x.array, **options)), input, axes)


def max_pool1d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the largest of each window of (N, C, L) or (C, L)."""
    return _max_pool(
        input,
        1,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )


def max_pool2d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the largest of each window of (N, C, H, W) or (C, H, W)."""
    return _max_pool(
        input,
        2,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )


def max_pool3d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the largest of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _max_pool(
        input,
        3,
        return_indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )


def avg_pool1d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> "Tensor":
    """Return the mean of each window of (N, C, L) or (C, L), of which the padding is zeros."""
    options: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    options |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return batched(lambda x: pool.avg_pool1d(x, **options), input, 1)


def avg_pool2d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> "Tensor":
    """Return the mean of each window of (N, C, H, W) or (C, H, W), of which the padding is zeros.

    `divisor_override` divides the sums instead of the number of elements.
    """
    options: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    options |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    options |= {"divisor_override": divisor_override}
    return batched(lambda x: pool.avg_pool2d(x, **options), input, 2)


def avg_pool3d(
    input: "Tensor",
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> "Tensor":
    """Return the mean of each window of (N, C, D, H, W) or (C, D, H, W), as `avg_pool2d`."""
    options: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    options |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    options |= {"divisor_override": divisor_override}
    return batched(lambda x: pool.avg_pool3d(x, **options), input, 3)


def _adaptive_sizes(name: str, x: "Tensor", size: AdaptiveSizes, axes: int) -> tuple[int, ...]:
    if x.ndim != axes + 2:
        raise shape_error(name, f"images of {axes} axes, after (N, C) or (C,)", input=x.shape)
    given = [size] if size is None or isinstance(size, int) else list(size)
    if len(given) == 1:
        given *= axes
    require(
        len(given) == axes,
        f"output_size={size!r}: expected one number, or {axes}, one for each spatial axis",
    )
    wanted = tuple(k if n is None else n for n, k in zip(given, x.shape[2:], strict=True))
    require(min(wanted) > 0, f"{name}: output_size is at least 1; found {size!r}")
    return wanted


def _adaptive_avg(input: "Tensor", size: AdaptiveSizes, axes: int) -> "Tensor":
    """Take the mean of everything, of even windows, or axis by axis of uneven ones."""

    def mean(x: "Tensor") -> "Tensor":
        wanted = _adaptive_sizes(f"adaptive_avg_pool{axes}d", x, size, axes)
        image = x.shape[2:]
        if all(n == 1 for n in wanted):
            return x.mean(tuple(range(2, axes + 2)), keepdim=True)
        if all(n and k % n == 0 for n, k in zip(wanted, image, strict=True)):
            kernel = tuple(k // n for n, k in zip(wanted, image, strict=True))
            return _AVG[axes](x, kernel_size=kernel)
        return resample(x, kind="mean", size=wanted)

    return batched(mean, input, axes)


def adaptive_avg_pool1d(input: "Tensor", output_size: AdaptiveSizes) -> "Tensor":
    """Return the means of `output_size` windows that cover (N, C, L) or (C, L) evenly."""
    return _adaptive_avg(input, output_size, 1)


def adaptive_avg_pool2d(input: "Tensor", output_size: AdaptiveSizes) -> "Tensor":
    """Return the means of `output_size` windows that cover (N, C, H, W) or (C, H, W) evenly."""
    return _adaptive_avg(input, output_size, 2)


def adaptive_avg_pool3d(input: "Tensor", output_size: AdaptiveSizes) -> "Tensor":
    """Return the means of `output_size` windows that cover (N, C, D, H, W) evenly."""
    return _adaptive_avg(input, output_size, 3)


def _adaptive_max(input: "Tensor", size: AdaptiveSizes, axes: int, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{axes}d"

    def largest(x: "Tensor") -> "Tensor":
        return _ADAPTIVE_MAX[axes](x, output_size=_adaptive_sizes(name, x, size, axes))

    def places(x: "Tensor") -> "Tensor":
        return wrap(pool.adaptive_max_places(x.array, _adaptive_sizes(name, x, size, axes)))

    value = batched(largest, input, axes)
    return (value, batched(places, input, axes)) if return_indices else value


def adaptive_max_pool1d(
    input: "Tensor", output_size: AdaptiveSizes, return_indices: bool = False
) -> Any:
    """Return the largest of `output_size` windows that cover (N, C, L) or (C, L) evenly."""
    return _adaptive_max(input, output_size, 1, return_indices)


def adaptive_max_pool2d(
    input: "Tensor", output_size: AdaptiveSizes, return_indices: bool = False
) -> Any:
    """Return the largest of `output_size` windows that cover (N, C, H, W) or (C, H, W) evenly."""
    return _adaptive_max(input, output_size, 2, return_indices)


def adaptive_max_pool3d(
    input: "Tensor", output_size: AdaptiveSizes, return_indices: bool = False
) -> Any:
    """Return the largest of `output_size` windows that cover (N, C, D, H, W) evenly."""
    return _adaptive_max(input, output_size, 3, return_indices)


def _lp_pool(
    input: "Tensor",
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None,
    ceil_mode: bool,
    axes: int,
) -> "Tensor":
    options = {"kernel_size": kernel_size, "stride": stride, "ceil_mode": ceil_mode}
    # PyTorch's mean of a window that leaves the image counts for a whole window's sum.
    elements = prod(sizes("kernel_size", kernel_size, axes))
    mean = batched(lambda x: _AVG[axes](x**norm_type, **options), input, axes)
    return (mean * elements) ** (1 / norm_type)


def lp_pool1d(
    input: "Tensor",
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> "Tensor":
    """Return the `norm_type`-th root of the sum of powers over each window of (N, C, L)."""
    return _lp_pool(input, norm_type, kernel_size, stride, ceil_mode, 1)


def lp_pool2d(
    input: "Tensor",
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> "Tensor":
    """Return the `norm_type`-th root of the sum of powers over each window of (N, C, H, W)."""
    return _lp_pool(input, norm_type, kernel_size, stride, ceil_mode, 2)
