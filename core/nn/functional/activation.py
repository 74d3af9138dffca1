"""What makes a network more than linear, as functions: PyTorch's names and arguments."""

from holdfast.core.ops import activation
from holdfast.core.ops.activation import relu, sigmoid, tanh
from holdfast.core.tensor import Tensor

__all__ = ["dropout", "log_softmax", "relu", "sigmoid", "softmax", "tanh"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero elements with probability `p` while training, scaling the rest by 1 / (1 - p)."""
    return activation.dropout(input, p=p) if training and p else input


def softmax(input: Tensor, dim: int = -1) -> Tensor:
    """Return the exponentials along `dim`, scaled to sum to 1."""
    return activation.softmax(input, dim=dim)


def log_softmax(input: Tensor, dim: int = -1) -> Tensor:
    """Return the logarithms of the softmax along `dim`."""
    return activation.log_softmax(input, dim=dim)
