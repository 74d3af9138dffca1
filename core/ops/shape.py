"""Primitives that rearrange elements without choosing among them: views, axes, joining, padding."""

from itertools import pairwise
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, strided
from holdfast.core.backward import Pullback
from holdfast.core.ops.adjoint import transpose
from holdfast.core.primitive import primitive

Ruled = tuple[Any, Pullback]


def along(dim: int, at: Any) -> tuple[Any, ...]:
    """Return the index that applies `at` to axis `dim`, counted from the front."""
    return (slice(None),) * dim + (at,)


# -- views ----------------------------------------------------------------------------------------


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"shape": (2, 6)}), second="linear")
def reshape(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """Return the elements in another shape: a view where the memory allows it, else a copy."""
    before = x.shape
    return x.reshape(shape), lambda g: (g.reshape(before),)


@primitive(sample=lambda rng: ((rng.normal(size=(2, 3, 4)),), {"dims": (2, 0, 1)}), second="linear")
def permute(x: Any, *, dims: tuple[int, ...]) -> Ruled:
    """Return a view with the axes in another order."""
    return x.transpose(dims), lambda g: (g.transpose(inverse(dims)),)


def inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return the order of axes that undoes `dims`."""
    back = [0] * len(dims)
    for i, dim in enumerate(dims):
        back[dim] = i
    return tuple(back)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 1)),), {"shape": (2, 3, 4)}), second="linear")
def broadcast(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """Return a view that repeats axes of size 1, and adds axes in front."""
    return np.broadcast_to(x, shape), lambda g: (g,)


@primitive(sample=lambda rng: ((rng.normal(size=(3, 4)),), {"dims": (1,)}), second="linear")
def flip(x: Any, *, dims: tuple[int, ...]) -> Ruled:
    """Return a view with the order along `dims` reversed."""
    turned = {dim % x.ndim for dim in dims}
    at = tuple(slice(None, None, -1 if i in turned else None) for i in range(x.ndim))
    return x[at], lambda g: (g[at],)


def _diagonal(rng: np.random.Generator) -> tuple[Any, ...]:
    shape, options = rng.choice([0, 1, 2]), {"offset": int(rng.integers(-2, 3))}
    sizes = [(4, 4), (3, 5, 2), (2, 3, 4, 5)][shape]
    return (rng.normal(size=sizes),), {**options, "dim1": 0, "dim2": -1}


@primitive(sample=_diagonal, second="linear")
def diagonal(x: Any, *, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Ruled:
    """Return a view of the diagonals of the matrices along `dim1` and `dim2`, as the last axis."""
    view = np.moveaxis(x, (dim1, dim2), (-2, -1))[..., max(-offset, 0) :, max(offset, 0) :]
    *batch, down, right = view.strides
    length = min(view.shape[-2:])
    value = strided(view, (*view.shape[:-2], length), (*batch, down + right))
    options = {"offset": offset, "dim1": dim1, "dim2": dim2}
    # Matrices need not be square, and a diagonal does not tell: the transpose is told their sizes.
    sizes = (x.shape[dim1], x.shape[dim2])
    return value, lambda g: (transpose("diag_embed", g, sizes=sizes, **options),)


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(2, 3)),),
        {"offset": int(rng.integers(-2, 3)), "dim1": 0, "dim2": 2},
    ),
    second="linear",
)
def diag_embed(
    x: Any,
    *,
    offset: int = 0,
    dim1: int = -2,
    dim2: int = -1,
    sizes: tuple[int, int] | None = None,
) -> Ruled:
    """Return matrices along the new axes `dim1` and `dim2` that hold the last axis of `x` on a
    diagonal and zeros elsewhere; square ones that are just large enough unless `sizes` are given.
    """
    side = x.shape[-1] + abs(offset)
    rows, columns = sizes or (side, side)
    module = array_module(x)
    whole = module.zeros((*x.shape[:-1], rows, columns), dtype=x.dtype)
    steps = module.arange(x.shape[-1])
    whole[..., steps + max(-offset, 0), steps + max(offset, 0)] = x
    options = {"offset": offset, "dim1": dim1, "dim2": dim2}
    value = np.moveaxis(whole, (-2, -1), (dim1, dim2))
    return value, lambda g: (transpose("diagonal", g, **options),)


@primitive(
    sample=lambda rng: ((rng.normal(size=(2, 7, 3)),), {"dim": 1, "size": 3, "step": 2}),
    second="linear",
)
def unfold(x: Any, *, dim: int, size: int, step: int) -> Ruled:
    """Return a view of the windows of `size` elements, `step` apart, along `dim`.

    The windows are counted by `dim`, their elements by a new last axis.
    """
    if not 0 < size <= x.shape[dim] or step < 1:
        raise ValueError(f"windows of {size} elements, {step} apart, along axis {dim}")
    shape, steps = [*x.shape, size], [*x.strides, x.strides[dim]]
    shape[dim], steps[dim] = (shape[dim] - size) // step + 1, steps[dim] * step
    before = x.shape[dim]
    return (
        strided(x, shape, steps),
        lambda g: (transpose("overlap_add", g, dim=dim, size=before, step=step),),
    )


@primitive(
    sample=lambda rng: ((rng.normal(size=(2, 3, 4, 3)),), {"dim": 1, "size": 8, "step": 2}),
    second="linear",
)
def overlap_add(x: Any, *, dim: int, size: int, step: int) -> Ruled:
    """Add windows, whose elements are the last axis of `x`, up where they lie along `dim`, which
    gets `size` elements: the transpose of `unfold`."""
    count, length = x.shape[dim], x.shape[-1]
    shape = list(x.shape[:-1])
    shape[dim] = size
    whole = array_module(x).zeros(tuple(shape), dtype=x.dtype)
    for i in range(length):
        whole[along(dim, slice(i, i + (count - 1) * step + 1, step))] += x[..., i]
    return whole, lambda g: (transpose("unfold", g, dim=dim, size=length, step=step),)


# -- in and out of parts --------------------------------------------------------------------------


def _three(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(2, 3)), rng.normal(size=(1, 3)), rng.normal(size=(3, 3))), {"dim": 0}


@primitive(sample=_three, promote=True, second="linear")
def concatenate(*parts: Any, dim: int = 0) -> Ruled:
    """Join along an existing axis."""
    value = np.concatenate(parts, axis=dim)
    axis, sizes = dim % value.ndim, [part.shape[dim] for part in parts]
    return value, lambda g: tuple(g[along(axis, piece)] for piece in pieces(sizes))


def pieces(sizes: list[int]) -> list[slice]:
    """Return the slices of these sizes that lie end to end."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]


@primitive(
    sample=lambda rng: ((rng.normal(size=(2, 6)),), {"sizes": [1, 3, 2], "dim": 1}), second="linear"
)
def split(x: Any, *, sizes: list[int], dim: int = 0) -> Ruled:
    """Return views of the parts that have these sizes along `dim`."""
    axis = dim % x.ndim
    parts = tuple(x[along(axis, piece)] for piece in pieces(sizes))

    def pullback(g: Any) -> tuple[Any, ...]:
        return (transpose("concatenate", *g, dim=dim),)

    return parts, pullback


def _twins(rng: np.random.Generator) -> tuple[Any, ...]:
    return (rng.normal(size=(2, 3)), rng.normal(size=(2, 3))), {"dim": 1}


@primitive(sample=_twins, promote=True, second="linear")
def stack(*parts: Any, dim: int = 0) -> Ruled:
    """Join along a new axis."""
    value = np.stack(parts, axis=dim)
    axis, count = dim % value.ndim, len(parts)
    return value, lambda g: tuple(g[along(axis, i)] for i in range(count))


@primitive(sample=lambda rng: ((rng.normal(size=(2, 3, 4)),), {"dim": 1}), second="linear")
def unbind(x: Any, *, dim: int = 0) -> Ruled:
    """Return views of what lies at each place along `dim`, without that axis."""
    axis = dim % x.ndim
    # An index for every element would give scalars of a vector: `...` makes them views too.
    parts = tuple(x[(*along(axis, i), ...)] for i in range(x.shape[axis]))
    return parts, lambda g: (transpose("stack", *g, dim=dim),)


# -- shifted, cut and padded ----------------------------------------------------------------------


@primitive(
    sample=lambda rng: ((rng.normal(size=(3, 4)),), {"shifts": (1, -2), "dims": (0, 1)}),
    second="linear",
)
def roll(x: Any, *, shifts: tuple[int, ...], dims: tuple[int, ...] | None = None) -> Ruled:
    """Shift along `dims`, or along all elements in a row if None; what leaves returns in front."""
    back = tuple(-shift for shift in shifts)
    value = np.roll(x, shifts if dims else sum(shifts), axis=dims)
    return value, lambda g: (transpose("roll", g, shifts=back, dims=dims),)


@primitive(
    sample=lambda rng: ((rng.normal(size=(2, 4, 3)),), {"diagonal": int(rng.integers(-2, 3))}),
    second="linear",
)
def tril(x: Any, *, diagonal: int = 0) -> Ruled:
    """Set what is above a diagonal of each matrix to zero."""
    return np.tril(x, diagonal), lambda g: (transpose("tril", g, diagonal=diagonal),)


@primitive(
    sample=lambda rng: ((rng.normal(size=(2, 4, 3)),), {"diagonal": int(rng.integers(-2, 3))}),
    second="linear",
)
def triu(x: Any, *, diagonal: int = 0) -> Ruled:
    """Set what is below a diagonal of each matrix to zero."""
    return np.triu(x, diagonal), lambda g: (transpose("triu", g, diagonal=diagonal),)


Widths = tuple[tuple[int, int], ...]


@primitive(
    sample=lambda rng: (
        (rng.normal(size=(3, 4)),),
        {"widths": ((1, 2), (-1, 3)), "value": 0.5},
    ),
    second="linear",
)
def pad(x: Any, *, widths: Widths, value: float = 0) -> Ruled:
    """Add `value` before and after each axis; a negative width cuts elements off."""
    shape = tuple(size + sum(width) for size, width in zip(x.shape, widths, strict=True))
    if min(shape, default=0) < 0:
        raise ValueError(f"widths {widths} cut off more than there is")
    kept, place = [], []
    for size, (before, after) in zip(x.shape, widths, strict=True):
        kept.append(slice(max(-before, 0), size - max(-after, 0)))
        place.append(slice(max(before, 0), size + before + min(after, 0)))
    inner = x[tuple(kept)]
    back = tuple((-before, -after) for before, after in widths)

    def pullback(g: Any) -> tuple[Any, ...]:
        return (transpose("pad", g, widths=back),)

    if all(before <= 0 and after <= 0 for before, after in widths):
        return inner, pullback
    module = array_module(x)
    whole = module.full(shape, value, dtype=x.dtype) if value else module.zeros(shape, x.dtype)
    whole[tuple(place)] = inner
    return whole, pullback


MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""PyTorch's names of borders, and NumPy's."""


def _border(rng: np.random.Generator) -> tuple[Any, ...]:
    mode = str(rng.choice(list(MODES)))
    return (rng.normal(size=(3, 4, 5)),), {"widths": ((0, 0), (2, 1), (0, 4)), "mode": mode}


def _border_of_parts(x: Any, *, widths: Widths, mode: str) -> Any:
    """Pad by other primitives: each side is a part of `x`, turned or repeated."""
    for dim, (before, after) in enumerate(widths):
        size = x.shape[dim]
        start, stop = {
            "reflect": (slice(1, before + 1), slice(size - 1 - after, size - 1)),
            "replicate": (slice(0, 1), slice(size - 1, size)),
            "circular": (slice(size - before, size), slice(0, after)),
        }[mode]
        sides = [x[along(dim, start)], x[along(dim, stop)]]
        if mode == "reflect":
            sides = [flip(side, dims=(dim,)) for side in sides]
        if mode == "replicate":
            sides = [
                broadcast(side, shape=(*x.shape[:dim], width, *x.shape[dim + 1 :]))
                for side, width in zip(sides, (before, after), strict=True)
            ]
        x = concatenate(sides[0], x, sides[1], dim=dim)
    return x


@primitive(sample=_border, second=_border_of_parts)
def border(x: Any, *, widths: Widths, mode: str) -> Ruled:
    """Pad by what `x` itself has: mirrored at its edge ("reflect"), its edge ("replicate"), or the
    other end ("circular")."""
    for size, width in zip(x.shape, widths, strict=True):
        most = {"reflect": size - 1, "circular": size, "replicate": max(width)}[mode]
        if min(width) < 0 or max(width) > most or (max(width) and not size):
            raise ValueError(f"at most {most} elements on either side in mode {mode!r}")
    shape = x.shape

    def pullback(g: Any) -> tuple[Any, ...]:
        for dim, (size, (before, after)) in enumerate(zip(shape, widths, strict=True)):
            if before or after:
                g = _folded(g, dim, size, before, after, mode)
        return (g,)

    return np.pad(x, widths, mode=MODES[mode]), pullback  # type: ignore[call-overload]


def _folded(g: Any, dim: int, size: int, before: int, after: int, mode: str) -> Any:
    """Add what came to the borders of an axis to the elements that they were made of."""

    def part(x: Any, start: int, stop: int) -> Any:
        return x[along(dim, slice(start, stop))]

    end = before + size
    inner = part(g, before, end).copy()
    first, last = part(g, 0, before), part(g, end, end + after)
    if mode == "reflect":
        turned = along(dim, slice(None, None, -1))
        part(inner, 1, before + 1)[...] += first[turned]
        part(inner, size - 1 - after, size - 1)[...] += last[turned]
    elif mode == "replicate":
        part(inner, 0, 1)[...] += first.sum(axis=dim, keepdims=True)
        part(inner, size - 1, size)[...] += last.sum(axis=dim, keepdims=True)
    else:
        part(inner, size - before, size)[...] += first
        part(inner, 0, after)[...] += last
    return inner
