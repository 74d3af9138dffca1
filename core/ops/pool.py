"""The largest and the mean of windows, one axis after the other.

The largest of a window is that of its rows' largest, and its sum that of their sums: k by k places
cost 2k operations on whole batches. Rows go first, so that of equal elements the first in row-major
order is taken, as in PyTorch.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Pullback
from holdfast.core.ops.adjoint import transpose
from holdfast.core.ops.columns import computed
from holdfast.core.ops.gather import gather
from holdfast.core.ops.layout import memory_order, ordered, resized
from holdfast.core.ops.windows import Axis, Sizes, adaptive, pooled, spatial
from holdfast.core.primitive import Operation, primitive
from holdfast.core.variable import Variable, raw

Ruled = tuple[Any, Pullback]
Runs = Sequence[tuple[slice, Axis]]
"""The windows along one axis in runs, each of which lies evenly: an ordinary pooling is one run."""


def along(dim: int, part: slice) -> tuple[slice, ...]:
    """Return the index of `part` of axis `dim`."""
    return (*(slice(None),) * dim, part)


def _even(axes: Sequence[Axis]) -> list[Runs]:
    return [[(slice(0, axis.output), axis)] for axis in axes]


# -- the largest ----------------------------------------------------------------------------------


def _largest(x: Any, dim: int, runs: Runs) -> Any:
    """Return the largest of each window along `dim`."""
    y = resized(x, dim, runs[-1][0].stop)
    for at, axis in runs:
        out = y[along(dim, at)]
        met = [axis.met(offset) for offset in range(axis.kernel)]
        everywhere = [part for windows, part in met if windows == slice(0, axis.output)]
        if len(everywhere) == axis.kernel > 1:
            first, second, *_ = everywhere
            np.maximum(x[along(dim, first)], x[along(dim, second)], out=out)
            met = met[2:]
        else:
            out.fill(-np.inf if is_floating(x.dtype) else np.iinfo(x.dtype).min)
        for windows, elements in met:
            place = out[along(dim, windows)]
            np.maximum(place, x[along(dim, elements)], out=place)
    return y


def _to_first(g: Any, x: Any, y: Any, dim: int, runs: Runs) -> Any:
    """Return the cotangent of `x`, whose windows along `dim` have the largest elements `y`.

    It goes to the first of equal ones: `rest` is what none has taken yet.
    """
    whole = resized(x, dim, x.shape[dim])
    if len(runs) == 1 and runs[0][1].covered:  # every element is written once
        axis = runs[0][1]
        places = [axis.met(offset)[1] for offset in range(axis.kernel)]
        *others, last = (whole[along(dim, elements)] for elements in places)
        rest = g
        for elements, place in zip(places, others, strict=False):
            np.multiply(rest, np.equal(x[along(dim, elements)], y), out=place)
            rest = np.subtract(rest, place, out=last if place is others[-1] else None)
        if not others:
            last[...] = g
        return whole
    whole.fill(0)
    for at, axis in runs:
        rest = g[along(dim, at)].copy(order="K")
        top = y[along(dim, at)]
        for offset in range(axis.kernel):
            windows, elements = axis.met(offset)
            left = rest[along(dim, windows)]
            part = left * np.equal(x[along(dim, elements)], top[along(dim, windows)])
            np.subtract(left, part, out=left)
            place = whole[along(dim, elements)]
            np.add(place, part, out=place)
    return whole


def _max(x: Any, runs: Sequence[Runs]) -> Ruled:
    """Return the largest of windows that lie in `runs` along each of the spatial axes of `x`."""
    levels = []
    before = computed(x)
    for dim in range(2, x.ndim)[::-1]:
        y = _largest(before, dim, runs[dim - 2])
        levels.append((dim, before, y))
        before = y
    order = memory_order(before)

    def pullback(g: Any) -> tuple[Any, ...]:
        part = ordered(computed(g), order)
        for dim, of, y in reversed(levels):
            part = _to_first(part, of, y, dim, runs[dim - 2])
        return (part,)

    return before.astype(x.dtype, copy=False), pullback


def _places(x: Any, runs: Sequence[Runs]) -> Any:
    """Return where in its flattened image the largest element of each window of `x` is."""
    module, values = array_module(x), computed(x)
    places = np.broadcast_to(module.arange(prod(x.shape[2:])).reshape(x.shape[2:]), x.shape)
    for dim in range(2, x.ndim)[::-1]:
        size = runs[dim - 2][-1][0].stop
        y, found = resized(values, dim, size), resized(places, dim, size)
        y.fill(0)
        found.fill(-1)
        for at, axis in runs[dim - 2]:
            for offset in range(axis.kernel):
                windows, elements = axis.met(offset)
                at_best, at_place = (
                    part[along(dim, at)][along(dim, windows)] for part in (y, found)
                )
                candidate = values[along(dim, elements)]
                # What is not a number wins, as in PyTorch.
                better = (candidate > at_best) | (at_place < 0) | (candidate != candidate)
                np.copyto(at_best, candidate, where=better)
                np.copyto(at_place, places[along(dim, elements)], where=better)
        values, places = y, found
    return places


def _chosen(x: Any, runs: Sequence[Runs]) -> Any:
    """Return the largest elements of windows of a tensor by gathering them."""
    places = _places(raw(x), runs)
    flat = np.reshape(x, (*x.shape[:2], -1))
    found = gather(flat, places.reshape(*x.shape[:2], -1), dim=2)
    return np.reshape(found, places.shape)


def _sampled(axes: int) -> Any:
    def sample(rng: np.random.Generator) -> tuple[Any, ...]:
        options = [
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": (3, 2, 2)[:axes], "stride": (1, 2, 1)[:axes], "ceil_mode": True},
        ]
        return (rng.normal(size=(2, 3, 6, 4, 5)[: axes + 2]),), options[rng.integers(3)]

    return sample


def _max_pool(axes: int) -> Operation:
    """Return the primitive that pools over `axes` spatial axes."""
    name = f"max_pool{axes}d"

    def rule(
        x: Any,
        *,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> Ruled:
        image = spatial(name, x, axes)
        lying = pooled(name, image, kernel_size, stride, padding, dilation, ceil_mode)
        return _max(x, _even(lying))

    def chosen(
        x: Any,
        *,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> Any:
        image = tuple(x.shape[2:])
        lying = pooled(name, image, kernel_size, stride, padding, dilation, ceil_mode)
        return _chosen(x, _even(lying))

    rule.__doc__ = f"""Return the largest of each window of x (N, C, *image) over {axes} axes."""
    return primitive(sample=_sampled(axes), name=name, second=chosen)(rule)


def max_places(
    name: str,
    x: Any,
    *,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
) -> Any:
    """Return the places that the max pooling of the array x (N, C, *image) takes.

    They are int64 in the shape of the pooled images, each a place in its flattened image.
    """
    image = tuple(x.shape[2:])
    lying = pooled(name, image, kernel_size, stride, padding, dilation, ceil_mode)
    return _places(x, _even(lying))


max_pool1d, max_pool2d, max_pool3d = _max_pool(1), _max_pool(2), _max_pool(3)


# -- the largest of windows whose number is given -------------------------------------------------


def adaptive_runs(image: Sequence[int], output_size: Sequence[int]) -> list[Runs]:
    """Return the windows that cover an image evenly: one run where its size is a multiple."""
    found: list[Runs] = []
    for size, count in zip(image, output_size, strict=True):
        if count and size % count == 0:
            k = size // count
            found.append([(slice(0, count), Axis(size, k, k, 0, 0, 1, count))])
        else:
            starts, stops = adaptive(size, count)
            found.append(
                [
                    (slice(i, i + 1), Axis(size, stop - start, 1, -start, 0, 1, 1))
                    for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
                ]
            )
    return found


def _adaptive_max_pool(axes: int) -> Operation:
    """Return the primitive that pools over `axes` spatial axes into a given size."""
    name = f"adaptive_max_pool{axes}d"

    def rule(x: Any, *, output_size: tuple[int, ...]) -> Ruled:
        return _max(x, adaptive_runs(spatial(name, x, axes), output_size))

    def chosen(x: Any, *, output_size: tuple[int, ...]) -> Any:
        return _chosen(x, adaptive_runs(tuple(x.shape[2:]), output_size))

    def sample(rng: np.random.Generator) -> tuple[Any, ...]:
        size = [(3, 2, 4), (4, 3, 5), (7, 1, 2)][rng.integers(3)]
        return (rng.normal(size=(2, 3, 6, 4, 5)[: axes + 2]),), {"output_size": size[:axes]}

    rule.__doc__ = f"""Return the largest of `output_size` windows that cover {axes} axes of x."""
    return primitive(sample=sample, name=name, second=chosen)(rule)


def adaptive_max_places(x: Any, output_size: tuple[int, ...]) -> Any:
    """Return the places that adaptive max pooling of the array x takes, as `max_places`."""
    return _places(x, adaptive_runs(tuple(x.shape[2:]), output_size))


adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    _adaptive_max_pool(1),
    _adaptive_max_pool(2),
    _adaptive_max_pool(3),
)


# -- the mean -------------------------------------------------------------------------------------


def _sum(x: Any, dim: int, axis: Axis) -> Any:
    """Return the sum of each window along `dim`."""
    y = resized(x, dim, axis.output)
    met = [axis.met(offset) for offset in range(axis.kernel)]
    everywhere = [part for windows, part in met if windows == slice(0, axis.output)]
    if len(everywhere) == axis.kernel > 1:
        first, second, *_ = everywhere
        np.add(x[along(dim, first)], x[along(dim, second)], out=y)
        met = met[2:]
    else:
        y.fill(0)
    for windows, elements in met:
        place = y[along(dim, windows)]
        np.add(place, x[along(dim, elements)], out=place)
    return y


def _to_all(g: Any, dim: int, axis: Axis) -> Any:
    """Return the cotangent of what was summed over windows along `dim`."""
    whole = resized(g, dim, axis.size)
    if not axis.covered:
        whole.fill(0)
    for offset in range(axis.kernel):
        windows, elements = axis.met(offset)
        place = whole[along(dim, elements)]
        if axis.covered:
            place[...] = g
        else:
            np.add(place, g[along(dim, windows)], out=place)
    return whole


def _shares(x: Any, axes: Sequence[Axis], count_include_pad: bool, divisor: int | None) -> Any:
    """Return what each window's sum is multiplied by: one number, or an array of the windows."""
    if divisor is not None:
        return 1 / divisor
    counts = []
    for axis in axes:
        starts = np.arange(axis.output) * axis.stride - axis.before
        stops = np.minimum(starts + axis.kernel, axis.size + count_include_pad * axis.after)
        counts.append(stops - (starts if count_include_pad else np.maximum(starts, 0)))
    if all(np.all(count == axis.kernel) for count, axis in zip(counts, axes, strict=True)):
        return 1 / prod(axis.kernel for axis in axes)
    elements = counts[0]
    for count in counts[1:]:
        elements = elements[..., None] * count
    return array_module(x).asarray(1 / elements, dtype=x.dtype)


