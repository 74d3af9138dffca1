"""Whether gradients are right: backward against central differences, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import GradientError


def check_gradients(
    function: Callable[..., Tensor],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    step: float = 1e-6,
    tolerance: float = 1e-5,
) -> None:
    """Check the gradient of `function(*arguments, **options)` by every floating argument.

    The output is projected on one random cotangent, and each argument moved in one random
    direction: the slope of the projection, by central differences, must be the inner product of the
    gradient and the direction. The function must be smooth at the arguments, and draw the same
    random numbers each time. Raises GradientError that names the argument and both slopes.
    """
    rng = np.random.default_rng(seed)
    options = dict(options or {})
    bases = [_in_float64(raw(argument)) for argument in arguments]
    floating = [i for i, base in enumerate(bases) if getattr(base, "dtype", None) == np.float64]
    if not floating:
        raise GradientError("there is no floating argument whose gradient could be checked")
    leaves = [
        Tensor(base, requires_grad=True) if i in floating else base for i, base in enumerate(bases)
    ]
    output = function(*leaves, **options)
    cotangent = rng.standard_normal(output.shape)
    output.backward(cotangent)

    def projected(i: int, moved: Any) -> float:
        """Return the projection with argument `i` moved, still as a tensor like the others."""
        inputs = [Tensor(base) if k in floating else base for k, base in enumerate(bases)]
        inputs[i] = Tensor(moved)
        return float((function(*inputs, **options).array * cotangent).sum())

    for i in floating:
        direction = rng.standard_normal(bases[i].shape)
        ahead, behind = (projected(i, bases[i] + s * step * direction) for s in (+1, -1))
        slope = (ahead - behind) / (2 * step)
        gradient = leaves[i].grad
        found = 0.0 if gradient is None else float((gradient.array * direction).sum())
        if not abs(found - slope) <= tolerance * max(1.0, abs(slope)):
            name = getattr(function, "__name__", repr(function))
            raise GradientError(
                f"{name}: the gradient by argument {i} of shape {bases[i].shape} gives a slope of "
                f"{found:.9g}, central differences give {slope:.9g} (seed {seed})"
            )


def _in_float64(value: Any) -> Any:
    floating = hasattr(value, "dtype") and value.dtype.kind == "f"
    return np.asarray(value, dtype=np.float64) if floating else value
