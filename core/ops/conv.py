"""Convolution over one, two and three axes.

How images lie in memory, and why, is the rule of `columns.py`. What is returned is a view in
PyTorch's order (N, C, *spatial); pooling and elementwise operations keep the order of memory.
"""

from math import prod
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.errors import check_dtypes, shape_error
from holdfast.core.ops.columns import Geometry, by_image, by_weight, computed, correlate
from holdfast.core.ops.im2col import im2col
from holdfast.core.ops.windows import Sizes, convolved, spatial
from holdfast.core.primitive import Operation, Sample, primitive
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]


def check_weight(
    name: str, x: Any, weight: Any, bias: Any, groups: int, inputs: int, outputs: int
) -> None:
    """Raise ShapeError unless weight and bias fit x, of which `inputs` channels are expected, and
    UsageError unless they have its dtype."""
    check_dtypes(name, x=x, weight=weight, bias=bias)
    shapes = {"x": x.shape, "weight": weight.shape}
    if weight.ndim != x.ndim:
        raise shape_error(name, "x (N, C, *image) and weight (O, C / groups, *kernel)", **shapes)
    if groups < 1 or weight.shape[0] % groups:
        raise UsageError(
            f"{name}: groups divides the first size of weight, {weight.shape[0]}; found {groups}"
        )
    if x.shape[1] != inputs:
        raise shape_error(name, f"x of {inputs} channels in {groups} groups", **shapes)
    if bias is not None and bias.shape != (outputs,):
        raise shape_error(name, f"bias ({outputs},)", bias=bias.shape, **shapes)


def along_channels(bias: Any, ndim: int) -> Any:
    """Return `bias` (O,) to be added to an output (rows, O, *inner, N) of `ndim` axes."""
    return computed(bias).reshape(-1, *(1,) * (ndim - 2))


def by_bias(g: Any) -> Any:
    """Return the sum of `g` (rows, O, *inner, N) over all but the channels."""
    rows = g.reshape(*g.shape[:2], -1)
    ones = array_module(g).ones(rows.shape[2], dtype=g.dtype)
    return np.matmul(rows, ones).sum(axis=0)  # a product reads several times as fast as a sum


def gradient(geometry: Geometry, g: Any) -> Any:
    """Return the cotangent (N, O, *windows) as (rows, O, *inner, N), contiguous."""
    arranged = geometry.arranged(g)
    return computed(array_module(g).ascontiguousarray(arranged))


def _convolution(axes: int, sample: Sample) -> Operation:
    """Return the primitive that convolves over `axes` spatial axes."""
    name = f"conv{axes}d"

    def rule(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Ruled:
        image = spatial(name, x, axes)
        check_weight(name, x, weight, bias, groups, weight.shape[1] * groups, weight.shape[0])
        windows = convolved(name, image, weight.shape[2:], stride, padding, dilation)
        geometry = Geometry.over(windows, groups, x.shape[1], x.shape[0])
        kernel, padded = computed(weight), geometry.pad(computed(geometry.arranged(x)))
        out = correlate(geometry, kernel, padded)
        if bias is not None:
            out += along_channels(bias, out.ndim)
        # Images in the order of memory are soon padded again, and need not be kept in two copies.
        kept = None if geometry.arranged(x).flags.c_contiguous else padded

        def pullback(g: Any) -> tuple[Any, ...]:
            inner = gradient(geometry, g)

            def images() -> Any:
                return geometry.pad(computed(geometry.arranged(x))) if kept is None else kept

            return (
                lambda: geometry.restored(by_image(geometry, kernel, inner)),
                lambda: by_weight(geometry, images(), inner),
                lambda: by_bias(inner),
            )

        return geometry.restored(out).astype(x.dtype, copy=False), pullback

    def by_windows(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Any:
        """Compute the same as one product of the kernel and all windows."""
        outputs, kernel = weight.shape[0], tuple(weight.shape[2:])
        met = im2col(x, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation)
        batch, *image = met.shape[0], *met.shape[2 + axes :]
        windows = np.transpose(met, (*range(1, met.ndim), 0))
        columns = np.reshape(windows, (groups, -1, batch * prod(image)))
        matrix = np.reshape(weight, (groups, outputs // groups, -1))
        rows = np.reshape(matrix @ columns, (outputs, *image, batch))
        out = np.transpose(rows, (axes + 1, *range(axes + 1)))
        return out if bias is None else out + np.reshape(bias, (-1, *(1,) * axes))

    rule.__doc__ = f"""Correlate x (N, C, *image) with weight (O, C / groups, *kernel) over {axes}
    spatial axes, plus bias (O,) or None.
    """
    return primitive(sample=sample, name=name, second=by_windows)(rule)


def _sample_1d(rng: np.random.Generator) -> tuple[Any, ...]:
    arrays = rng.normal(size=(3, 4, 9)), rng.normal(size=(6, 2, 3)), rng.normal(size=6)
    return arrays, {"stride": int(rng.integers(1, 3)), "padding": 1, "groups": 2}


def _sample_2d(rng: np.random.Generator) -> tuple[Any, ...]:
    """Draw shapes whose rows are worked one by one, are too narrow for it, and are dilated."""
    batch = int(rng.choice([3, 40]))
    arrays = rng.normal(size=(batch, 2, 6, 5)), rng.normal(size=(3, 2, 3, 2)), rng.normal(size=3)
    options = [
        {"stride": (2, 1), "padding": 1, "dilation": (1, 2)},
        {"padding": "same", "dilation": (2, 1)},
        {"stride": (1, 2), "padding": (2, 0)},
    ]
    return arrays, options[rng.integers(3)]


def _sample_3d(rng: np.random.Generator) -> tuple[Any, ...]:
    batch = int(rng.choice([2, 20]))
    arrays = (
        rng.normal(size=(batch, 2, 4, 5, 4)),
        rng.normal(size=(4, 1, 2, 3, 2)),
        rng.normal(size=4),
    )
    return arrays, {"stride": (1, 2, 1), "padding": (1, 0, 1), "groups": 2}


conv1d = _convolution(1, _sample_1d)
conv2d = _convolution(2, _sample_2d)
conv3d = _convolution(3, _sample_3d)
