"""How layers make their weights."""

import math

import numpy as np

from holdfast.core.nn import init
from holdfast.core.parameter import Parameter


def empty(*shape: int) -> Parameter:
    """Return a float32 parameter whose values are still to be set."""
    return Parameter(np.empty(shape, dtype=np.float32))


def bias_of(size: int, fan_in: int) -> Parameter:
    """Return a bias that starts evenly spread within 1 / sqrt(fan_in), as PyTorch's do."""
    bias = empty(size)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    init.uniform_(bias, -bound, bound)
    return bias
