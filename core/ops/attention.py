"""Scaled dot-product attention as one primitive that never holds more than a block of the scores.

The online softmax of FlashAttention (Dao et al., 2022): keys come in blocks, and what is summed up
so far is scaled down whenever a larger score appears. The pullback keeps of each query only the
logarithm of the softmax's denominator, and makes each block of scores again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Pullback, fit
from holdfast.core.errors import check_dtypes, shape_error
from holdfast.core.ops.scores import Piece, Scores, Scratch, Step
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw
from holdfast.errors import UsageError

Block = tuple[Piece, slice, slice, Any, Any]
"""Where a block lies (heads, queries, keys), its weights, and the gradient of its scores."""


def _check(query: Any, key: Any, value: Any, mask: Any, causal: bool) -> tuple[int, ...]:
    """Return the axes before the last two, which broadcast."""
    arrays = {"query": query, "key": key, "value": value}
    if mask is not None:
        arrays["mask"] = mask
    shapes = {name: array.shape for name, array in arrays.items()}
    fits = all(array.ndim >= 2 for array in (query, key, value))
    if fits and query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]:
        if mask is not None and causal:
            raise UsageError("attention: a mask or is_causal=True is expected; found both")
        check_dtypes("attention", query=query, key=key, value=value)
        if mask is not None and not (mask.dtype == bool or is_floating(mask.dtype)):
            raise UsageError(
                "attention: a mask of bools, True where a query sees a key, or of floats to add is "
                f"expected; found {mask.dtype}: mask.bool()"
            )
        try:
            matrix = query.shape[-2], key.shape[-2]
            if mask is None or np.broadcast_shapes(mask.shape, matrix)[-2:] == matrix:
                return np.broadcast_shapes(*(shape[:-2] for shape in shapes.values()))
        except ValueError:
            pass  # they do not broadcast, as the error says
    raise shape_error(
        "attention",
        "query (..., L, E), key (..., S, E), value (..., S, V) and a mask that broadcasts to "
        "(..., L, S)",
        **shapes,
    )


def _composed(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    seed: int = 0,
) -> Any:
    """Compute the same by other primitives, with the whole matrix of scores."""
    module = array_module(raw(query))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = np.matmul(query, np.swapaxes(key, -1, -2)) * scale
    seen: Any = module.tri(*scores.shape[-2:], dtype=bool) if is_causal else None
    if mask is not None and is_floating(mask.dtype):
        seen = raw(mask) != -np.inf
        scores = scores + np.where(seen, mask, 0.0)
    elif mask is not None:
        seen = raw(mask)
    if seen is not None:
        scores = np.where(seen, scores, -1e4)
    weights = np.exp(scores - raw(scores).max(axis=-1, keepdims=True))
    weights = weights / np.sum(weights, axis=-1, keepdims=True)
    if seen is not None:
        weights = np.where(seen, weights, 0.0)
    if dropout_p:
        shape = np.broadcast_shapes(scores.shape[:-2], value.shape[:-2])
        like = np.broadcast_to(raw(query), (*shape, *query.shape[-2:]))
        kept = module.empty((*shape, *scores.shape[-2:]), dtype=query.dtype)
        Scores(like, raw(key), None, is_causal).kept_everywhere(kept, dropout_p, seed)
        weights = weights * (kept * _share(dropout_p))
    return np.matmul(weights, value)


def _share(dropout_p: float) -> float:
    """Return what scales up the weights that dropout keeps."""
    return 1 / (1 - dropout_p) if dropout_p < 1 else 0.0


def _multiply(left: Any, right: Any, into: Any, fresh: bool) -> None:
    """Write a product, or add it where there is something already."""
    if fresh:
        np.matmul(left, right, out=into)
    else:  # in the same order of memory, so that adding goes by long runs
        into += np.matmul(left, right, out=np.empty_like(into))


@dataclass(frozen=True, slots=True)
class _Attention:
    """Attention of arrays with the same axes before their last two."""

    query: Any
    key: Any
    value: Any
    scores: Scores
    scale: float
    dropout_p: float
    seed: int

    def forward(self, out: Any) -> Any:
        """Fill `out`; return the logarithms of the softmaxes' denominators."""
        scores, scratch = self.scores, self.scores.scratch()
        norms = scores.module.empty(out.shape[:-1], dtype=scores.dtype)
        for at, piece in scores.pieces:
            keys, values = scores.wide(self.key[piece]), scores.wide(self.value[piece])
            for step in scores.steps:
                place = out[(*piece, step.queries)]
                sums = place
                if place.dtype != scores.dtype:
                    sums = scores.module.empty(place.shape, dtype=scores.dtype)
                norm = self._attend(at, piece, step, keys, values, sums, scratch)
                if sums is not place:
                    place[...] = sums
                norms[(*piece, step.queries)] = norm.reshape(place.shape[:-1])
        return norms

    def _attend(
        self, at: int, piece: Piece, step: Step, keys: Any, values: Any, sums: Any, scratch: Scratch
    ) -> Any:
        """Fill `sums` (heads, queries, V) for a step; return the logarithms, in one row."""
        scores, alone = self.scores, len(step.keys) == 1
        turned = scores.turned(self.query[(*piece, step.queries)], self.scale)
        peak: Any = None
        total: Any = None
        for number, part in step.keys:
            block, by_head = scores.block(piece, step.queries, part, keys, turned, scratch)
            top = block.max(axis=0)
            if peak is not None:
                np.maximum(top, peak, out=top)
            # Where nothing was seen yet, -inf less -inf would not be a number.
            base = top if scores.mask is None else np.maximum(top, scores.lowest)
            block -= base
            np.exp(block, out=block)
            added = block.sum(axis=0)
            if peak is not None:
                fade = np.exp(peak - base)
                added += total * fade
                sums *= fade.reshape(*sums.shape[:-1], 1)
            total = added
            if scores.mask is not None and number == step.keys[-1][0]:
                total[total == 0] = np.inf  # a query that sees nothing: all its weights are 0
            if alone:
                block *= _share(self.dropout_p) / total
            if self.dropout_p:
                block *= scores.kept(block.shape, self.dropout_p, self.seed, at, number)
            _multiply(by_head.swapaxes(-1, -2), values[..., part, :], sums, peak is None)
            peak = top
        if not alone:
            sums *= (_share(self.dropout_p) / total).reshape(*sums.shape[:-1], 1)
        return base + np.log(total)

    def blocks(self, out: Any, norms: Any, g: Any, factor: float) -> Iterator[Block]:
        """Make each block's weights again, and `factor` times the gradient of its scores.

        Both are (heads, keys, queries). The last queries come first: they see all that others see.
        """
        scores, p, share = self.scores, self.dropout_p, _share(self.dropout_p)
        here, there = scores.scratch(), scores.scratch()
        for at, piece in scores.pieces:
            keys, values = scores.wide(self.key[piece]), scores.wide(self.value[piece])
            for step in reversed(scores.steps):
                rows = (*piece, step.queries)
                turned, given = scores.turned(self.query[rows], self.scale), scores.wide(g[rows])
                inner = factor * np.einsum("...v,...v->...", given, scores.wide(out[rows]))
                inner, norm = inner.reshape(-1), norms[rows].reshape(-1)
                given = scores.turned(given, factor * share)
                for number, part in step.keys:
                    block, weights = scores.block(piece, step.queries, part, keys, turned, here)
                    block -= norm
                    np.exp(block, out=block)
                    change, by_head = scores.product(values[..., part, :], given, there)
                    if p:
                        kept = scores.kept(block.shape, p, self.seed, at, number)
                        change *= kept
                    change -= inner
                    change *= block
                    if p:
                        block *= kept
                        block *= share
                    yield piece, step.queries, part, weights, by_head

    def gradients(self, out: Any, norms: Any, g: Any, into: tuple[Any, Any, Any]) -> None:
        """Fill `into` with the gradients of query, key and value."""
        scores, (by_query, by_key, by_value) = self.scores, into
        last = scores.steps[-1]
        unseen = slice(last.keys[-1][1].stop, None)
        by_key[..., unseen, :] = 0
        by_value[..., unseen, :] = 0
        for piece, queries, keys, weights, change in self.blocks(out, norms, g, self.scale):
            rows, columns, fresh = (*piece, queries), (*piece, keys), queries == last.queries
            query, key, given = (
                scores.wide(a) for a in (self.query[rows], self.key[columns], g[rows])
            )
            _multiply(weights, given, by_value[columns], fresh)
            _multiply(change, query, by_key[columns], fresh)
            _multiply(change.swapaxes(-1, -2), key, by_query[rows], keys.start == 0)

    def by_mask(self, out: Any, norms: Any, g: Any) -> Any:
        """Return the gradient of a mask of floats."""
        total = self.scores.module.zeros(self.scores.mask.shape, dtype=self.scores.dtype)
        for piece, queries, keys, _, change in self.blocks(out, norms, g, 1.0):
            place = self.scores.cut(total, piece, queries, keys)
            place += fit(change.swapaxes(-1, -2), place.shape, place.dtype)
        return total


