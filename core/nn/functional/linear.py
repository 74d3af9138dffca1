"""Matrix products with weights, as functions: PyTorch's names and arguments."""

from holdfast.core.ops.linear import linear

__all__ = ["linear"]
