"""The layers: modules that hold weights, or that only name a function."""

import math
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.ops.conv import Pair, pair
from holdfast.core.parameter import Parameter
from holdfast.core.tensor import Tensor


def _empty(*shape: int) -> Parameter:
    return Parameter(np.empty(shape, dtype=np.float32))


class Sequential(Module):
    """Runs its parts one after the other; they are numbered, or named by an ordered dict."""

    def __init__(self, *parts: "Module | OrderedDict[str, Module]") -> None:
        super().__init__()
        for i, part in enumerate(parts):
            if isinstance(part, OrderedDict):
                for name, named in part.items():
                    self.add_module(name, named)
            else:
                self.add_module(str(i), part)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last part's output."""
        for part in self._modules.values():
            x = part(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, at: int) -> Module:
        return list(self._modules.values())[at]


class Linear(Module):
    """`x @ weight.T + bias`, from (..., in_features) to (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = _empty(out_features, in_features)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_parameter("bias", _bias(out_features, in_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


def _bias(size: int, fan_in: int) -> Parameter:
    bias = _empty(size)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    init.uniform_(bias, -bound, bound)
    return bias


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
        self.weight = _empty(out_channels, in_channels, *self.kernel_size)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = in_channels * math.prod(self.kernel_size)
        self.register_parameter("bias", _bias(out_channels, fan_in) if bias else None)

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


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return F.relu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return F.tanh(x)


class Softmax(Module):
    """The exponentials along `dim`, scaled to sum to 1."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return F.softmax(x, dim=self.dim)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"dim={self.dim}"


class Flatten(Module):
    """Merges the axes from `start_dim` to `end_dim`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, everything else) by default."""
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Dropout(Module):
    """Zeroes elements with probability `p` while training."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`."""
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}"
