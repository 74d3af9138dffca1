"""How layers make their weights."""

import math
from typing import Any

from holdfast.core.backend import backend
from holdfast.core.nn import init
from holdfast.core.parameter import Parameter
from holdfast.core.primitive import DEFAULT_FLOAT


def empty(*shape: int, device: str | None = None, dtype: Any = None) -> Parameter:
    """Return a parameter, float32 unless told, whose values are still to be set."""
    kind = DEFAULT_FLOAT if dtype is None else dtype
    return Parameter(backend(device or "cpu").empty(shape, dtype=kind))


def bias_of(size: int, fan_in: int, *, device: str | None = None, dtype: Any = None) -> Parameter:
    """Return a bias that starts evenly spread within 1 / sqrt(fan_in), as PyTorch's do."""
    bias = empty(size, device=device, dtype=dtype)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    init.uniform_(bias, -bound, bound)
    return bias
