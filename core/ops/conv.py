"""Convolution: columns in blocks that stay in cache, and matrix products that need no copies.

The rule: in memory an image batch lies as (H, C, W, N), whatever order its axes are named in. A row
of columns is then a run of `width x batch` neighbours, which is copied, added and multiplied at
full speed; the rows of the output are matrices that products write in place; and neighbouring rows
of the output's gradient are one matrix as they lie. What is returned is a view in PyTorch's order
(N, C, H, W), and pooling and elementwise operations keep it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, strided
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.primitive import primitive

BLOCK_BYTES = {"numpy": 512 * 1024, "cupy": 256 * 1024 * 1024}
"""Columns made at once: half of a usual second-level cache; on a GPU, enough to fill it."""

INNER = (2, 1, 3, 0)
"""From (N, C, H, W) to the order of memory (H, C, W, N)."""
OUTER = (3, 1, 0, 2)
"""Back from it."""

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """Return `value` for both spatial axes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the windows of a convolution lie on its images."""

    channels: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    output: tuple[int, int]

    @property
    def depth(self) -> int:
        """Elements of one window: rows of the matrix of columns."""
        return self.channels * self.kernel[0] * self.kernel[1]

    def pad(self, inner: Any) -> Any:
        """Return images (H, C, W, N) within a border of zeros, contiguous."""
        module, (top, left), (height, width) = array_module(inner), self.padding, self.image
        if not (top or left):
            return module.ascontiguousarray(inner)
        shape = (height + 2 * top, self.channels, width + 2 * left, inner.shape[3])
        padded = module.zeros(shape, dtype=inner.dtype)
        padded[top : top + height, :, left : left + width] = inner
        return padded

    def columns(self, padded: Any, ones: bool) -> Iterator[tuple[slice, slice, Any]]:
        """Make the columns of each block of the output (rows, columns), all in one buffer.

        They are (rows, depth, columns x batch), the depth in the order (kh, C, kw); with `ones`, a
        last one of ones for the bias.
        """
        module, batch, depth = array_module(padded), padded.shape[3], self.depth
        h, c, w, n = padded.strides
        (kh, kw), (sy, sx), (dy, dx), (oh, ow) = (
            self.kernel,
            self.stride,
            self.dilation,
            self.output,
        )
        windows = strided(
            padded,
            (oh, kh, self.channels, kw, ow, batch),
            (sy * h, dy * h, c, dx * w, sx * w, n),
        )
        room = max(1, BLOCK_BYTES[module.__name__] // (depth * batch * padded.itemsize))
        tall, wide = max(1, min(oh, room // ow)), min(ow, room)
        buffer = module.ones((tall, depth + ones, wide * batch), dtype=padded.dtype)
        for y in range(0, oh, tall):
            for x in range(0, ow, wide):
                part = windows[y : y + tall, :, :, :, x : x + wide]
                block = buffer[: part.shape[0], :, : part.shape[4] * batch]
                block[:, :depth].reshape(part.shape)[...] = part
                yield slice(y, y + tall), slice(x, x + wide), block


def matrices(array: Any, rows: slice, columns: slice) -> Any:
    """View a block of an image batch (H, C, W, N) as a matrix (C, columns x N) for each row."""
    part = array[rows, :, columns]
    return part.reshape(*part.shape[:2], -1)


def _by_image(geometry: Geometry, weight: Any, g: Any) -> Any:
    """Return the gradient of images (H, C, W, N).

    Row `r` of the image was met by the rows `y` of the output for which `r` is `y * stride +
    i * dilation - padding` for a row `i` of the kernel. They are neighbours in `g`, so one product
    sums over them and the outputs; what is left is to add the kernel's columns up.
    """
    module, (height, width), batch = array_module(g), geometry.image, g.shape[3]
    (kh, kw), (oh, ow), channels = geometry.kernel, geometry.output, geometry.channels
    (sy, sx), (dy, dx), (top, left) = geometry.stride, geometry.dilation, geometry.padding
    into = module.zeros((height, channels, width, batch), dtype=g.dtype)
    room = max(1, BLOCK_BYTES[module.__name__] // (channels * kw * batch * g.itemsize))
    wide = min(ow, room)
    buffer = module.empty((channels * kw, wide * batch), dtype=g.dtype)
    rows = range(kh)[::-1]  # so that those of the output ascend
    turned: dict[tuple[int, ...], Any] = {}
    for r in range(height):
        met = [(i, (r + top - i * dy) // sy) for i in rows if not (r + top - i * dy) % sy]
        met = [(i, y) for i, y in met if 0 <= y < oh]
        if not met:
            continue
        kernel_rows = tuple(i for i, _ in met)
        if kernel_rows not in turned:  # (C x kw, rows x outputs)
            part = weight[:, :, kernel_rows, :].transpose(1, 3, 2, 0)
            turned[kernel_rows] = part.reshape(channels * kw, -1)
        first, last = met[0][1], met[-1][1]
        step = met[1][1] - first if len(met) > 1 else 1
        source = g[first : last + 1 : step]
        for x in range(0, ow, wide):
            part = source[:, :, x : x + wide]
            block = buffer[:, : part.shape[2] * batch]
            np.matmul(
                turned[kernel_rows], part.reshape(turned[kernel_rows].shape[1], -1), out=block
            )
            sums = block.reshape(channels, kw, -1, batch)
            for j in range(kw):
                shift = j * dx - left
                start = max(x, -(shift // sx))  # the first whose place x * stride + shift is >= 0
                stop = min(x + part.shape[2], (width - 1 - shift) // sx + 1)
                if start < stop:
                    place = slice(start * sx + shift, (stop - 1) * sx + shift + 1, sx)
                    into[r, :, place] += sums[:, j, start - x : stop - x]
    return into


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    arrays = rng.normal(size=(9, 2, 6, 5)), rng.normal(size=(3, 2, 3, 2)), rng.normal(size=3)
    return arrays, {"stride": (2, 1), "padding": 1, "dilation": (1, 2)}


@primitive(sample=_sample)
def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> tuple[Any, Pullback]:
    """Correlate images x (N, C, H, W) with weight (O, C, kh, kw), plus bias (O,) or None."""
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise shape_error(
            "conv2d", "x (N, C, H, W) and weight (O, C, kh, kw)", x=x.shape, weight=weight.shape
        )
    outputs, channels, *kernel = weight.shape
    steps, border, holes = pair(stride), pair(padding), pair(dilation)
    oh, ow = (
        (size + 2 * pad - hole * (k - 1) - 1) // step + 1
        for size, pad, hole, k, step in zip(x.shape[2:], border, holes, kernel, steps, strict=True)
    )
    if oh < 1 or ow < 1:
        raise shape_error(
            "conv2d", "a padded image no smaller than the kernel", x=x.shape, weight=weight.shape
        )
    geometry = Geometry(
        channels, x.shape[2:], (kernel[0], kernel[1]), steps, border, holes, (oh, ow)
    )
    module, depth, biased = array_module(x), geometry.depth, bias is not None
    matrix = weight.transpose(0, 2, 1, 3).reshape(outputs, depth)
    if biased:
        matrix = np.concatenate((matrix, bias[:, None]), axis=1)
    padded = geometry.pad(x.transpose(INNER))
    out = module.empty((oh, outputs, ow, x.shape[0]), dtype=x.dtype)
    for rows, columns, block in geometry.columns(padded, biased):
        np.matmul(matrix, block, out=matrices(out, rows, columns))

    def pullback(g: Any) -> tuple[Any, ...]:
        inner = module.ascontiguousarray(g.transpose(INNER))
        by_bias = None

        def by_weight() -> Any:
            nonlocal by_bias
            total = module.zeros((depth + biased, outputs), dtype=g.dtype)
            for rows, columns, block in geometry.columns(padded, biased):
                parts = np.matmul(block, matrices(inner, rows, columns).swapaxes(1, 2))
                total += parts[0] if len(parts) == 1 else parts.sum(axis=0)
            by_bias = total[depth] if biased else None
            kh, kw = geometry.kernel
            return total[:depth].reshape(kh, channels, kw, outputs).transpose(3, 1, 0, 2)

        return (
            lambda: _by_image(geometry, weight, inner).transpose(OUTER),
            by_weight,
            lambda: inner.sum(axis=(0, 2, 3)) if by_bias is None else by_bias,
        )

    return out.transpose(OUTER), pullback
