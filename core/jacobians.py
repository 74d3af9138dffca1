"""Derivatives of functions of tensors: Jacobians and Hessians, whole or times a vector.

Names, arguments and results are those of torch.autograd.functional. `inputs` are a tensor or a
tuple of them, and so are results: with tuples a Jacobian is a tuple, per output, of tuples, per
input. Without `create_graph` nothing that is returned has a graph; with it, results depend on those
inputs that require a gradient. With `strict`, GradientError is raised where an output does not
depend on an input; otherwise its derivative is zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.functions_shape import stack
from holdfast.core.higher import grad
from holdfast.core.primitive import wrap
from holdfast.core.recording import enable_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import GradientError, UsageError

Tensors = Tensor | tuple[Tensor, ...]

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def jacobian(
    func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False
) -> Any:
    """Return the derivative of each output by each input, of shape `output.shape + input.shape`.

    It is computed row by row: one backward per element of the outputs.
    """
    with enable_grad():
        leaves = _leaves(inputs, create_graph)
        result = func(*leaves)
        found = tuple(
            jacobian_rows(out, leaves, create_graph, strict, f"output {i}")
            for i, out in enumerate(_tuple("jacobian", result))
        )
    if not isinstance(inputs, tuple):
        return _like(result, tuple(rows[0] for rows in found))
    return _like(result, found)


def jacobian_rows(
    out: Tensor,
    leaves: list[Tensor],
    create_graph: bool = False,
    strict: bool = False,
    what: str = "the output",
) -> tuple[Tensor, ...]:
    """Return the derivatives of `out`, which may be used again, by each of `leaves`."""
    rows: list[list[Tensor]] = [[] for _ in leaves]
    module, size = array_module(out.array), out.numel()
    for at in range(size):
        seed = module.zeros(out.shape, dtype=out.dtype)
        seed.reshape(-1)[at] = 1
        found = _grad([out], leaves, [wrap(seed)], create_graph, strict, what)
        for row, part in zip(rows, found, strict=True):
            row.append(part)
    return tuple(
        _without_graph(stack(row) if row else leaf.new_zeros(0), create_graph).reshape(
            out.shape + leaf.shape
        )
        for row, leaf in zip(rows, leaves, strict=True)
    )


def hessian(
    func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False
) -> Any:
    """Return the second derivatives of the one element that `func` returns.

    Entry `[i][j]`, for a tuple of inputs, has the shape of input i and then that of input j.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)

    def slope(*tensors: Tensor) -> Any:
        return jacobian(
            lambda *xs: _single("hessian", func(*xs)), tensors, create_graph=True, strict=strict
        )

    found = jacobian(slope, given, create_graph, strict)
    return found if isinstance(inputs, tuple) else found[0][0]


def vjp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return what `func` does, and `v`, of its outputs' shapes, times its Jacobian.

    `v` may be left out for a single element. One backward.
    """
    with enable_grad():
        leaves = _leaves(inputs, create_graph)
        result = func(*leaves)
        outs = _tuple("vjp", result)
        seeds = _vector("vjp", v, outs, "outputs")
        found = _grad(outs, leaves, seeds, create_graph, strict, "the outputs")
    return _result(result, create_graph), _results(inputs, found, create_graph)


def jvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return what `func` does, and its Jacobian times `v`, which has the inputs' shapes.

    `v` may be left out for a single element. It takes two backward passes: `v J'` is linear in `v`,
    and its derivative by that is the Jacobian.
    """
    with enable_grad():
        leaves = _leaves(inputs, create_graph)
        result = func(*leaves)
        outs = _tuple("jvp", result)
        vector = _vector("jvp", v, leaves, "inputs")
        dummies = [Tensor(np.zeros_like(out.array), requires_grad=True) for out in outs]
        slopes = _grad(outs, leaves, dummies, True, strict, "the outputs")
        found = _grad(slopes, dummies, vector, create_graph, False, "the slopes")
    return _result(result, create_graph), _results(result, found, create_graph)


