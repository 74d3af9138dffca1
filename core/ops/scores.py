"""The scores of attention, made block by block in one place.

The rule: in a block the rows are keys, and the columns the queries of several heads. The softmax
then compares, subtracts and adds up whole rows, which NumPy does at full speed, and small heads
share the cost of a call.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating

BLOCK_BYTES = {"numpy": 512 * 1024, "cupy": 256 * 1024 * 1024}
"""Scores held at once: half of a usual second-level cache; on a GPU, enough to fill it."""

FEWEST_QUERIES = {"numpy": 32, "cupy": 512}
"""Causal attention takes its queries in steps, each with the keys up to its last query; steps of
fewer than these make for slow products."""

STEPS = 4
"""Steps of a causal matrix that fits into a block: they spare it 3/8 of the scores."""

DRAWS = 1 << 16
"""Dropout compares 16 random bits, a quarter of what the generator makes at a time."""

Piece = tuple[slice, ...]
"""A part of the batch and heads: a slice of each of these axes."""


def length(part: slice) -> int:
    """Return how many elements a slice with both ends has."""
    size: int = part.stop - part.start
    return size


def pieces(batch: tuple[int, ...], room: int) -> Iterator[Piece]:
    """Cut the axes of a batch into pieces of at most `room` elements."""
    if not batch:
        yield ()
        return
    step = max(1, room // max(math.prod(batch[1:]), 1))
    for start in range(0, batch[0], step):
        for tail in pieces(batch[1:], room):
            yield slice(start, min(start + step, batch[0])), *tail


@dataclass(frozen=True, slots=True)
class Step:
    """Neighbouring queries, and the numbered blocks of keys that they look at."""

    queries: slice
    keys: list[tuple[int, slice]]


def steps(queries: int, keys: int, causal: bool, room: int, fewest: int) -> list[Step]:
    """Cut a matrix of scores into blocks of at most `room` elements.

    A causal one is left without the blocks in which no query sees a key.
    """
    tall, wide = queries, keys
    if causal:
        tall = min(queries, max(fewest, -(-queries // STEPS)))
    if tall * keys > room:
        tall = max(1, min(tall, math.isqrt(room // 2)))
        wide = min(keys, room // tall)
    cut: list[Step] = []
    number = 0
    for start in range(0, queries, max(tall, 1)):
        stop = min(start + tall, queries)
        seen = min(stop, keys) if causal else keys
        blocks = [slice(k, min(k + wide, seen)) for k in range(0, seen, max(wide, 1))]
        cut.append(Step(slice(start, stop), list(enumerate(blocks, number))))
        number += len(blocks)
    return cut


@dataclass(frozen=True, slots=True)
class Scratch:
    """What a pass over the blocks works with, and leaves behind: memory for one of them."""

    memory: Any
    triangles: dict[tuple[int, int], Any] = field(default_factory=dict)


class Scores:
    """The scaled and masked scores of query (..., L, E) and key (..., S, E) of one batch."""

    def __init__(self, query: Any, key: Any, mask: Any, causal: bool) -> None:
        batch = query.shape[:-2]
        self._by_head = (*range(1, len(batch) + 1), 0, len(batch) + 1)
        self.module, self.causal = array_module(query), causal
        # 16-bit floats are multiplied and added up as float32.
        self.dtype = np.dtype(np.float32) if query.dtype.itemsize == 2 else query.dtype
        self.lowest = float(np.finfo(self.dtype).min)
        if mask is not None:
            mask = mask.reshape((1,) * (len(batch) + 2 - mask.ndim) + mask.shape)
        self.mask = mask
        room = BLOCK_BYTES[self.module.__name__] // self.dtype.itemsize
        fewest = FEWEST_QUERIES[self.module.__name__]
        self.steps = steps(query.shape[-2], key.shape[-2], causal, room, fewest)
        sizes = [length(s.queries) * length(keys) for s in self.steps for _, keys in s.keys]
        self.blocks = len(sizes)
        largest = max(sizes, default=0)
        heads = max(1, room // max(largest, 1))
        self.pieces = list(enumerate(pieces(batch, heads)))
        self._largest = largest * min(heads, math.prod(batch))

    def scratch(self) -> Scratch:
        """Return memory for the largest block."""
        return Scratch(self.module.empty(self._largest, dtype=self.dtype))

    def wide(self, array: Any) -> Any:
        """Return `array` in the dtype to compute with."""
        return array.astype(self.dtype, copy=False)

    def turned(self, rows: Any, factor: float) -> Any:
        """Return rows (..., n, e) times `factor` as (..., e, n), contiguous.

        BLAS multiplies small matrices twice as fast if neither is transposed.
        """
        *heads, n, e = rows.shape
        out = self.module.empty((*heads, e, n), dtype=self.dtype)
        return np.multiply(self.wide(rows).swapaxes(-1, -2), factor, out=out)

    def product(self, rows: Any, turned: Any, scratch: Scratch) -> tuple[Any, Any]:
        """Multiply rows (heads, keys, e) by turned queries (heads, e, queries), in `scratch`.

        Return the block, (keys, heads x queries), and a view of it as (heads, keys, queries).
        """
        *heads, keys, _ = rows.shape
        columns = math.prod(heads) * turned.shape[-1]
        block = scratch.memory[: keys * columns].reshape(keys, columns)
        by_head = block.reshape(keys, *heads, turned.shape[-1]).transpose(self._by_head)
        np.matmul(rows, turned, out=by_head)
        return block, by_head

    def block(
        self, piece: Piece, queries: slice, keys: slice, rows: Any, turned: Any, scratch: Scratch
    ) -> tuple[Any, Any]:
        """Return scores as `product` does, of a piece with the keys `rows` and `turned` queries."""
        block, by_head = self.product(rows[..., keys, :], turned, scratch)
        if self.mask is not None:
            part = self.cut(self.mask, piece, queries, keys)
            part = self.wide(part) if is_floating(part.dtype) else self._barrier(~part)
            by_head += part.swapaxes(-1, -2)
        start = queries.start
        if self.causal and keys.stop - 1 > start:
            first = max(keys.start, start)  # the keys before are seen by all the queries
            size = length(queries)
            barrier = self._triangle(size, block.shape[1] // size, scratch)
            block[first - keys.start :] += barrier[first - start : keys.stop - start]
        return block, by_head

    def cut(self, mask: Any, piece: Piece, queries: slice, keys: slice) -> Any:
        """View the part of a mask, or of what has its shape, that broadcasts to a block."""
        at = zip(mask.shape, (*piece, queries, keys), strict=True)
        return mask[tuple(part if size > 1 else slice(None) for size, part in at)]

    def _barrier(self, hidden: Any) -> Any:
        """Return what hides scores when added to them."""
        barrier = self.module.zeros(hidden.shape, dtype=self.dtype)
        barrier[hidden] = -np.inf
        return barrier

    def _triangle(self, size: int, heads: int, scratch: Scratch) -> Any:
        """Return what hides from each of `size` queries the keys after it, for some heads."""
        made = scratch.triangles.get((size, heads))
        if made is None:
            at = self.module.arange(size)
            made = self.module.empty((size, heads, size), dtype=self.dtype)
            made[...] = self._barrier(at[:, None] > at)[:, None]
            made = scratch.triangles[size, heads] = made.reshape(size, heads * size)
        return made

    def kept(self, shape: tuple[int, ...], p: float, seed: int, at: int, number: int) -> Any:
        """Return which elements of a block dropout keeps, drawn from the seed for that block.

        So they can be drawn again in whatever order the blocks are gone through.
        """
        size = math.prod(shape)
        source = np.random.SFC64((seed, at * self.blocks + number))
        bits = source.random_raw(-(-size // 4)).view(np.uint16)[:size]
        return self.module.asarray((bits >= round(p * DRAWS)).reshape(shape))

    def kept_everywhere(self, out: Any, p: float, seed: int) -> Any:
        """Return `out` (..., L, S), filled with what `kept` says of each block."""
        for at, piece in self.pieces:
            for step in self.steps:
                for number, keys in step.keys:
                    place = np.moveaxis(out[(*piece, step.queries, keys)], -1, 0)
                    place[...] = self.kept(place.shape, p, seed, at, number)
        return out