def _avg_pool(axes: int) -> Operation:
    """Return the primitive that takes means over `axes` spatial axes; register its transpose."""
    name = f"avg_pool{axes}d"
    back = f"{name}_back"

    def rule(
        x: Any,
        *,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Ruled:
        image = spatial(name, x, axes)
        lying = pooled(name, image, kernel_size, stride, padding, 1, ceil_mode)
        y = computed(x)
        for axis, dim in zip(lying[::-1], range(2, x.ndim)[::-1], strict=True):
            y = _sum(y, dim, axis)
        y *= _shares(y, lying, count_include_pad, divisor_override)
        order = memory_order(y)
        options = {
            "image": image,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
            "divisor_override": divisor_override,
        }

        def pullback(g: Any) -> tuple[Any, ...]:
            lying_alike = g if isinstance(g, Variable) else ordered(g, order)
            return (transpose(back, lying_alike, **options),)

        return y.astype(x.dtype, copy=False), pullback

    def spread(
        x: Any,
        *,
        image: tuple[int, ...],
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Ruled:
        lying = pooled(back, image, kernel_size, stride, padding, 1, ceil_mode)
        part = computed(x)
        part = part * _shares(part, lying, count_include_pad, divisor_override)
        for axis, dim in zip(lying, range(2, x.ndim), strict=True):
            part = _to_all(part, dim, axis)
        options = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
            "divisor_override": divisor_override,
        }
        return part.astype(x.dtype, copy=False), lambda g: (transpose(name, g, **options),)

    def drawn(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arrays, options = _sampled(axes)(rng)
        extras = [{}, {"count_include_pad": False}, {"divisor_override": 3}]
        return arrays, options | extras[rng.integers(3)]

    def drawn_back(rng: np.random.Generator) -> tuple[Any, ...]:
        (x,), options = drawn(rng)
        return (rule(x, **options)[0],), options | {"image": x.shape[2:]}

    rule.__doc__ = f"""Return the mean of each window of x (N, C, *image) over {axes} axes.

    What a window of `ceil_mode` has beyond the border is not counted, the border itself is unless
    `count_include_pad` is False; `divisor_override` takes the place of the count.
    """
    spread.__doc__ = f"""Return the cotangent of images (N, C, *image) that {name} made x of."""
    primitive(sample=drawn_back, name=back, second="linear")(spread)
    return primitive(sample=drawn, name=name, second="linear")(rule)


avg_pool1d, avg_pool2d, avg_pool3d = _avg_pool(1), _avg_pool(2), _avg_pool(3)