def vhp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return the one element that `func` does, and `v` times its Hessian.

    `v`, of the inputs' shapes, may be left out for a single element. Two backward passes.
    """
    with enable_grad():
        leaves = _leaves(inputs, create_graph)
        result = func(*leaves)
        vector = _vector("vhp", v, leaves, "inputs")
        slopes = _grad([_single("vhp", result)], leaves, [None], True, strict, "the output")
        found = _grad(slopes, leaves, vector, create_graph, strict, "the gradient")
    return _result(result, create_graph), _results(inputs, found, create_graph)


def hvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return the one element that `func` does, and its Hessian times `v`: what `vhp` returns.

    Where second derivatives are continuous, a Hessian is symmetric.
    """
    return vhp(func, inputs, v, create_graph, strict)


def _leaves(inputs: Tensors, create_graph: bool) -> list[Tensor]:
    """Return tensors over the inputs that nothing else depends on, linked to those with a graph."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    for x in given:
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs are a tensor or a tuple of tensors; found {type(x).__name__}")
    return [
        x.reshape(x.shape) if create_graph and x.requires_grad else Tensor(x.array, True)
        for x in given
    ]


def _tuple(name: str, result: Any) -> tuple[Tensor, ...]:
    outs = result if isinstance(result, tuple) else (result,)
    for out in outs:
        if not isinstance(out, Tensor):
            raise TypeError(
                f"{name}: the function returns a tensor or a tuple of tensors; found "
                f"{type(out).__name__}"
            )
    return outs


def _single(name: str, result: Any) -> Tensor:
    if not isinstance(result, Tensor) or result.numel() != 1:
        found = f"shape {result.shape}" if isinstance(result, Tensor) else type(result).__name__
        raise UsageError(f"{name}: the function returns a tensor of one element; found {found}")
    return result.reshape(())


def _vector(
    name: str, v: Tensors | None, like: Sequence[Tensor], what: str
) -> list[Tensor] | list[None]:
    """Return `v` as a list, checked against the tensors whose shapes it has."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise UsageError(f"{name}: v may be left out only for {what} of a single element")
        return [wrap(np.ones_like(like[0].array))]
    given = list(v) if isinstance(v, tuple) else [v]
    if [part.shape for part in given] != [tensor.shape for tensor in like]:
        raise UsageError(
            f"{name}: v has the shapes of the {what}, {[tensor.shape for tensor in like]}; found "
            f"{[part.shape for part in given]}"
        )
    return given


def _grad(
    outs: Sequence[Tensor],
    leaves: list[Tensor],
    seeds: Sequence[Tensor | None],
    create_graph: bool,
    strict: bool,
    what: str,
) -> list[Tensor]:
    """Return the gradients by all leaves, zeros where the outputs do not depend on them."""
    linked = [(out, seed) for out, seed in zip(outs, seeds, strict=True) if out.requires_grad]
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if linked:
        ends, cotangents = zip(*linked, strict=True)
        found = grad(ends, leaves, list(cotangents), True, create_graph, allow_unused=True)
    made = []
    for i, (part, leaf) in enumerate(zip(found, leaves, strict=True)):
        if part is None and strict:
            raise GradientError(f"strict: {what} of the function does not depend on input {i}")
        made.append(wrap(np.zeros_like(leaf.array)) if part is None else part)
    return made


def _without_graph(tensor: Tensor, create_graph: bool) -> Tensor:
    return tensor if create_graph else tensor.detach()


def _like(given: Any, found: tuple[Any, ...]) -> Any:
    """Return a tuple where a tuple was given, else its only entry."""
    return found if isinstance(given, tuple) else found[0]


def _results(given: Any, found: Sequence[Tensor], create_graph: bool) -> Any:
    return _like(given, tuple(_without_graph(tensor, create_graph) for tensor in found))


def _result(result: Any, create_graph: bool) -> Any:
    return _results(result, result if isinstance(result, tuple) else (result,), create_graph)
