"""Changing the size of images, and rearranging them, as functions with PyTorch's names."""

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import shape_error
from holdfast.core.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from holdfast.core.ops.interpolate import resample
from holdfast.core.ops.windows import sizes
from holdfast.core.variable import require

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = ["channel_shuffle", "interpolate", "pixel_shuffle", "pixel_unshuffle"]

_KINDS = {
    "nearest": ("nearest", (1, 2, 3)),
    "nearest-exact": ("nearest-exact", (1, 2, 3)),
    "area": ("mean", (1, 2, 3)),
    "linear": ("linear", (1,)),
    "bilinear": ("linear", (2,)),
    "trilinear": ("linear", (3,)),
    "bicubic": ("cubic", (2,)),
}
"""PyTorch's modes: what each spatial axis is resampled by, and of how many axes an image may be."""

_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


def interpolate(
    input: "Tensor",
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> "Tensor":
    """Resample images (N, C, *image) to `size`, or to `scale_factor` times theirs.

    `mode` is "nearest", "nearest-exact" or "area" for one to three spatial axes, "linear" for one,
    "bilinear" and "bicubic" for two, "trilinear" for three. With `align_corners` the centres of the
    corners' elements stay in place, without it their outer edges. Where `scale_factor` leaves a
    fraction of an element, it is the distance all the same, unless `recompute_scale_factor`.

    Raises UsageError for an unknown mode, one that does not fit the image, or unless one of `size`
    and `scale_factor` is given.
    """
    require(mode in _KINDS, f"interpolate: mode is one of {', '.join(_KINDS)}; found {mode!r}")
    kind, fitting = _KINDS[mode]
    axes = input.ndim - 2
    require(
        axes in fitting,
        f"interpolate: mode {mode!r} is for images of {fitting} axes after (N, C); found an input "
        f"of shape {input.shape}",
    )
    require(
        align_corners is None or kind in ("linear", "cubic"),
        f"interpolate: align_corners is for modes that interpolate; leave it out for {mode!r}",
    )
    require(
        (size is None) != (scale_factor is None),
        "interpolate: give either size or scale_factor, and not both",
    )
    image = input.shape[2:]
    steps: list[float | None] = [None] * axes
    if size is not None:
        require(
            not recompute_scale_factor, "interpolate: recompute_scale_factor needs scale_factor"
        )
        wanted = sizes("size", size, axes)
    else:
        factors = _factors(scale_factor, axes)
        wanted = tuple(floor(n * factor) for n, factor in zip(image, factors, strict=True))
        if not recompute_scale_factor:
            steps = [1 / factor for factor in factors]
    if min(wanted) < 1:
        raise shape_error("interpolate", "a size of at least 1", input=input.shape, size=wanted)
    if kind == "mean":
        return _AREA[axes](input, wanted)
    if align_corners:
        kind += "-corners"
    # An axis whose size stays is copied by some modes and resampled by others, as in PyTorch.
    if (mode == "nearest" and axes == 2) or mode in ("linear", "bilinear", "trilinear"):
        steps = [
            None if old == new else step
            for old, new, step in zip(image, wanted, steps, strict=True)
        ]
    return resample(input, kind=kind, size=wanted, step=tuple(steps))


def _factors(scale_factor: Any, axes: int) -> tuple[float, ...]:
    given = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * axes
    require(
        len(given) == axes,
        f"interpolate: scale_factor is one number, or {axes}, one for each spatial axis; found "
        f"{scale_factor!r}",
    )
    require(min(given) > 0, f"interpolate: scale_factor is above 0; found {scale_factor!r}")
    return tuple(float(factor) for factor in given)


def pixel_shuffle(input: "Tensor", upscale_factor: int) -> "Tensor":
    """Rearrange (..., C r r, H, W) to (..., C, H r, W r), where r is `upscale_factor`.

    The sub-pixel convolution of Shi et al., 2016.
    """
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise shape_error("pixel_shuffle", f"input (..., C x {r} x {r}, H, W)", input=input.shape)
    *before, channels, height, width = input.shape
    n = len(before)
    apart = input.reshape(*before, channels // (r * r), r, r, height, width)
    turned = apart.permute(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return turned.reshape(*before, channels // (r * r), height * r, width * r)


def pixel_unshuffle(input: "Tensor", downscale_factor: int) -> "Tensor":
    """Rearrange (..., C, H r, W r) to (..., C r r, H, W): the inverse of `pixel_shuffle`."""
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-2] % r or input.shape[-1] % r:
        raise shape_error("pixel_unshuffle", f"input (..., C, H x {r}, W x {r})", input=input.shape)
    *before, channels, height, width = input.shape
    n = len(before)
    apart = input.reshape(*before, channels, height // r, r, width // r, r)
    turned = apart.permute(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return turned.reshape(*before, channels * r * r, height // r, width // r)


def channel_shuffle(input: "Tensor", groups: int) -> "Tensor":
    """Interleave the channels of input (N, C, ...): the first of each of `groups`, the second, ….

    That of ShuffleNet (Zhang et al., 2018).
    """
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise shape_error("channel_shuffle", f"input (N, {groups} x C, ...)", input=input.shape)
    count, channels, *image = input.shape
    apart = input.reshape(count, groups, channels // groups, *image)
    return apart.transpose(1, 2).reshape(input.shape)
