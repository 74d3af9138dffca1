"""Attention, and the positions that it needs to be told, as functions."""

from typing import Any

import numpy as np

from holdfast.core import random
from holdfast.core.backend import Array, backend, to_host
from holdfast.core.errors import shape_error
from holdfast.core.ops import attention, position
from holdfast.core.primitive import DEFAULT_FLOAT, wrap
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw

__all__ = ["rotary", "scaled_dot_product_attention", "sinusoidal_positions"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(query @ key^T * scale + mask) @ value, with memory for a block of scores only.

    query is (..., L, E), key (..., S, E), value (..., S, V), and the result (..., L, V). A mask
    broadcasts to (..., L, S): bools that are True where a query takes part in a key, or floats to
    add. `is_causal` lets query i see the keys up to i, and needs no mask. `scale` is 1 / sqrt(E) if
    None. With `enable_gqa` key and value may have fewer heads (axis -3), which neighbouring heads
    of the query share. `dropout_p` holds whether training or not, as in PyTorch.

    A query that sees no key gets zeros. A. Vaswani and others, "Attention Is All You Need",
    arXiv:1706.03762; T. Dao and others, "FlashAttention", arXiv:2205.14135.
    """
    options: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if dropout_p:
        options["seed"] = int(random.generator().integers(2**63))
    if not enable_gqa or query.shape[-3:-2] == key.shape[-3:-2] == value.shape[-3:-2]:
        return attention.attention(query, key, value, attn_mask, **options)
    heads, shared = query.shape[-3], key.shape[-3]
    if shared != value.shape[-3] or heads % shared:
        raise shape_error(
            "scaled_dot_product_attention",
            "heads of the query that are a multiple of those of key and value",
            query=query.shape,
            key=key.shape,
            value=value.shape,
        )
    if attn_mask is not None and attn_mask.ndim > 2:
        own = attn_mask.shape[-3]
        attn_mask = (
            attn_mask.unsqueeze(-3)
            if own == 1
            else attn_mask.unflatten(-3, (shared, own // shared))
        )
    out = attention.attention(
        query.unflatten(-3, (shared, heads // shared)),
        key.unsqueeze(-3),
        value.unsqueeze(-3),
        attn_mask,
        **options,
    )
    return out.flatten(-4, -3)


def _angles(positions: Any, dim: int, base: float) -> Any:
    """Return positions times the frequencies base^(-2i / dim), (T, ceil(dim / 2)), in float64."""
    frequencies = base ** (-np.arange(0, dim, 2) / dim)
    return np.asarray(positions, dtype=np.float64)[:, None] * frequencies


def sinusoidal_positions(
    length: int, dim: int, base: float = 10000.0, *, device: str = "cpu", dtype: Any = None
) -> Tensor:
    """Return (length, dim): row t has sin(t / base^(2i / dim)) at 2i and the cosine at 2i + 1.

    A. Vaswani and others, "Attention Is All You Need", arXiv:1706.03762, section 3.5.
    """
    angles = _angles(range(length), dim, base)
    table = np.empty((length, dim))
    table[:, ::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : dim // 2]
    return wrap(backend(device).asarray(table, dtype=DEFAULT_FLOAT if dtype is None else dtype))


def rotary(
    input: Tensor, positions: Any = None, base: float = 10000.0, interleaved: bool = True
) -> Tensor:
    """Turn pairs of elements of (..., T, D) by angles t * base^(-2i / D), t being the position.

    So a product of two rows turned like that depends on how far apart they are. `positions` are T
    numbers, from 0 on if None. A pair are neighbours if `interleaved`, as in the paper, else
    elements i and i + D / 2, as in many published weights. J. Su and others, "RoFormer",
    arXiv:2104.09864.
    """
    if input.ndim < 2 or input.shape[-1] % 2:
        raise shape_error("rotary", "input (..., T, D), D being even", input=input.shape)
    at = range(input.shape[-2]) if positions is None else to_host(raw(positions))
    cos, sin = rotary_tables(at, input.shape[-1], base, input.device)
    return position.rotary(input, cos=cos, sin=sin, interleaved=interleaved)


def rotary_tables(
    positions: Any, dim: int, base: float = 10000.0, device: str = "cpu"
) -> tuple[Array, Array]:
    """Return the cosines and sines, (T, dim / 2) in float64, that `rotary` turns positions by."""
    angles, module = _angles(positions, dim, base), backend(device)
    return module.asarray(np.cos(angles)), module.asarray(np.sin(angles))
