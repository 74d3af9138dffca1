"""Windows: where a kernel lies along each axis of an image, whatever is made of what it meets.

The rule: a border is never read. An offset within the kernel meets some of the elements, and the
windows that have one there: two slices of equal length, on which whole batches are worked at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.core.errors import shape_error
from holdfast.errors import UsageError

Sizes = int | Sequence[int]
"""One number for every spatial axis, or one for each."""


def sizes(name: str, value: Sizes, axes: int) -> tuple[int, ...]:
    """Return `value` for each of `axes` spatial axes; `name` is the argument's, for the error."""
    given = (value,) if isinstance(value, int) else tuple(value)
    if len(given) == 1:
        given *= axes
    if len(given) != axes:
        raise UsageError(
            f"{name}={value!r}: expected one number, or {axes}, one for each spatial axis"
        )
    return given


@dataclass(frozen=True, slots=True)
class Axis:
    """How windows lie along one axis: the first begins `before` elements ahead of the image."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    output: int

    @property
    def padded(self) -> int:
        """The size of the axis with its borders."""
        return self.before + self.size + self.after

    @property
    def covered(self) -> bool:
        """Whether each element is in exactly one window."""
        return (
            self.kernel == self.stride
            and self.dilation == 1
            and not self.before
            and self.output * self.stride == self.size
        )

    def met(self, offset: int) -> tuple[slice, slice]:
        """Return the windows that have an element at `offset`, and these elements."""
        shift = offset * self.dilation - self.before
        first = max(0, -(shift // self.stride))
        last = min(self.output, (self.size - 1 - shift) // self.stride + 1)
        if last <= first:
            return slice(0, 0), slice(0, 0)
        start = first * self.stride + shift
        return slice(first, last), slice(
            start, start + (last - 1 - first) * self.stride + 1, self.stride
        )

    def part(self, start: int, stop: int) -> "Axis":
        """Return the windows from `start` to `stop` alone, on the same image."""
        shift = start * self.stride
        after = self.after + (self.output - stop) * self.stride
        return Axis(
            self.size, self.kernel, self.stride, self.before - shift, after, self.dilation,
            stop - start,
        )  # fmt: skip


def convolved(
    name: str,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
) -> tuple[Axis, ...]:
    """Return the axes of a convolution over `image`, as PyTorch's conv1d, 2d and 3d have them."""
    steps, holes = sizes("stride", stride, len(image)), sizes("dilation", dilation, len(image))
    if min(steps) < 1 or min(holes) < 1:
        raise UsageError(f"{name}: stride and dilation are at least 1; found {stride}, {dilation}")
    axes = []
    for size, k, step, hole, (before, after) in zip(
        image, kernel, steps, holes, borders(name, padding, kernel, steps, holes), strict=True
    ):
        output = (before + size + after - hole * (k - 1) - 1) // step + 1
        axes.append(Axis(size, k, step, before, after, hole, output))
    if any(axis.output < 1 for axis in axes):
        raise shape_error(
            name,
            "a padded image no smaller than the kernel",
            image=tuple(image),
            kernel=tuple(kernel),
        )
    return tuple(axes)


def borders(
    name: str,
    padding: Sizes | str,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """Return the elements added before and after each axis."""
    if not isinstance(padding, str):
        given = sizes("padding", padding, len(kernel))
        if min(given) < 0:
            raise UsageError(f"{name}: padding is at least 0; found {padding}")
        return [(p, p) for p in given]
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding != "same":
        raise UsageError(f"{name}: padding is numbers, 'same' or 'valid'; found {padding!r}")
    if max(stride) > 1:
        raise UsageError(f"{name}: padding='same' needs a stride of 1; found {tuple(stride)}")
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [(span // 2, span - span // 2) for span in spans]


def transposed(
    name: str,
    output: Sequence[int],
    kernel: Sequence[int],
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
) -> tuple[Axis, ...]:
    """Return the axes of the convolution whose transpose makes images out of `output`."""
    count = len(output)
    axes = []
    for size, k, step, border, extra, hole in zip(
        output,
        kernel,
        sizes("stride", stride, count),
        sizes("padding", padding, count),
        sizes("output_padding", output_padding, count),
        sizes("dilation", dilation, count),
        strict=True,
    ):
        if min(step, hole) < 1 or min(border, extra) < 0:
            raise UsageError(
                f"{name}: stride and dilation are at least 1, paddings at least 0; found "
                f"{stride}, {dilation}, {padding}, {output_padding}"
            )
        if extra >= max(step, hole):
            raise UsageError(
                f"{name}: output_padding is smaller than stride or dilation; found {extra}, "
                f"{step} and {hole}"
            )
        image = (size - 1) * step - 2 * border + hole * (k - 1) + extra + 1
        axes.append(Axis(image, k, step, border, border, hole, size))
    if any(axis.size < 1 for axis in axes):
        raise shape_error(
            name, "an image left within the padding", x=tuple(output), kernel=tuple(kernel)
        )
    return tuple(axes)


def pooled(
    name: str,
    image: Sequence[int],
    kernel: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> tuple[Axis, ...]:
    """Return the axes of a pooling; with `ceil_mode` the last window may leave the image.

    It begins within the image or its left border, as in PyTorch.
    """
    count = len(image)
    widths = sizes("kernel_size", kernel, count)
    axes = []
    for size, k, step, border, hole in zip(
        image,
        widths,
        widths if stride is None else sizes("stride", stride, count),
        sizes("padding", padding, count),
        sizes("dilation", dilation, count),
        strict=True,
    ):
        if min(k, step, hole) < 1:
            raise UsageError(f"{name}: kernel_size, stride and dilation are at least 1")
        if not 0 <= 2 * border <= k:
            raise UsageError(
                f"{name}: padding is at most half of kernel_size; found {border} for {k}"
            )
        room = size + 2 * border - hole * (k - 1) - 1
        output = -(-room // step) + 1 if ceil_mode else room // step + 1
        if ceil_mode and (output - 1) * step >= size + border:
            output -= 1
        axes.append(Axis(size, k, step, border, border, hole, output))
    if any(axis.output < 1 for axis in axes):
        raise shape_error(
            name, "images no smaller than the kernel", image=tuple(image), kernel=widths
        )
    return tuple(axes)


def adaptive(size: int, count: int) -> tuple[list[int], list[int]]:
    """Return where each of `count` windows that cover an axis evenly starts, and where it stops."""
    starts = [i * size // count for i in range(count)]
    return starts, [-(-(i + 1) * size // count) for i in range(count)]


def spatial(name: str, x: Any, axes: int) -> tuple[int, ...]:
    """Return the spatial sizes of `x` (N, C, and `axes` more)."""
    if x.ndim != axes + 2:
        raise shape_error(name, f"x (N, C, {', '.join('DHW'[-axes:])})", x=x.shape)
    return tuple(x.shape[2:])
