"""Transposed convolution over one, two and three axes: the gradient of a convolution by its images.

So the three functions of `columns.py` serve it too, with other roles: its output are the images,
and what it is given is the gradient.
"""

from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.ops.columns import Geometry, by_image, by_weight, computed, correlate
from holdfast.core.ops.conv import along_channels, by_bias, check_weight, gradient
from holdfast.core.ops.im2col import col2im
from holdfast.core.ops.windows import Sizes, spatial, transposed
from holdfast.core.primitive import Operation, Sample, primitive

Ruled = tuple[Any, Pullback]


def _transposed_convolution(axes: int, sample: Sample) -> Operation:
    """Return the primitive that does it over `axes` spatial axes."""
    name = f"conv_transpose{axes}d"

    def rule(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Ruled:
        given = spatial(name, x, axes)
        outputs = weight.shape[1] * groups
        check_weight(name, x, weight, bias, groups, weight.shape[0], outputs)
        windows = transposed(
            name, given, weight.shape[2:], stride, padding, output_padding, dilation
        )
        geometry = Geometry.over(windows, groups, outputs, x.shape[0])
        kernel = computed(weight)
        out = by_image(geometry, kernel, gradient(geometry, x))
        if bias is not None:
            out += along_channels(bias, out.ndim)

        def pullback(g: Any) -> tuple[Any, ...]:
            padded = geometry.pad(computed(geometry.arranged(g)))
            return (
                lambda: geometry.restored(correlate(geometry, kernel, padded)),
                lambda: by_weight(geometry, padded, gradient(geometry, x)),
                lambda: by_bias(padded),
            )

        return geometry.restored(out).astype(x.dtype, copy=False), pullback

    def by_windows(
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Any:
        """Compute the same by folding one product of the kernel and all of x."""
        given, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
        windows = transposed(name, given, kernel, stride, padding, output_padding, dilation)
        batch, inputs, outputs = x.shape[0], x.shape[1] // groups, weight.shape[1] * groups
        columns = np.reshape(np.transpose(x, (*range(1, axes + 2), 0)), (groups, inputs, -1))
        matrix = np.transpose(np.reshape(weight, (groups, inputs, -1)), (0, 2, 1))
        met = np.reshape(matrix @ columns, (outputs, *kernel, *given, batch))
        out = col2im(
            np.transpose(met, (met.ndim - 1, *range(met.ndim - 1))),
            output_size=tuple(axis.size for axis in windows),
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        return out if bias is None else out + np.reshape(bias, (-1, *(1,) * axes))

    rule.__doc__ = f"""Spread x (N, C, *image) by weight (C, O / groups, *kernel) over {axes}
    spatial axes, plus bias (O,) or None; `output_padding` rows and columns more at the end.
    """
    return primitive(sample=sample, name=name, second=by_windows)(rule)


def _sample_1d(rng: np.random.Generator) -> tuple[Any, ...]:
    arrays = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 3, 3)), rng.normal(size=6)
    return arrays, {"stride": 2, "padding": 1, "output_padding": int(rng.integers(2)), "groups": 2}


def _sample_2d(rng: np.random.Generator) -> tuple[Any, ...]:
    batch = int(rng.choice([3, 20]))
    arrays = rng.normal(size=(batch, 2, 3, 4)), rng.normal(size=(2, 3, 4, 3)), rng.normal(size=3)
    options = [
        {"stride": 2, "padding": 1},
        {"stride": (2, 3), "output_padding": (1, 2)},
        {"dilation": (1, 2), "padding": (0, 1)},
        {"dilation": 2},
    ]
    return arrays, options[rng.integers(4)]


def _sample_3d(rng: np.random.Generator) -> tuple[Any, ...]:
    batch = int(rng.choice([2, 20]))
    arrays = (
        rng.normal(size=(batch, 2, 2, 3, 2)),
        rng.normal(size=(2, 2, 2, 3, 2)),
        rng.normal(size=4),
    )
    return arrays, {"stride": (2, 1, 2), "padding": (0, 1, 0), "groups": 2}


conv_transpose1d = _transposed_convolution(1, _sample_1d)
conv_transpose2d = _transposed_convolution(2, _sample_2d)
conv_transpose3d = _transposed_convolution(3, _sample_3d)
