"""Layers that multiply by a matrix."""

import math
from typing import Any

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import bias_of, empty
from holdfast.core.tensor import Tensor

__all__ = ["Bilinear", "Identity", "Linear"]


class Identity(Module):
    """Return what it is given; any arguments of the constructor are ignored."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """Return `x`."""
        return x


class Linear(Module):
    """`x @ weight.T + bias`, from (..., in_features) to (..., out_features)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = empty(out_features, in_features, device=device, dtype=dtype)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_parameter(
            "bias",
            bias_of(out_features, in_features, device=device, dtype=dtype) if bias else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Bilinear(Module):
    """`x1 @ weight[o] @ x2 + bias[o]`, from (..., in1) and (..., in2) to (..., out_features)."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in1_features, self.in2_features = in1_features, in2_features
        self.out_features = out_features
        self.weight = empty(out_features, in1_features, in2_features, device=device, dtype=dtype)
        bound = 1 / math.sqrt(in1_features) if in1_features else 0.0
        init.uniform_(self.weight, -bound, bound)
        self.register_parameter(
            "bias",
            bias_of(out_features, in1_features, device=device, dtype=dtype) if bias else None,
        )

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
