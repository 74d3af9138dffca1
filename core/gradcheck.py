"""Whether gradients are right: backward against central differences, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.higher import grad
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import GradientError


def check_gradients(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    step: float = 1e-6,
    tolerance: float = 1e-5,
) -> None:
    """Check the gradient of `function(*arguments, **options)` by every floating argument.

    The output, a tensor or a tuple of them, is projected on one random cotangent, and each argument
    moved in one random direction: the slope of the projection, by central differences, must be the
    inner product of the gradient and the direction. The function must be smooth at the arguments,
    and draw the same random numbers each time. Raises GradientError that names the argument and
    both slopes.
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
    outs = _floating(function(*leaves, **options))
    cotangents = [rng.standard_normal(out.shape) for out in outs]
    linked = [(out, g) for out, g in zip(outs, cotangents, strict=True) if out.requires_grad]
    if linked:
        sum(((out * Tensor(g)).sum() for out, g in linked), Tensor(np.zeros(()))).backward()

    def projected(i: int, moved: Any) -> float:
        """Return the projection with argument `i` moved, still as a tensor like the others."""
        inputs = [Tensor(base) if k in floating else base for k, base in enumerate(bases)]
        inputs[i] = Tensor(moved)
        values = _floating(function(*inputs, **options))
        pairs = zip(values, cotangents, strict=True)
        return float(sum((value.array * g).sum() for value, g in pairs))

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


def check_second_gradients(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    tolerance: float = 1e-5,
) -> None:
    """Check the gradient of the gradient of `function(*arguments, **options)` in the same way.

    What is checked is the inner product of the gradient, computed with a graph, and a random
    direction.
    """
    options = dict(options or {})
    bases = [_in_float64(raw(argument)) for argument in arguments]
    rng = np.random.default_rng(seed + 1)
    directions = [Tensor(rng.standard_normal(np.shape(base))) for base in bases]
    cotangents: list[Tensor] = []

    def slope(*inputs: Any) -> Tensor:
        leaves = [
            Tensor(x.array, requires_grad=True) if isinstance(x, Tensor) and not x.node else x
            for x in inputs
        ]
        outs = [out for out in _floating(function(*leaves, **options)) if out.requires_grad]
        if not cotangents:
            cotangents.extend(Tensor(rng.standard_normal(out.shape)) for out in outs)
        asked = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        found = grad(
            outs, [leaves[i] for i in asked], cotangents, create_graph=True, allow_unused=True
        )
        parts = [
            (part * directions[i]).sum()
            for i, part in zip(asked, found, strict=True)
            if part is not None
        ]
        return sum(parts, Tensor(np.zeros(())))

    slope.__name__ = f"the gradient of {getattr(function, '__name__', repr(function))}"
    check_gradients(slope, tuple(bases), seed=seed, tolerance=tolerance)


def _floating(value: Any) -> list[Tensor]:
    """Return the outputs that have gradients."""
    outs = value if isinstance(value, tuple) else (value,)
    return [out for out in outs if is_floating(out.dtype)]


def _in_float64(value: Any) -> Any:
    floating = hasattr(value, "dtype") and is_floating(value.dtype)
    return np.asarray(value, dtype=np.float64) if floating else value
