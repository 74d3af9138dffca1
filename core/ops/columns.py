"""Columns: what each window of a convolution meets, in blocks that stay in cache.

The rule: in memory an image batch lies as (rows, C, *inner, N), whatever order its axes are named
in, where rows is the first spatial axis. Only the inner axes are unrolled into columns, so that a
row becomes a matrix (C x inner kernel, inner windows x N). The rows that a window spans are
neighbours, so the columns of the whole window are one matrix as they lie: an ordinary im2col would
copy each as often as the kernel is high. The copies are runs of `width x batch` neighbours, and
products write the rows of the output in place.

Where rows are dilated, or so narrow that the loop over them would cost more than the copies, all
axes are inner ones and there is a single row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, strided
from holdfast.core.ops.precision import accumulator
from holdfast.core.ops.windows import Axis

BLOCK_BYTES = {"numpy": 1024 * 1024, "cupy": 256 * 1024 * 1024}
"""Columns made at once: a usual second-level cache; on a GPU, enough to fill it."""

NARROW = 64
"""Windows of a row, over all images, below which rows are not worked one by one."""

ENOUGH = 512
"""Columns from which a product runs at full speed: a block has at least so many, if there are."""

SINGLE = Axis(size=1, kernel=1, stride=1, before=0, after=0, dilation=1, output=1)


def computed(array: Any) -> Any:
    """Return `array` in the dtype to compute in: 16-bit floats in float32, others as they are."""
    return array.astype(accumulator(array.dtype), copy=False)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the windows of a convolution lie on its images, and how these lie in memory."""

    groups: int
    channels: int
    batch: int
    rows: Axis
    inner: tuple[Axis, ...]
    merged: bool
    """Whether all spatial axes are inner ones."""

    @classmethod
    def over(cls, axes: tuple[Axis, ...], groups: int, channels: int, batch: int) -> "Geometry":
        """Return the geometry of a convolution over spatial `axes`."""
        windows = batch * prod(axis.output for axis in axes[1:])
        if len(axes) == 1 or axes[0].dilation > 1 or windows < NARROW:
            return cls(groups, channels, batch, SINGLE, axes, merged=True)
        return cls(groups, channels, batch, axes[0], axes[1:], merged=False)

    @classmethod
    def of_windows(cls, axes: tuple[Axis, ...], channels: int, batch: int) -> "Geometry":
        """Return the geometry in which the columns of all windows are one array."""
        return cls(1, channels, batch, SINGLE, axes, merged=True)

    # -- sizes --------------------------------------------------------------------------------

    @property
    def taps(self) -> int:
        """Places in the inner kernel."""
        return prod(axis.kernel for axis in self.inner)

    @property
    def depth(self) -> int:
        """Elements of one window within a group: rows of its matrix of columns."""
        return self.rows.kernel * self.channels // self.groups * self.taps

    @property
    def rest(self) -> int:
        """Windows over the inner axes after the first, times images."""
        return self.batch * prod(axis.output for axis in self.inner[1:])

    @property
    def enough(self) -> int:
        """Windows of the first inner axis that make a product run at full speed."""
        return -(-ENOUGH // self.rest)

    @property
    def pointwise(self) -> bool:
        """Whether the images are their own columns."""
        alone = self.groups == 1 or self.rows.kernel == 1
        return alone and all(axis.kernel == axis.stride == 1 for axis in self.inner)

    def matrix(self, weight: Any) -> Any:
        """Return the kernel (O, C / groups, *kernel) as (groups, O / groups, depth)."""
        parts = self.split(weight).transpose(0, 1, 3, 2, 4)
        return parts.reshape(self.groups, -1, self.depth)

    def split(self, weight: Any) -> Any:
        """View the kernel as (groups, O / groups, C / groups, kernel rows, inner kernel)."""
        members = self.channels // self.groups
        return weight.reshape(self.groups, -1, members, self.rows.kernel, self.taps)

    def lines(self, output: Any, rows: slice, first: slice) -> Any:
        """View a block of (rows, O, *inner, N) as (rows, groups, O / groups, columns)."""
        outputs = output.shape[1] // self.groups
        apart = output.reshape(-1, self.groups, outputs, self.inner[0].output, self.rest)
        part = apart[rows, :, :, first]
        return part.reshape(*part.shape[:3], -1)

    # -- order of memory ----------------------------------------------------------------------

    def arranged(self, x: Any) -> Any:
        """View (N, C, *spatial) as (rows, C, *inner, N)."""
        if self.merged:
            return x.transpose(*range(1, x.ndim), 0)[None]
        return x.transpose(2, 1, *range(3, x.ndim), 0)

    def restored(self, inner: Any) -> Any:
        """View (rows, C, *inner, N) as (N, C, *spatial)."""
        if self.merged:
            return inner[0].transpose(inner.ndim - 2, *range(inner.ndim - 2))
        return inner.transpose(inner.ndim - 1, 1, 0, *range(2, inner.ndim - 1))

    def pad(self, inner: Any) -> Any:
        """Return images (rows, C, *inner, N) within borders of zeros, contiguous."""
        module, axes = array_module(inner), (self.rows, *self.inner)
        if all(axis.padded == axis.size for axis in axes):
            return module.ascontiguousarray(inner)
        shape = [axis.padded for axis in axes]
        shape.insert(1, self.channels)
        padded = module.zeros((*shape, self.batch), dtype=inner.dtype)
        inside = [slice(axis.before, axis.before + axis.size) for axis in axes]
        inside.insert(1, slice(None))
        padded[tuple(inside)] = inner
        return padded

    # -- the columns --------------------------------------------------------------------------

    def blocks(self, padded: Any) -> Iterator[tuple[slice, slice, Any]]:
        """Make the columns of each block of windows (rows, first inner axis), all in one buffer.

        They are (rows, groups, depth, columns), a view in which a row of the image is shared by all
        windows that span it; the depth is in the order (kernel rows, C, inner kernel).
        """
        if not self.batch:
            return
        module, rows, first = array_module(padded), self.rows, self.inner[0]
        item, members = padded.itemsize, self.channels // self.groups
        if self.pointwise:
            columns = first.output * self.rest
            line = columns * item
            shape = rows.output, self.groups, self.depth, columns
            steps = rows.stride * self.channels * line, members * line, line, item
            yield slice(0, rows.output), slice(0, first.output), strided(padded, shape, steps)
            return
        budget = BLOCK_BYTES[module.__name__] // (self.channels * self.taps * self.rest * item)
        spanned = (rows.output - 1) * rows.stride + rows.kernel
        wide = min(first.output, max(budget // min(spanned, 2 * rows.kernel), self.enough))
        room = max(budget // wide, 2 * rows.kernel)
        tall = max(1, min(rows.output, (room - rows.kernel) // rows.stride + 1))
        height = (tall - 1) * rows.stride + rows.kernel
        buffer = module.empty(height * self.channels * self.taps * wide * self.rest, padded.dtype)
        windows = self.unrolled(padded)
        kernel = (slice(None),) * (1 + len(self.inner))
        for x in range(0, first.output, wide):
            stop = min(x + wide, first.output)
            columns = (stop - x) * self.rest
            for y in range(0, rows.output, tall):
                end = min(y + tall, rows.output)
                top, bottom = y * rows.stride, (end - 1) * rows.stride + rows.kernel
                part = windows[(slice(None), slice(top, bottom), *kernel, slice(x, stop))]
                block = buffer[: part.size].reshape(part.shape)
                block[...] = part
                line = columns * item
                row = members * self.taps * line
                shape = end - y, self.groups, self.depth, columns
                steps = rows.stride * row, (bottom - top) * row, line, item
                yield slice(y, end), slice(x, stop), strided(block, shape, steps)

    def unrolled(self, padded: Any) -> Any:
        """View padded images as (groups, rows, C / groups, *inner kernel, *inner windows, N)."""
        (row, channel, *steps, image), inner = padded.strides, self.inner
        members = self.channels // self.groups
        return strided(
            padded,
            (
                *(self.groups, self.rows.padded, members),
                *(axis.kernel for axis in inner),
                *(axis.output for axis in inner),
                self.batch,
            ),
            (
                *(members * channel, row, channel),
                *(step * axis.dilation for step, axis in zip(steps, inner, strict=True)),
                *(step * axis.stride for step, axis in zip(steps, inner, strict=True)),
                image,
            ),
        )

    def places(self, columns: Any, first: slice) -> list[tuple[tuple[slice, ...], Any]]:
        """Return where each place of the inner kernel lies in a row of the image, and its columns.

        A row of the image is (C, *inner, N); `columns` is (C, *inner kernel, *inner windows, N), of
        which `first` says what windows of the first inner axis they are.
        """
        axes = (self.inner[0].part(first.start, first.stop), *self.inner[1:])
        found = []
        for offsets in product(*(range(axis.kernel) for axis in axes)):
            met = [axis.met(offset) for axis, offset in zip(axes, offsets, strict=True)]
            windows = columns[(slice(None), *offsets, *(part for part, _ in met))]
            found.append(((slice(None), *(elements for _, elements in met)), windows))
        return found


def correlate(geometry: Geometry, weight: Any, padded: Any) -> Any:
    """Return the convolution (rows, O, *inner, N) of padded images with the kernel `weight`."""
    sizes = [axis.output for axis in (geometry.rows, *geometry.inner)]
    sizes.insert(1, weight.shape[0])
    out = array_module(padded).empty((*sizes, geometry.batch), dtype=padded.dtype)
    matrix = geometry.matrix(weight)
    for rows, first, block in geometry.blocks(padded):
        np.matmul(matrix, block, out=geometry.lines(out, rows, first))
    return out


def by_weight(geometry: Geometry, padded: Any, g: Any) -> Any:
    """Return the gradient (O, C / groups, *kernel) of the kernel; `g` is (rows, O, *inner, N)."""
    module, groups, depth = array_module(g), geometry.groups, geometry.depth
    outputs = g.shape[1] // groups
    total = module.zeros((groups, depth, outputs), dtype=g.dtype)
    at_once = max(1, BLOCK_BYTES[module.__name__] // total.nbytes)
    for rows, first, block in geometry.blocks(padded):
        part = geometry.lines(g, rows, first).swapaxes(2, 3)
        for y in range(0, len(part), at_once):
            products = np.matmul(block[y : y + at_once], part[y : y + at_once])
            total += products[0] if len(products) == 1 else products.sum(axis=0)
    members = geometry.channels // groups
    kernel = [axis.kernel for axis in (geometry.rows, *geometry.inner)]
    apart = total.reshape(groups, kernel[0], members, geometry.taps, outputs)
    if geometry.merged:
        kernel = kernel[1:]
    return apart.transpose(0, 4, 2, 1, 3).reshape(groups * outputs, members, *kernel)


def by_image(geometry: Geometry, weight: Any, g: Any) -> Any:
    """Return the gradient (rows, C, *inner, N) of the images; `g` is (rows, O, *inner, N).

    Row `r` of the image was met by the rows `y` of the output for which r is y * stride + i -
    before for a row i of the kernel. They are neighbours in `g`, so that one product sums over them
    and the outputs; what is left is to add the places of the inner kernel up.
    """
    module, rows, first = array_module(g), geometry.rows, geometry.inner[0]
    groups, channels, taps, rest = geometry.groups, geometry.channels, geometry.taps, geometry.rest
    inner = [axis.size for axis in geometry.inner]
    into = module.zeros((rows.size, channels, *inner, geometry.batch), dtype=g.dtype)
    if not geometry.batch:
        return into
    split = geometry.split(weight)
    turned: dict[tuple[int, ...], Any] = {}
    met = []
    for r in range(rows.size):
        reach = r + rows.before
        start = max(0, -((rows.kernel - 1 - reach) // rows.stride))
        stop = min(reach // rows.stride + 1, rows.output)
        offsets = tuple(reach - y * rows.stride for y in range(start, stop))
        if (
            offsets and offsets not in turned
        ):  # (groups, C / groups x inner kernel, rows x O/groups)
            part = split[:, :, :, list(offsets)].transpose(0, 2, 4, 3, 1)
            turned[offsets] = part.reshape(groups, channels // groups * taps, -1)
        if offsets:
            met.append((into[r], slice(start, stop), turned[offsets]))
    budget = BLOCK_BYTES[module.__name__] // (channels * taps * rest * g.itemsize)
    wide = min(first.output, max(budget, geometry.enough))
    kernel = [axis.kernel for axis in geometry.inner]
    others = [axis.output for axis in geometry.inner[1:]]
    buffer = module.empty(channels * taps * wide * rest, dtype=g.dtype)
    for x in range(0, first.output, wide):
        span = slice(x, min(x + wide, first.output))
        lines = geometry.lines(g, slice(None), span).swapaxes(0, 1)
        columns = lines.shape[3]
        block = buffer[: channels * taps * columns].reshape(groups, -1, columns)
        apart = block.reshape(channels, *kernel, span.stop - span.start, *others, geometry.batch)
        places = geometry.places(apart, span)
        for row, outputs, matrix in met:
            np.matmul(matrix, lines[:, outputs].reshape(groups, -1, columns), out=block)
            for place, part in places:
                target = row[place]
                np.add(target, part, out=target)
    return into
