"""Layers that multiply by a matrix."""

import math

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import bias_of, empty
from holdfast.core.tensor import Tensor

__all__ = ["Linear"]


class Linear(Module):
    """`x @ weight.T + bias`, from (..., in_features) to (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = empty(out_features, in_features)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_parameter("bias", bias_of(out_features, in_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
