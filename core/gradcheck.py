"""Whether gradients are right: backward against central differences.

`check_gradients` compares along random directions, in float64, and is quick; `gradcheck` compares
whole Jacobians, as PyTorch does, in the dtype that it is given.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.higher import grad
from holdfast.core.jacobians import jacobian_rows
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


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Return whether the Jacobian of `func(*inputs)` is that of central differences of step `eps`.

    It is taken by each input that requires a gradient, and computed twice: by backward, and by
    moving each element in turn, in place, so that `func` may also close over the inputs. Entries
    may differ by `atol + rtol * |difference|`; the defaults are for float64. Raises GradientError
    that names output, input and entry, unless `raise_exception` is False. As
    torch.autograd.gradcheck in its slow mode.
    """
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    asked = {i: x for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad}
    if not asked:
        raise GradientError("gradcheck: no input requires a gradient")
    for i, x in asked.items():
        if x.dtype != np.float64:
            warnings.warn(
                f"gradcheck: input {i} is {x.dtype}, and differences of so small a step are likely "
                "to be wrong: use float64",
                stacklevel=2,
            )
    outs = _outputs(func(*given))
    if not outs:
        raise GradientError("gradcheck: the function returns no tensor of floats")
    analytical = [jacobian_rows(out, list(asked.values())) for out in outs]
    for k, (i, x) in enumerate(asked.items()):
        if not x.numel():
            continue
        numerical = _differences(lambda: _outputs(func(*given)), x, eps)
        for at, (found, expected) in enumerate(zip(analytical, numerical, strict=True)):
            mine = found[k].array.reshape(expected.shape)
            wrong = ~np.isclose(mine, expected, rtol=rtol, atol=atol)
            if not wrong.any():
                continue
            if not raise_exception:
                return False
            row, column = np.argwhere(wrong)[0]
            raise GradientError(
                f"gradcheck: the derivative of output {at} by input {i} is wrong in "
                f"{wrong.sum()} of {wrong.size} entries; the first is that of element {row} by "
                f"element {column}: {mine[row, column]:.9g} by backward, "
                f"{expected[row, column]:.9g} by central differences"
            )
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Return whether the gradient of the gradient of `func` is right, as `gradcheck` finds it.

    What is checked is the gradient as a function of the inputs and of `grad_outputs`, those that
    require a gradient; random ones that do if they are left out.
    """
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        cotangents = [
            Tensor(rng.uniform(-1, 1, out.shape).astype(out.dtype), requires_grad=True)
            for out in _outputs(func(*given))
        ]
    else:
        cotangents = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    asked = [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def gradient(*arguments: Any) -> tuple[Tensor, ...]:
        outs = _outputs(func(*arguments[: len(given)]))
        linked = [
            (out, g)
            for out, g in zip(outs, arguments[len(given) :], strict=True)
            if out.requires_grad
        ]
        if not (linked and asked):
            raise GradientError("gradgradcheck: no output depends on an input with a gradient")
        ends, seeds = zip(*linked, strict=True)
        found = grad(ends, asked, list(seeds), create_graph=True, allow_unused=True)
        return tuple(part for part in found if part is not None)

    return gradcheck(
        gradient,
        [*given, *cotangents],
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
    )


def _outputs(value: Any) -> list[Tensor]:
    """Return the outputs that have gradients, of those that are tensors."""
    outs = value if isinstance(value, (tuple, list)) else (value,)
    return [out for out in outs if isinstance(out, Tensor) and is_floating(out.dtype)]


def _differences(function: Callable[[], list[Tensor]], x: Tensor, eps: float) -> list[Any]:
    """Return, for each output, the slopes of its elements by those of `x`, which is moved."""
    array = x.array
    columns: list[list[Any]] = []
    for at in np.ndindex(array.shape):
        held = array[at].copy()
        values = []
        for step in (eps, -eps):
            array[at] = held + step
            try:
                values.append([out.array.reshape(-1).copy() for out in function()])
            finally:
                array[at] = held
        columns.append([(a - b) / (2 * eps) for a, b in zip(*values, strict=True)])
    return [np.stack(slopes, axis=1) for slopes in zip(*columns, strict=True)]
