"""What makes a network more than linear, as functions: PyTorch's names and arguments.

`inplace=True` gives leave to reuse the memory of `input`: use the returned tensor, as it says
nothing about what `input` holds afterwards.
"""

import warnings
from typing import Any

import numpy as np

from holdfast.core import random
from holdfast.core.backend import array_module
from holdfast.core.ops import activation
from holdfast.core.ops import gelu as gaussian
from holdfast.core.ops import softmax as soft
from holdfast.core.ops.activation import logsigmoid, prelu, sigmoid, softsign, tanhshrink
from holdfast.core.ops.transcendental import tanh
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor

__all__ = [
    "celu", "elu", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "leaky_relu", "log_softmax", "logsigmoid", "mish", "prelu", "relu", "relu6",
    "rrelu", "selu", "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink", "softsign",
    "tanh", "tanhshrink", "threshold",
]  # fmt: skip

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0)."""
    return activation.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(x, 0), 6)."""
    return activation.hardtanh(input, low=0.0, high=6.0)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return `x` where it is positive, else `negative_slope * x`."""
    return activation.leaky_relu(input, slope=negative_slope)


def rrelu(
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Return `leaky_relu` with the mean slope; while training, with a random one per element."""
    if not training:
        return activation.leaky_relu(input, slope=(lower + upper) / 2)
    drawn = random.generator().uniform(lower, upper, input.shape)
    slopes = array_module(input.array).asarray(drawn, dtype=input.dtype)
    factors = np.where(input.array > 0, np.ones_like(slopes), slopes)
    return input * wrap(factors)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return `x` where it is positive, else alpha * (exp(x) - 1). arXiv:1511.07289."""
    return activation.elu(input, alpha=alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return `elu` by the constants that keep mean and variance. arXiv:1706.02515."""
    return activation.elu(input, alpha=SELU_ALPHA, scale=SELU_SCALE)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return `x` where it is positive, else alpha * (exp(x / alpha) - 1). arXiv:1704.07483."""
    return activation.elu(input, alpha=alpha, input_scale=1 / alpha)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x * P(X <= x) of a normal X; approximate="tanh" takes that for P."""
    return gaussian.gelu(input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x * sigmoid(x)."""
    return activation.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x * tanh(softplus(x)). arXiv:1908.08681."""
    return activation.mish(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta * x)) / beta, or `x` itself where beta * x is over `threshold`."""
    return activation.softplus(input, beta=beta, threshold=threshold)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """Limit to `min_val` and `max_val`."""
    return activation.hardtanh(input, low=min_val, high=max_val)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x / 6 + 1/2, limited to 0 and 1."""
    return activation.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x * hardsigmoid(x). arXiv:1905.02244."""
    return activation.hardswish(input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Bring `x` nearer to 0 by `lambd`, and to 0 where it is nearer than that."""
    return activation.softshrink(input, lambd=lambd)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Set to 0 what is no farther from 0 than `lambd`."""
    return activation.hardshrink(input, lambd=lambd)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Put `value` in the place of what is not over `threshold`."""
    return activation.threshold(input, threshold=threshold, value=value)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return the first half along `dim` times the sigmoid of the second. arXiv:1612.08083."""
    return activation.glu(input, dim=dim)


def softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Return the exponentials along `dim`, scaled to sum to 1; `dtype` is converted to first."""
    given = input if dtype is None else input.to(dtype)
    return soft.softmax(given, dim=_chosen_dim("softmax", input, dim))


def softmin(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Return the softmax of -x along `dim`; `dtype` is converted to first."""
    given = input if dtype is None else input.to(dtype)
    return soft.softmax(-given, dim=_chosen_dim("softmin", input, dim))


def log_softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Return the logarithms of the softmax along `dim`; `dtype` is converted to first."""
    given = input if dtype is None else input.to(dtype)
    return soft.log_softmax(given, dim=_chosen_dim("log_softmax", input, dim))


def _chosen_dim(name: str, input: Tensor, dim: int | None) -> int:
    """Choose the axis as PyTorch does, and say so as it does."""
    if dim is not None:
        return dim
    chosen = 0 if input.ndim in (0, 1, 3) else 1
    warnings.warn(f"{name} without dim chose axis {chosen}: give dim", stacklevel=3)
    return chosen


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Return a sample of the Gumbel-softmax distribution at temperature `tau`.

    With `hard` it is one-hot, while its gradient stays that of the soft sample. `eps` has no
    effect, as in PyTorch. E. Jang and others, arXiv:1611.01144.
    """
    drawn = -np.log(random.generator().standard_exponential(logits.shape))
    noise = wrap(array_module(logits.array).asarray(drawn, dtype=logits.dtype))
    soft_sample = soft.softmax((logits + noise) / tau, dim=dim)
    if not hard:
        return soft_sample
    values = soft_sample.array
    axis = dim % values.ndim
    first = np.expand_dims(np.argmax(values, axis=axis), axis)
    places = array_module(values).arange(values.shape[axis])
    one_hot = first == places.reshape((-1,) + (1,) * (values.ndim - 1 - axis))
    return wrap(one_hot.astype(values.dtype)) - soft_sample.detach() + soft_sample
