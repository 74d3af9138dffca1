"""The layers that let each position of a sequence look at others."""

import math
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.errors import shape_error
from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.linear import Linear
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import empty
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention by several heads, each on its share of the features.

    Sequences are (L, N, E), or (N, L, E) where `batch_first`, or (L, E) without a batch. Keys and
    values have `kdim` and `vdim` features, `embed_dim` if None. Parameters are named as PyTorch's:
    `in_proj_weight` for all three projections, or `q_proj_weight` and so on where sizes differ.

    A. Vaswani and others, "Attention Is All You Need", arXiv:1706.03762.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise UsageError(
                f"an embed_dim that is a multiple of num_heads is expected; found {embed_dim} and "
                f"{num_heads}"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.head_dim, self.batch_first = embed_dim // num_heads, batch_first
        alike = self.kdim == embed_dim and self.vdim == embed_dim
        for name, wanted, shape in (
            ("in_proj_weight", alike, (3 * embed_dim, embed_dim)),
            ("q_proj_weight", not alike, (embed_dim, embed_dim)),
            ("k_proj_weight", not alike, (embed_dim, self.kdim)),
            ("v_proj_weight", not alike, (embed_dim, self.vdim)),
            ("in_proj_bias", bias, (3 * embed_dim,)),
        ):
            parameter = empty(*shape, device=device, dtype=dtype) if wanted else None
            self.register_parameter(name, parameter)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for part in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(self, part)
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, like `query`, and the weights (N, L, S) if `need_weights`, else None.

        Masks are bools that are True where a position is *not* looked at, or floats to add:
        `key_padding_mask` is (N, S), `attn_mask` (L, S) or (N * heads, L, S). `is_causal` is a
        hint that `attn_mask` is the causal one. Without `average_attn_weights` the weights are
        (N, heads, L, S). Without `need_weights` no more than a block of them is ever in memory.

        A query whose keys are all masked gets zeros, or NaN with `need_weights`, as in PyTorch.
        """
        batched = query.ndim == 3
        if not batched:
            axis = 0 if self.batch_first else 1
            same = key is query, value is key
            query = query.unsqueeze(axis)
            key = query if same[0] else key.unsqueeze(axis)
            value = key if same[1] else value.unsqueeze(axis)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        self._check(query, key, value)
        q, k, v = (self._heads(part) for part in self._projected(query, key, value))
        if is_causal and attn_mask is None:
            raise UsageError(
                "is_causal is a hint about attn_mask, which is None: give the mask, as "
                "Transformer.generate_square_subsequent_mask makes it"
            )
        is_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if is_causal else self._mask(attn_mask, key_padding_mask, q, k)
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            out, weights = _attention_with_weights(q, k, v, mask, dropped)
            if average_attn_weights:
                weights = weights.mean(1)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal)
        joined = out.permute((0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3))
        result = self.out_proj(joined.flatten(2))
        if not batched:
            result = result.squeeze(0 if self.batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return result, weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        batch = 0 if self.batch_first else 1
        if not (
            query.ndim == key.ndim == value.ndim == 3
            and (query.shape[2], key.shape[2], value.shape[2])
            == (self.embed_dim, self.kdim, self.vdim)
            and key.shape[:2] == value.shape[:2]
            and key.shape[batch] == query.shape[batch]
        ):
            order = "(N, L, ...)" if self.batch_first else "(L, N, ...)"
            raise shape_error(
                "MultiheadAttention",
                f"sequences {order} of {self.embed_dim}, {self.kdim} and {self.vdim} features",
                query=query.shape,
                key=key.shape,
                value=value.shape,
            )

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values of all heads; one product makes what comes from one."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        size = self.embed_dim
        if weight is not None and query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, -1)
        if weight is not None and key is value:
            first, rest = weight.split((size, 2 * size))
            b, c = (None, None) if bias is None else bias.split((size, 2 * size))
            return F.linear(query, first, b), *F.linear(key, rest, c).chunk(2, -1)
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if weight is None
            else weight.chunk(3)
        )
        biases = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weights, biases, strict=True)
        return tuple(F.linear(x, w, b) for x, w, b in parts)

    def _heads(self, x: Tensor) -> Tensor:
        """Return a projection as (N, heads, L, features of a head)."""
        split = x.unflatten(-1, (self.num_heads, self.head_dim))
        return split.permute((0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """Return what the masks say together, as attention itself takes it: (N, heads, L, S)."""
        batch, heads, length, keys = *q.shape[:3], k.shape[2]
        masks = []
        if attn_mask is not None:
            shape = (length, keys) if attn_mask.ndim == 2 else (batch * heads, length, keys)
            if attn_mask.shape != shape:
                raise shape_error(
                    "MultiheadAttention",
                    f"an attn_mask {(length, keys)} or {(batch * heads, length, keys)}",
                    attn_mask=attn_mask.shape,
                )
            masks.append(
                attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (batch, heads))
            )
        if padding is not None:
            if padding.shape != (batch, keys):
                raise shape_error(
                    "MultiheadAttention",
                    f"a key_padding_mask {(batch, keys)}",
                    key_padding_mask=padding.shape,
                )
            masks.append(padding.reshape(batch, 1, 1, keys))
        if not masks:
            return None
        if not any(is_floating(mask.dtype) for mask in masks):
            hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
            return ~hidden
        added = [_added(mask, q) for mask in masks]
        return added[0] if len(added) == 1 else added[0] + added[1]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as floats to add: minus infinity hides."""
    if is_floating(mask.dtype):
        return mask.to(like.dtype)
    return wrap(np.where(mask.array, -np.inf, 0.0).astype(like.dtype))


def _attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropped: float
) -> tuple[Tensor, Tensor]:
    """Return the output and the weights that it was made with, after dropout."""
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + (mask if is_floating(mask.dtype) else _added(~mask, q))
    weights = F.dropout(scores.softmax(-1), dropped, training=True)
    return weights @ v, weights
