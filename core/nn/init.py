"""How weights begin. Each function fills a tensor in place, with PyTorch's formulas."""

import math

from holdfast.core import random
from holdfast.core.backend import array_module
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return the inputs and outputs that a weight (out, in, *kernel) connects."""
    if tensor.ndim < 2:
        raise UsageError(f"fans need a weight of two or more axes; found shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def gain(nonlinearity: str, parameter: float | None = None) -> float:
    """Return by how much a nonlinearity's input should be scaled to keep the variance."""
    gains = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}
    if nonlinearity == "leaky_relu":
        slope = 0.01 if parameter is None else parameter
        return math.sqrt(2 / (1 + slope**2))
    try:
        return gains[nonlinearity]
    except KeyError:
        known = ", ".join([*gains, "leaky_relu"])
        raise UsageError(f"unknown nonlinearity {nonlinearity!r}: expected {known}") from None


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with numbers evenly spread from `a` to `b`."""
    drawn = random.generator().uniform(a, b, tensor.shape)
    tensor.array[...] = array_module(tensor.array).asarray(drawn, dtype=tensor.dtype)
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal random numbers."""
    drawn = random.generator().normal(mean, std, tensor.shape)
    tensor.array[...] = array_module(tensor.array).asarray(drawn, dtype=tensor.dtype)
    return tensor


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with one value."""
    tensor.array[...] = value
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise UsageError(f"mode is 'fan_in' or 'fan_out'; found {mode!r}")
    return fans(tensor)[mode == "fan_out"]


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill evenly within gain * sqrt(3 / fan) (He et al., 2015)."""
    bound = gain(nonlinearity, a) * math.sqrt(3 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill with normal numbers of deviation gain / sqrt(fan) (He et al., 2015)."""
    return normal_(tensor, 0.0, gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill evenly within gain * sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with normal numbers of deviation gain * sqrt(2 / (fan in + fan out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))))
