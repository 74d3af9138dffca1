"""The layers that pool."""

from holdfast.core.nn import functional as F
from holdfast.core.nn.module import Module
from holdfast.core.ops.conv import Pair
from holdfast.core.tensor import Tensor

__all__ = ["AvgPool2d", "MaxPool2d"]


class _Pool(Module):
    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool):
    """The largest of each window."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool):
    """The mean of each window."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H', W')."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)
