"""Unfolding images into their windows, and adding windows up to images: each the other's gradient.

They share no elements with their argument. `im2col` is the columns of a whole convolution, which
convolution itself makes in blocks.
"""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.adjoint import transpose
from holdfast.core.ops.columns import Geometry
from holdfast.core.ops.windows import Sizes, convolved, sizes
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


def _unfolded(x: Any, geometry: Geometry) -> Any:
    padded = geometry.pad(geometry.arranged(x))
    columns = array_module(x).ascontiguousarray(geometry.unrolled(padded)[0, 0])
    return columns.transpose(-1, *range(columns.ndim - 1))


def _folded(x: Any, geometry: Geometry) -> Any:
    sizes = [axis.size for axis in geometry.inner]
    image = array_module(x).zeros((geometry.channels, *sizes, geometry.batch), dtype=x.dtype)
    columns = x.transpose(*range(1, x.ndim), 0)
    for place, part in geometry.places(columns, slice(0, geometry.inner[0].output)):
        image[place] += part
    return image.transpose(-1, *range(image.ndim - 1))


def _images(rng: np.random.Generator) -> tuple[Any, ...]:
    options = {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "dilation": (1, 2)}
    return (rng.normal(size=(2, 3, 6, 5)),), options


@primitive(sample=_images, second="linear")
def im2col(
    x: Any,
    *,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
) -> Ruled:
    """Return the windows (N, C, *kernel, *windows) of images x (N, C, *image), over zeros."""
    image = tuple(x.shape[2:])
    kernel = sizes("kernel_size", kernel_size, len(image))
    windows = convolved("im2col", image, kernel, stride, padding, dilation)
    geometry = Geometry.of_windows(windows, x.shape[1], x.shape[0])
    options = {"stride": stride, "padding": padding, "dilation": dilation}

    return _unfolded(x, geometry), lambda g: (
        transpose("col2im", g, output_size=image, kernel_size=kernel, **options),
    )


def _windows(rng: np.random.Generator) -> tuple[Any, ...]:
    options = {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "dilation": (1, 2)}
    return (rng.normal(size=(2, 3, 3, 2, 3, 5)),), {"output_size": (6, 5), **options}


@primitive(sample=_windows, second="linear")
def col2im(
    x: Any,
    *,
    output_size: Sizes,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
) -> Ruled:
    """Add windows x (N, C, *kernel, *windows) up to images (N, C, *output_size)."""
    axes = x.ndim // 2 - 1
    kernel = sizes("kernel_size", kernel_size, axes)
    image = sizes("output_size", output_size, axes)
    windows = convolved("col2im", image, kernel, stride, padding, dilation)
    expected = (*kernel, *(axis.output for axis in windows))
    if tuple(x.shape[2:]) != expected:
        raise shape_error("col2im", f"windows (N, C, *{expected})", x=x.shape)
    geometry = Geometry.of_windows(windows, x.shape[1], x.shape[0])
    options = {"stride": stride, "padding": padding, "dilation": dilation}

    return _folded(x, geometry), lambda g: (transpose("im2col", g, kernel_size=kernel, **options),)
