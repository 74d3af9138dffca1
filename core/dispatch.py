"""NumPy's functions on tensors: they become the primitives that do the same.

So `np.exp(tensor)` is a tensor with a gradient, and a primitive's rule, written for arrays, can be
run on tensors where its gradient is to be differentiated again (see `higher.py`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core import primitive as driver
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError

UFUNCS = {
    np.add: "add",
    np.subtract: "sub",
    np.multiply: "mul",
    np.divide: "div",
    np.power: "power",
    np.float_power: "power",
    np.negative: "neg",
    np.absolute: "absolute",
    np.matmul: "matmul",
}
"""Where a primitive has another name than NumPy's function; the others have the same."""


def _names(function: Any) -> str:
    return UFUNCS.get(function, getattr(function, "__name__", repr(function)))


def universal(ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Answer `ufunc(*inputs)` by the primitive of that name."""
    out = options.pop("out", None)
    if out is not None:
        raise GradientError(
            f"np.{ufunc.__name__} cannot write into {type(out[0]).__name__} from tensors: leave "
            "out= away"
        )
    entry = driver.find(_names(ufunc))
    if method == "__call__" and entry is not None and not options:
        return entry.operation(*inputs)
    return _without_gradient(ufunc.__name__, getattr(ufunc, method), inputs, options)


def function(called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer a NumPy function on tensors."""
    answer = FUNCTIONS.get(called)
    if answer is not None:
        return answer(*args, **kwargs)
    return _without_gradient(called.__name__, called, args, kwargs)


def _without_gradient(
    name: str, called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run what has no gradient on the arrays; refuse if the result could have one."""
    linked = any(isinstance(a, Variable) and a.node is not None for a in _flat((args, kwargs)))
    result = called(*_bare(args), **_bare(kwargs))
    if linked and getattr(result, "dtype", np.dtype(bool)).kind not in "biu":
        raise GradientError(
            f"np.{name} has no gradient on tensors: use a tensor's methods, or detach() it"
        )
    return driver.wrap(result) if isinstance(result, np.ndarray | np.generic) else result


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in _flat(part)]
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in _flat(part)]
    return [tree]


def _bare(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _bare(part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_bare(part) for part in tree)
    return raw(tree)


def _run(name: str, *args: Any, **options: Any) -> Any:
    entry = driver.find(name)
    if entry is None:
        raise GradientError(f"there is no primitive {name!r} to answer NumPy with")
    return entry.operation(*args, **options)


def _reduction(name: str) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        value = _run(name, x, dim=axis, keepdim=keepdims)
        return value if dtype is None else value.to(dtype)

    return reduce


def _expand_dims(x: Any, axis: int | tuple[int, ...]) -> Any:
    return x.reshape(np.expand_dims(np.empty(x.shape, dtype=bool), axis).shape)


def _squeeze(x: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    return x.reshape(np.squeeze(np.empty(x.shape, dtype=bool), axis).shape)


def _permuted(x: Any, axes: Any) -> Any:
    return _run("permute", x, dims=tuple(axes))


def _transpose(x: Any, axes: Any = None) -> Any:
    return _permuted(x, range(x.ndim)[::-1] if axes is None else axes)


def _swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    order = list(range(x.ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return _permuted(x, order)


def _moveaxis(x: Any, source: int, destination: int) -> Any:
    order = [axis for axis in range(x.ndim) if axis != source % x.ndim]
    order.insert(destination % x.ndim, source % x.ndim)
    return _permuted(x, order)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _reduction("sum"),
    np.mean: _reduction("mean"),
    np.max: _reduction("amax"),
    np.min: _reduction("amin"),
    np.prod: _reduction("prod"),
    np.reshape: lambda x, shape: x.reshape(shape),
    np.expand_dims: _expand_dims,
    np.squeeze: _squeeze,
    np.transpose: _transpose,
    np.swapaxes: _swapaxes,
    np.moveaxis: _moveaxis,
    np.broadcast_to: lambda x, shape: _run("broadcast", x, shape=tuple(shape)),
    np.concatenate: lambda parts, axis=0: _run("concatenate", *parts, dim=axis),
    np.stack: lambda parts, axis=0: _run("stack", *parts, dim=axis),
    np.where: lambda condition, x, y: _run("where", condition, x, y),
    np.clip: lambda x, low, high: _run("clamp", x, low, high),
    np.take_along_axis: lambda x, indices, axis: _run("gather", x, raw(indices), dim=axis),
    np.zeros_like: lambda x, **options: driver.wrap(np.zeros_like(raw(x), **options)),
    np.ones_like: lambda x, **options: driver.wrap(np.ones_like(raw(x), **options)),
}
