"""Layers that look integers up in a table."""

from typing import Any, Literal

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import empty
from holdfast.core.parameter import Parameter
from holdfast.core.recording import no_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """A weight (num_embeddings, embedding_dim) of normal numbers; the row of padding is zeros."""

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        weight: Parameter | None,
        device: str | None,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise UsageError(
                    f"padding_idx is a row of the {num_embeddings} there are; found {padding_idx}"
                )
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        if weight is not None:
            self.weight = weight
            return
        self.weight = empty(num_embeddings, embedding_dim, device=device, dtype=dtype)
        init.normal_(self.weight)
        if padding_idx is not None:
            with no_grad():
                self.weight[padding_idx] = 0.0


class Embedding(_Table):
    """The rows of a table: from integers (...) to (..., embedding_dim).

    The row `padding_idx` begins as zeros and gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
        _weight: Parameter | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, _weight, device, dtype)

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None
    ) -> "Embedding":
        """Return a layer over the memory of `embeddings` (n, m), which learns unless frozen."""
        weight = _pretrained(embeddings, freeze)
        rows, columns = weight.shape
        return cls(rows, columns, padding_idx, _weight=weight)

    def forward(self, input: Any) -> Tensor:
        """Return (..., embedding_dim)."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """Return the sizes."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"


class EmbeddingBag(_Table):
    """Sums, means or maxima of bags of a table's rows, without looking each row up by itself.

    From integers (bags, size) to (bags, embedding_dim), or from (n,) with the `offsets` at which
    bags begin.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: Literal["mean", "sum", "max"] = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
        _weight: Parameter | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, _weight, device, dtype)
        self.mode: Literal["mean", "sum", "max"] = mode
        self.include_last_offset = include_last_offset

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        mode: Literal["mean", "sum", "max"] = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> "EmbeddingBag":
        """Return a layer over the memory of `embeddings` (n, m), which learns unless frozen."""
        weight = _pretrained(embeddings, freeze)
        rows, columns = weight.shape
        return cls(rows, columns, mode, include_last_offset, padding_idx, _weight=weight)

    def forward(
        self, input: Any, offsets: Any = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return (bags, embedding_dim)."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Return the sizes and the mode."""
        text = f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"


def _pretrained(embeddings: Tensor, freeze: bool) -> Parameter:
    if embeddings.ndim != 2:
        raise UsageError(f"embeddings are a table (n, m); found shape {embeddings.shape}")
    return Parameter(embeddings.detach(), requires_grad=not freeze)
