"""The layers that convolve, and those that take images apart into windows and put them together."""

import math
from collections.abc import Sequence
from typing import Any

from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import bias_of, empty
from holdfast.core.ops.shape import MODES, border
from holdfast.core.ops.windows import Sizes, borders, sizes
from holdfast.core.tensor import Tensor
from holdfast.core.variable import require

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Fold",
    "Unfold",
]

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolution(Module):
    """The sizes and weights of convolutions and of transposed ones, over `axes` spatial axes."""

    axes: int
    transposed: bool
    output_padding: tuple[int, ...]
    padding: str | tuple[int, ...]

    def _make(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        dilation: Sizes,
        groups: int,
        bias: bool,
        device: str | None,
        dtype: Any,
    ) -> None:
        """Set the sizes, and weights that begin as PyTorch's."""
        require(
            groups > 0 and in_channels % groups == 0 and out_channels % groups == 0,
            f"{type(self).__name__}: groups divides in_channels and out_channels; found "
            f"{groups}, {in_channels} and {out_channels}",
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sizes("kernel_size", kernel_size, self.axes)
        self.stride = sizes("stride", stride, self.axes)
        self.dilation = sizes("dilation", dilation, self.axes)
        self.output_padding = (0,) * self.axes
        first, second = (
            (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        )
        shape = first, second // groups, *self.kernel_size
        self.weight = empty(*shape, device=device, dtype=dtype)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = math.prod(shape[1:])
        self.register_parameter(
            "bias",
            bias_of(out_channels, fan_in, device=device, dtype=dtype) if bias else None,
        )

    def extra_repr(self) -> str:
        """Return the sizes, leaving out what is as usual."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        for name, value, usual in (
            ("padding", self.padding, (0,) * self.axes),
            ("dilation", self.dilation, (1,) * self.axes),
            ("output_padding", self.output_padding, (0,) * self.axes),
            ("groups", self.groups, 1),
            ("bias", self.bias is not None, True),
            ("padding_mode", self.padding_mode, "zeros"),
        ):
            if value != usual:
                text += f", {name}={value}"
        return text


class _Conv(_Convolution):
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        known = ("zeros", *MODES)
        require(
            padding_mode in known,
            f"{type(self).__name__}: padding_mode is one of {', '.join(known)}; found "
            f"{padding_mode!r}",
        )
        self._make(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype
        )
        self.padding_mode = padding_mode
        self.padding = padding if isinstance(padding, str) else sizes("padding", padding, self.axes)
        self._borders = borders(
            type(self).__name__, self.padding, self.kernel_size, self.stride, self.dilation
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, *image), or without N if `x` is without it."""
        padding: Sizes | str = self.padding
        if self.padding_mode != "zeros":
            widths = ((0, 0),) * (x.ndim - self.axes) + tuple(self._borders)
            x, padding = border(x, widths=widths, mode=self.padding_mode), 0
        convolve = _CONVOLVE[self.axes]
        return convolve(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """A convolution over (N, in_channels, L), or without N.

    `padding` is numbers, "same" or "valid"; `padding_mode` says what the border is made of:
    "zeros", "reflect", "replicate" or "circular".
    """

    axes = 1


class Conv2d(_Conv):
    """A convolution over images (N, in_channels, H, W), or without N; options as `Conv1d`'s."""

    axes = 2


class Conv3d(_Conv):
    """A convolution over (N, in_channels, D, H, W), or without N; options as `Conv1d`'s."""

    axes = 3


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        require(
            padding_mode == "zeros",
            f"{type(self).__name__}: padding_mode is 'zeros'; found {padding_mode!r}",
        )
        self._make(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, device, dtype
        )
        self.padding_mode = padding_mode
        self.padding = self._cut = sizes("padding", padding, self.axes)
        self.output_padding = sizes("output_padding", output_padding, self.axes)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return (N, out_channels, *image); `output_size` picks one of the images a stride allows.

        It has the sizes of the image, and before them any others, which are not looked at.
        """
        extra = self.output_padding
        if output_size is not None:
            extra = tuple(
                wanted - ((n - 1) * step - 2 * border + hole * (k - 1) + 1)
                for wanted, n, step, border, hole, k in zip(
                    output_size[-self.axes :],
                    x.shape[-self.axes :],
                    self.stride,
                    self._cut,
                    self.dilation,
                    self.kernel_size,
                    strict=True,
                )
            )
        spread = _TRANSPOSED[self.axes]
        return spread(
            x, self.weight, self.bias, self.stride, self._cut, extra, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over (N, in_channels, L), or without N."""

    axes = 1


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over images (N, in_channels, H, W), or without N."""

    axes = 2


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over (N, in_channels, D, H, W), or without N."""

    axes = 3


class _Windows(Module):
    def __init__(
        self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
    ) -> None:
        super().__init__()
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Unfold(_Windows):
    """The windows of images as columns."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C x kh x kw, windows) for images (N, C, H, W)."""
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(_Windows):
    """Columns added up to images of `output_size`."""

    def __init__(
        self,
        output_size: Sizes,
        kernel_size: Sizes,
        dilation: Sizes = 1,
        padding: Sizes = 0,
        stride: Sizes = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, *output_size) for columns (N, C x kh x kw, windows)."""
        return F.fold(
            x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"output_size={self.output_size}, {super().extra_repr()}"
