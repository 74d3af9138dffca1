"""The layers that zero elements at random while training, and do nothing in evaluation."""

from holdfast.core.nn import functional as F
from holdfast.core.nn.module import Module
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _Dropout(Module):
    """A layer with a probability."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"dropout: p is a probability, 0 to 1; found {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Return the options."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Zeroes elements with probability `p`, and scales the rest by 1 / (1 - p)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """Zeroes whole channels of (N, C, L) or (C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """Zeroes whole channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """Zeroes whole channels of (N, C, D, H, W) or (C, D, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Puts what SELU saturates at in place of elements, keeping mean and variance."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_Dropout):
    """Does what `AlphaDropout` does, to whole channels of (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)
