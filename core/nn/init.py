"""How weights begin. Each function fills a tensor in place and returns it; PyTorch's formulas.

What is drawn comes from the one generator of `holdfast.core.random` unless another is given.
"""

import math

import numpy as np

from holdfast.core import random
from holdfast.core.backend import Array, to_device
from holdfast.core.recording import no_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

Generator = np.random.Generator | None

_CONVOLUTIONS = (*(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3)))
_GAINS = {
    "linear": 1.0,
    **dict.fromkeys(_CONVOLUTIONS, 1.0),
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return by how much a nonlinearity's input should be scaled to keep the variance.

    `param` is the negative slope of "leaky_relu", 0.01 if it is left out.
    """
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise UsageError(f"the slope of leaky_relu is a number; found {param!r}")
        slope = 0.01 if param is None else param
        return math.sqrt(2 / (1 + slope**2))
    try:
        return _GAINS[nonlinearity]
    except KeyError:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise UsageError(f"unknown nonlinearity {nonlinearity!r}: expected {known}") from None


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Return the inputs and outputs that a weight (out, in, *kernel) connects."""
    if tensor.ndim < 2:
        raise UsageError(f"fans need a weight of two or more axes; found shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    """Return the inputs or the outputs that a weight connects."""
    if mode not in ("fan_in", "fan_out"):
        raise UsageError(f"mode is 'fan_in' or 'fan_out'; found {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def _fill(tensor: Tensor, values: Array | float) -> Tensor:
    """Copy `values`, which are on the host, into the tensor; no graph is recorded."""
    with no_grad():
        held = to_device(values, tensor.device) if isinstance(values, np.ndarray) else values
        return tensor.copy_(held)


def _drawing(generator: Generator) -> np.random.Generator:
    return random.generator() if generator is None else generator


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Fill with numbers evenly spread from `a` to `b`."""
    return _fill(tensor, _drawing(generator).uniform(a, b, tensor.shape))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None
) -> Tensor:
    """Fill with normal random numbers."""
    return _fill(tensor, _drawing(generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fill with normal random numbers of which those outside of `a` to `b` are drawn again.

    `a` and `b` are values, not multiples of `std`.
    """
    if not a < b or std <= 0:
        raise UsageError(f"trunc_normal_ takes a < b and std > 0; found a={a}, b={b}, std={std}")
    low, high = (a - mean) / std, (b - mean) / std
    drawn = _truncated(tensor.numel(), low, high, _drawing(generator))
    drawn *= std
    drawn += mean
    return _fill(tensor, np.clip(drawn, a, b).reshape(tensor.shape))


def _truncated(count: int, low: float, high: float, drawing: np.random.Generator) -> Array:
    """Return standard normal numbers from `low` to `high`, by rejection.

    Where few normal numbers fall in between, evenly spread ones are kept in proportion to the
    density instead, up to where it is a factor of e^-37 below its largest: float64 ends there.
    """
    share = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    peak = min(max(0.0, low), high)
    reach = math.sqrt(peak**2 + 74)
    start, stop = max(low, -reach), min(high, reach)
    found = np.empty(count)
    filled = 0
    while filled < count:
        missing = count - filled
        if share > 0.25:
            tried = drawing.standard_normal(int(missing / share * 1.1) + 8)
            kept = tried[(tried >= low) & (tried <= high)]
        else:
            tried = drawing.uniform(start, stop, 4 * missing + 8)
            kept = tried[drawing.random(tried.size) < np.exp((peak**2 - tried**2) / 2)]
        kept = kept[:missing]
        found[filled : filled + kept.size] = kept
        filled += kept.size
    return found


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return _fill(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return _fill(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """Make a matrix the identity, as far as it goes."""
    if tensor.ndim != 2:
        raise UsageError(f"eye_ fills a matrix; found shape {tensor.shape}")
    rows, columns = tensor.shape
    return _fill(tensor, np.eye(rows, columns))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Make the weight of a convolution pass its input channels on as they are, in each group."""
    if tensor.ndim not in (3, 4, 5):
        raise UsageError(
            f"dirac_ fills the weight (out, in, *kernel) of a convolution over one to three axes; "
            f"found shape {tensor.shape}"
        )
    if groups < 1 or tensor.shape[0] % groups:
        raise UsageError(
            f"the output channels must divide into the groups; found {tensor.shape[0]} channels, "
            f"groups={groups}"
        )
    values = np.zeros(tensor.shape)
    centre = tuple(size // 2 for size in tensor.shape[2:])
    outputs = tensor.shape[0] // groups
    for group in range(groups):
        for channel in range(min(outputs, tensor.shape[1])):
            values[(group * outputs + channel, channel, *centre)] = 1
    return _fill(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Fill evenly within gain * sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / (sum(_calculate_fan_in_and_fan_out(tensor)) or 1))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Fill with normal numbers of deviation gain * sqrt(2 / (fan in + fan out))."""
    deviation = gain * math.sqrt(2 / (sum(_calculate_fan_in_and_fan_out(tensor)) or 1))
    return normal_(tensor, 0.0, deviation, generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Fill evenly within gain * sqrt(3 / fan) (He et al., 2015)."""
    fan = _calculate_correct_fan(tensor, mode) or 1  # a weight without elements stays one
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / fan)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Fill with normal numbers of deviation gain / sqrt(fan) (He et al., 2015)."""
    fan = _calculate_correct_fan(tensor, mode) or 1
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(fan), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator = None) -> Tensor:
    """Fill with a random (semi-)orthogonal matrix times `gain` (Saxe et al., 2013).

    The axes after the first are taken as one; of rows and columns, the fewer are orthogonal.
    """
    if tensor.ndim < 2:
        raise UsageError(f"orthogonal_ takes two or more axes; found shape {tensor.shape}")
    if not tensor.numel():
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    drawn = _drawing(generator).standard_normal((rows, columns))
    q, r = np.linalg.qr(drawn.T if rows < columns else drawn)
    q *= np.sign(np.diagonal(r)) * gain  # makes all orthogonal matrices equally likely
    return _fill(tensor, (q.T if rows < columns else q).reshape(tensor.shape))


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator = None
) -> Tensor:
    """Fill a matrix with normal numbers, and a fraction of each column with zeros (Martens, 2010).

    `sparsity` is that fraction; the count of zeros is rounded up.
    """
    if tensor.ndim != 2:
        raise UsageError(f"sparse_ fills a matrix; found shape {tensor.shape}")
    drawing = _drawing(generator)
    rows, columns = tensor.shape
    values = drawing.normal(0.0, std, tensor.shape)
    ranks = drawing.random((rows, columns)).argsort(axis=0)
    np.put_along_axis(values, ranks[: math.ceil(sparsity * rows)], 0.0, axis=0)
    return _fill(tensor, values)
