"""The layers that convolve."""

import math

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import bias_of, empty
from holdfast.core.ops.conv import Pair, pair
from holdfast.core.tensor import Tensor

__all__ = ["Conv2d"]


class Conv2d(Module):
    """A convolution over images (N, in_channels, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.weight = empty(out_channels, in_channels, *self.kernel_size)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = in_channels * math.prod(self.kernel_size)
        self.register_parameter("bias", bias_of(out_channels, fan_in) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H', W')."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        """Return the sizes, leaving out what is as usual."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        return text if self.bias is not None else text + ", bias=False"
