"""Convolution: blocks of columns that stay in cache, and one matrix product for each.

The rule: inside, the batch is the innermost axis of memory (C, H, W, N). A row of columns is then
a run of `width x batch` neighbours: it is copied, added back and multiplied at full speed, a
product's result lands in place, and pooling that follows moves along contiguous runs. What is
returned is a view in PyTorch's order (N, C, H, W). A few images are taken one by one instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, strided
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.primitive import primitive

BLOCK_BYTES = 512 * 1024
"""Columns made at once: half of a usual second-level cache."""
SMALL_BATCH = 8
"""Batches below this many images are taken image by image."""

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """Return `value` for both spatial axes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the windows of a convolution lie on its padded input."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    output: tuple[int, int]

    @property
    def depth(self) -> int:
        """Elements of one window: rows of the matrix of columns."""
        return self.channels * self.kernel[0] * self.kernel[1]

    def blocks(self, batch: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
        """Cut the output into blocks (rows, columns) whose matrix of columns stays in cache."""
        height, width = self.output
        room = max(1, BLOCK_BYTES // (self.depth * batch * itemsize))
        tall, wide = max(1, room // width), min(width, room)
        for y in range(0, height, tall):
            for x in range(0, width, wide):
                yield slice(y, min(y + tall, height)), slice(x, min(x + wide, width))

    def windows(self, image: Any) -> Any:
        """View the padded `image` (C, H, W, N) as its windows (C, kh, kw, oh, ow, N)."""
        c, h, w, n = image.strides
        (sy, sx), (dy, dx) = self.stride, self.dilation
        shape = (self.channels, *self.kernel, *self.output, image.shape[3])
        return strided(image, shape, (c, dy * h, dx * w, sy * h, sx * w, n))


def _forward(geometry: Geometry, image: Any, matrix: Any, out: Any) -> None:
    """Write the products of `matrix` (O, depth or depth + 1 with a bias) into `out`."""
    for rows, columns, block in _columns(geometry, image, matrix.shape[1] > geometry.depth):
        target = out[:, rows, columns].reshape(out.shape[0], -1)
        np.matmul(matrix, block, out=target)


def _columns(geometry: Geometry, image: Any, ones: bool) -> Iterator[tuple[slice, slice, Any]]:
    """Make the columns of each block in one buffer; with `ones`, a last row for the bias."""
    module, batch, depth = array_module(image), image.shape[3], geometry.depth
    windows = geometry.windows(image)
    buffer = None
    for rows, columns in geometry.blocks(batch, image.itemsize):
        part = windows[:, :, :, rows, columns]
        size = part.size // depth
        if buffer is None:  # the first block is the largest
            buffer = module.ones((depth + ones, size), dtype=image.dtype)
        block = buffer if size == buffer.shape[1] else buffer[:, :size]
        block[:depth].reshape(part.shape)[...] = part
        yield rows, columns, block


def _by_matrix(geometry: Geometry, image: Any, g: Any, into: Any) -> None:
    """Add the gradient of the matrix (with the bias as last column) to `into`."""
    for rows, columns, block in _columns(geometry, image, into.shape[1] > geometry.depth):
        into += np.matmul(g[:, rows, columns].reshape(g.shape[0], -1), block.T)


def _by_image(geometry: Geometry, matrix: Any, g: Any, into: Any) -> None:
    """Add the gradient of the padded image (C, H, W, N) to `into`."""
    (kh, kw), (sy, sx), (dy, dx) = geometry.kernel, geometry.stride, geometry.dilation
    batch, buffer = into.shape[3], None
    for rows, columns in geometry.blocks(batch, into.itemsize):
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        size = tall * wide * batch
        if buffer is None:
            buffer = array_module(g).empty((geometry.depth, size), dtype=into.dtype)
        block = buffer if size == buffer.shape[1] else buffer[:, :size]
        np.matmul(matrix.T, g[:, rows, columns].reshape(g.shape[0], -1), out=block)
        parts = block.reshape(geometry.channels, kh, kw, tall, wide, batch)
        for j in range(kw):
            left = columns.start * sx + j * dx
            across = slice(left, left + (wide - 1) * sx + 1, sx)
            if tall == 1:  # then the rows of the kernel meet different rows of the image
                top = rows.start * sy
                into[:, top : top + (kh - 1) * dy + 1 : dy, across] += parts[:, :, j, 0]
                continue
            for i in range(kh):
                top = rows.start * sy + i * dy
                into[:, top : top + (tall - 1) * sy + 1 : sy, across] += parts[:, i, j]


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
    module = array_module(x)
    (batch, channels, height, width), outputs = x.shape, weight.shape[0]
    kernel, steps, holes = weight.shape[2:], pair(stride), pair(dilation)
    top, left = pair(padding)
    oh, ow = (
        (size + 2 * pad - hole * (k - 1) - 1) // step + 1
        for size, pad, hole, k, step in zip(
            (height, width), (top, left), holes, kernel, steps, strict=True
        )
    )
    if oh < 1 or ow < 1:
        raise shape_error(
            "conv2d", "a padded image no smaller than the kernel", x=x.shape, weight=weight.shape
        )
    geometry = Geometry(channels, kernel, steps, holes, (oh, ow))
    matrix = weight.reshape(outputs, -1)
    if bias is not None:
        matrix = np.concatenate((matrix, bias[:, None]), axis=1)
    padded = (channels, height + 2 * top, width + 2 * left)
    within = (slice(None), slice(top, top + height), slice(left, left + width))
    whole = batch >= SMALL_BATCH

    def pad(images: Any) -> Any:
        """Return (C, H, W, n) of images (n, C, H, W), with a border of zeros, contiguous."""
        inner = images.transpose(1, 2, 3, 0)
        if not (top or left):
            return module.ascontiguousarray(inner)
        image = module.zeros((*padded, images.shape[0]), dtype=x.dtype)
        image[within] = inner
        return image

    def apart(array: Any) -> list[Any]:
        """Return the arrays (n, ...) to take in one go: the whole batch, or each image."""
        return [array] if whole else [array[i : i + 1] for i in range(batch)]

    images = [pad(part) for part in apart(x)]
    out = module.empty((outputs, oh, ow, batch) if whole else (batch, outputs, oh, ow), x.dtype)
    value = out.transpose(3, 0, 1, 2) if whole else out
    for image, part in zip(images, apart(value), strict=True):
        _forward(geometry, image, matrix, part.transpose(1, 2, 3, 0))

    def pullback(g: Any) -> tuple[Any, ...]:
        parts = [module.ascontiguousarray(p.transpose(1, 2, 3, 0)) for p in apart(g)]

        def by_x() -> Any:
            flat = matrix[:, : geometry.depth]
            grads = []
            for part in parts:
                image = module.zeros((*padded, part.shape[3]), dtype=g.dtype)
                _by_image(geometry, flat, part, image)
                grads.append(image[within].transpose(3, 0, 1, 2))
            return grads[0] if len(grads) == 1 else np.concatenate(grads)

        by_bias = None

        def by_weight() -> Any:
            nonlocal by_bias
            total = module.zeros(matrix.shape, dtype=g.dtype)
            for image, part in zip(images, parts, strict=True):
                _by_matrix(geometry, image, part, total)
            if bias is not None:
                by_bias = total[:, -1]
            return total[:, : geometry.depth].reshape(weight.shape)

        def by_bias_alone() -> Any:
            return by_bias if by_bias is not None else g.sum(axis=(0, 2, 3))

        return by_x, by_weight, by_bias_alone if bias is not None else None

    return value, pullback
