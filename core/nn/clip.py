"""Clipping of gradients, with PyTorch's names: by their norm, or each by its value.

Rule: what is clipped is what `param.grad` shows. In a job of several ranks that is the sum over the
ranks once there is one, which all of them clip alike; where they share its memory, each clips a
copy of its own (`Arena.rewrite`).
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from holdfast.core.arena import Arena
from holdfast.core.backend import Array, array_module
from holdfast.core.norms import total_norm
from holdfast.core.parameter import Parameter
from holdfast.core.tensor import Tensor
from holdfast.errors import GradientError

Rewrite = Callable[[Array, Array], None]


class _Gradients:
    """The gradients of some parameters: stretches of arenas, and arrays by themselves."""

    def __init__(self, parameters: Tensor | Iterable[Tensor]) -> None:
        given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        arenas: dict[int, tuple[Arena, set[int]]] = {}
        loose: dict[int, Tensor] = {}
        for p in given:
            arena = p.arena if isinstance(p, Parameter) else None
            if arena is not None:
                arenas.setdefault(id(arena), (arena, set()))[1].add(id(p))
            elif p.grad is not None:
                loose[id(p)] = p.grad
        self.loose = [grad.array for grad in loose.values()]
        self.parts = [
            (arena, arena.ready(p for p in arena.parameters if id(p) not in wanted))
            for arena, wanted in arenas.values()
        ]

    def arrays(self) -> list[Array]:
        flat = [arena.shown[part] for arena, parts in self.parts for part in parts]
        return flat + self.loose

    def rewrite(self, function: Rewrite) -> None:
        for arena, parts in self.parts:
            if parts:
                arena.rewrite(function, parts)
        for array in self.loose:
            function(array, array)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients so that their norm, taken as one vector, is at most `max_norm`.

    Returns the norm that they had. Where that is not finite, neither are the gradients then, unless
    `error_if_nonfinite`: then it raises GradientError, and changes nothing.
    """
    gradients = _Gradients(parameters)
    total = _total(gradients.arrays(), norm_type, error_if_nonfinite)
    _scale(gradients, max_norm, total.item())
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor
) -> None:
    """Scale the gradients by max_norm / total_norm, if that is below 1."""
    _scale(_Gradients(parameters), max_norm, float(total_norm))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring each element of the gradients between -clip_value and clip_value."""
    limit = float(clip_value)
    _Gradients(parameters).rewrite(lambda x, out: _clip(x, out, limit))


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Return the norm of all elements of `tensors`, taken as one vector.

    Raises GradientError for one that is not finite if `error_if_nonfinite`.
    """
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    return _total([t.array for t in given], norm_type, error_if_nonfinite)


def _total(arrays: list[Array], norm_type: float, error_if_nonfinite: bool) -> Tensor:
    total = total_norm(arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(total):
        raise GradientError(
            f"the gradients' norm of order {norm_type} is {total}: it cannot be clipped. Find what "
            "made it under holdfast.detect_anomaly(), or leave error_if_nonfinite out"
        )
    like = arrays[0] if arrays else np.zeros(0, np.float32)
    return Tensor(array_module(like).asarray(total, dtype=like.dtype))


def _scale(gradients: _Gradients, max_norm: float, total: float) -> None:
    factor = max_norm / (total + 1e-6)
    if not factor >= 1:  # a NaN goes on
        gradients.rewrite(partial(_multiply, factor=factor))


def _multiply(x: Array, out: Array, factor: float) -> None:
    with np.errstate(invalid="ignore"):  # of what is not finite
        np.multiply(x, factor, out=out)


def _clip(x: Array, out: Array, limit: float) -> None:
    np.clip(x, -limit, limit, out=out)
