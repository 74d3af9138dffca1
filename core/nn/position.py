"""The layers that tell positions in a sequence apart; none holds a weight."""

from typing import Any

from holdfast.core.errors import shape_error
from holdfast.core.nn import functional as F
from holdfast.core.nn.functional.attention import rotary_tables
from holdfast.core.nn.module import Module
from holdfast.core.ops.position import rotary
from holdfast.core.primitive import DEFAULT_FLOAT
from holdfast.core.tensor import Tensor

__all__ = ["RotaryPositions", "SinusoidalPositions"]


class SinusoidalPositions(Module):
    """Adds the sines and cosines of each position, up to `max_length`, to (..., T, dim).

    Where `batch_first` is False, to (T, ..., dim). A. Vaswani and others, "Attention Is All You
    Need", arXiv:1706.03762, section 3.5.
    """

    def __init__(
        self,
        dim: int,
        max_length: int = 4096,
        base: float = 10000.0,
        batch_first: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.dim, self.max_length, self.base = dim, max_length, base
        self.batch_first = batch_first
        table = F.sinusoidal_positions(max_length, dim, base, device=device or "cpu", dtype=dtype)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Return x plus the positions from `offset` on."""
        axis = -2 if self.batch_first else 0
        length = x.shape[axis] if x.ndim > 1 else 0
        if x.ndim < 2 or x.shape[-1] != self.dim or offset + length > self.max_length:
            raise shape_error(
                "SinusoidalPositions",
                f"{self.dim} features at positions before {self.max_length}",
                x=x.shape,
            )
        rows: Tensor = self.table[offset : offset + length]
        if not self.batch_first:
            rows = rows.reshape(length, *(1,) * (x.ndim - 2), self.dim)
        return x + rows

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.dim}, max_length={self.max_length}, batch_first={self.batch_first}"


class RotaryPositions(Module):
    """Turns pairs of features of queries and keys (..., T, dim) by angles that grow with position.

    Pairs are neighbours, or elements i and i + dim / 2 if not `interleaved`. J. Su and others,
    "RoFormer", arXiv:2104.09864.
    """

    def __init__(
        self,
        dim: int,
        max_length: int = 4096,
        base: float = 10000.0,
        interleaved: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.dim, self.max_length, self.base = dim, max_length, base
        self.interleaved = interleaved
        kind = DEFAULT_FLOAT if dtype is None else dtype
        cos, sin = rotary_tables(range(max_length), dim, base, device or "cpu")
        self.register_buffer("cos", Tensor(cos.astype(kind)), persistent=False)
        self.register_buffer("sin", Tensor(sin.astype(kind)), persistent=False)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Return x, (..., T, dim), turned as the positions from `offset` on say."""
        stop = offset + (x.shape[-2] if x.ndim > 1 else 0)
        if x.ndim < 2 or x.shape[-1] != self.dim or stop > self.max_length:
            raise shape_error(
                "RotaryPositions",
                f"{self.dim} features at positions before {self.max_length}",
                x=x.shape,
            )
        cos, sin = self.cos.array[offset:stop], self.sin.array[offset:stop]
        return rotary(x, cos=cos, sin=sin, interleaved=self.interleaved)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.dim}, max_length={self.max_length}, interleaved={self.interleaved}"
