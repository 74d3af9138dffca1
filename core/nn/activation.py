"""The layers that make a network more than linear; none but `PReLU` holds a weight."""

from typing import Any

import numpy as np

from holdfast.core.nn import functional as F
from holdfast.core.nn.module import Module
from holdfast.core.parameter import Parameter
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


def _told(**options: Any) -> str:
    """Return options as a printed layer shows them; `inplace` only where it is asked for."""
    shown = {k: v for k, v in options.items() if k != "inplace" or v}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.relu6(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class LeakyReLU(Module):
    """`x` where it is positive, else `negative_slope * x`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(negative_slope=self.negative_slope, inplace=self.inplace)


class RReLU(Module):
    """A leaky ReLU with random slopes while training, and their mean in evaluation."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(lower=self.lower, upper=self.upper, inplace=self.inplace)


class PReLU(Module):
    """`x` where it is positive, else `x` times a learned weight: one, or one per channel (C,)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init, dtype=np.float32))

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Return how many weights there are."""
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """`x` where it is positive, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(alpha=self.alpha, inplace=self.inplace)


class SELU(Module):
    """`ELU` by the constants that keep mean and variance."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.selu(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class CELU(Module):
    """`x` where it is positive, else alpha * (exp(x / alpha) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(alpha=self.alpha, inplace=self.inplace)


class GELU(Module):
    """x * P(X <= x) of a normal X; approximate="tanh" takes that for P."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.silu(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class Mish(Module):
    """x * tanh(softplus(x))."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.mish(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.sigmoid(input)


class LogSigmoid(Module):
    """The logarithm of the sigmoid."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.logsigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.tanh(input)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.tanhshrink(input)


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, or `x` itself where beta * x is over `threshold`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(beta=self.beta, threshold=self.threshold)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.softsign(input)


class Hardtanh(Module):
    """`x` limited to `min_val` and `max_val`."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if not min_val < max_val:
            raise UsageError(f"Hardtanh: expected min_val < max_val; found {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(min_val=self.min_val, max_val=self.max_val, inplace=self.inplace)


class Hardsigmoid(Module):
    """x / 6 + 1/2, limited to 0 and 1."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.hardsigmoid(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class Hardswish(Module):
    """x * hardsigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(inplace=self.inplace)


class Softshrink(Module):
    """`x` nearer to 0 by `lambd`, and 0 where it is nearer than that."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Return the options."""
        return str(self.lambd)


class Hardshrink(Module):
    """0 in the place of what is no farther from 0 than `lambd`."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Return the options."""
        return str(self.lambd)


class Threshold(Module):
    """`value` in the place of what is not over `threshold`."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(threshold=self.threshold, value=self.value, inplace=self.inplace)


class GLU(Module):
    """The first half along `dim` times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Return half the size of `input` along `dim`."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Return the options."""
        return _told(dim=self.dim)