def _sample(rng: np.random.Generator) -> tuple[Any, ...]:
    query, key, value = (rng.normal(size=(2, 3, n, 4)) for n in (5, 7, 7))
    options: dict[str, Any] = {}
    mask: Any = None
    match rng.integers(4):
        case 0:
            options = {"is_causal": True}
        case 1:
            mask = rng.random((2, 1, 5, 7)) < 0.7
            mask[0, 0, 2] = False
        case 2:
            mask, key = rng.normal(size=(3, 1, 7)), key[:, :1]
        case 3:
            options = {"dropout_p": 0.3, "seed": 5, "scale": 0.7}
    return (query, key, value, mask), options


@primitive(sample=_sample, second=_composed)
def attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    seed: int = 0,
) -> tuple[Any, Pullback]:
    """Return softmax(query @ key.T * scale + mask) @ value, with dropout before the last product.

    query is (..., L, E), key (..., S, E), value (..., S, V); the axes before broadcast, and so does
    the mask to (..., L, S): bools that are True where a query sees a key, or floats to add.
    `is_causal` lets query i see the keys up to i. `scale` is 1 / sqrt(E) if None. A query that sees
    no key gets zeros, as in PyTorch. What is dropped is a function of `seed` and of the shapes.
    """
    batch = _check(query, key, value, mask, is_causal)
    if not 0 <= dropout_p <= 1:
        raise UsageError(f"attention: a probability is expected for dropout_p; found {dropout_p}")
    own = query, key, value
    query, key, value = (
        a if a.shape[:-2] == batch else np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in own
    )
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores, module = Scores(query, key, mask, is_causal), array_module(query)
    work = _Attention(query, key, value, scores, scale, dropout_p, seed)
    # In memory the heads of a position lie beside one another, as the layers around want them.
    shape = (*batch[:1], query.shape[-2], *batch[1:], value.shape[-1])
    out = np.moveaxis(module.empty(shape, dtype=query.dtype), len(batch[:1]), -2)
    norms = work.forward(out)

    def pullback(g: Any) -> tuple[Any, ...]:
        by_query, by_key, by_value = (
            module.empty_like(mine, dtype=scores.dtype)
            if mine is whole
            else module.empty(whole.shape, dtype=scores.dtype)
            for mine, whole in zip(own, (query, key, value), strict=True)
        )
        work.gradients(out, norms, g, (by_query, by_key, by_value))
        by_mask = None if mask is None else lambda: work.by_mask(out, norms, g).reshape(mask.shape)
        return by_query, by_key, by_value, by_mask

    return out, pullback
