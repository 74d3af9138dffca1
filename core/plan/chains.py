"""How a chain of elementwise steps is run: all steps on one block, then on the next.

The rule: blocks are of the first axis in the order in which the arguments lie in memory, and so
small that what the steps make on the way stays in cache.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.core.backend import Array, array_module
from holdfast.core.plan.memory import Memory
from holdfast.core.plan.passes import run_rule
from holdfast.core.plan.program import Kind, Ref, Step

BLOCK_BYTES = 256 * 1024
"""Of each array of a chain: a few of them fit a second-level cache."""

SMALL = 16 * 1024
"""Elements up to which the maximum is quicker than clipping."""


def run_chain(
    step: Step, arguments: Mapping[int, Any], kind: Kind, spent: int | None, memory: Memory
) -> Array:
    """Compute all steps of a chain; return the last value, which is of this kind.

    It overwrites the argument `spent`, if one is named.
    """
    order = _order_of_memory(arguments, kind)
    laid = {
        number: x if not x.ndim else _in_order(x, len(kind.shape), order)
        for number, x in arguments.items()
    }
    if spent is not None:
        made: Array = laid[spent]
    else:
        shape = tuple(kind.shape[axis] for axis in order)
        made = memory.take(shape, kind.dtype, array_module(*arguments.values()))
    _run_blocks(step, laid, made)
    return made if order == sorted(order) else made.transpose(np.argsort(order))


def _order_of_memory(arguments: Mapping[int, Any], kind: Kind) -> list[int]:
    """Return the axes as the first argument of the chain's shape has them in memory."""
    order = list(range(len(kind.shape)))
    like = next((x for x in arguments.values() if x.shape == kind.shape), None)
    if like is not None and not like.flags.c_contiguous:
        order.sort(key=lambda axis: -like.strides[axis])  # stable: equal ones stay as they are
    return order


def _in_order(x: Any, ndim: int, order: list[int]) -> Any:
    """Return `x` with as many axes as the chain's values have, in their order of memory."""
    if x.ndim != ndim:
        x = x.reshape((1,) * (ndim - x.ndim) + x.shape)
    return x.transpose(order)


def _run_blocks(step: Step, laid: dict[int, Any], made: Array) -> None:
    if made.nbytes <= BLOCK_BYTES or (len(step.chain) == 1 and step.chain[0].primitive in WRITERS):
        _run_block(step, laid, made)
        return
    if all(x.shape in (made.shape, ()) and x.flags.c_contiguous for x in laid.values()):
        laid = {number: x.reshape(-1) if x.ndim else x for number, x in laid.items()}
        made = made.reshape(-1)
    rows = made.shape[0]
    tall = max(1, BLOCK_BYTES * rows // made.nbytes)
    for start in range(0, rows, tall):
        block = slice(start, start + tall)
        part = {
            number: x[block] if x.ndim and x.shape[0] == rows else x for number, x in laid.items()
        }
        _run_block(step, part, made[block])


def _run_block(step: Step, known: dict[int, Any], out: Array) -> None:
    """Run all steps on arrays by number, to which their values are added; write the last."""
    for inner in step.chain:
        arguments = [known[a.number] if isinstance(a, Ref) else a for a in inner.arguments]
        if inner is step.chain[-1]:
            writer = WRITERS.get(inner.primitive)
            if writer is not None and all(_like(a, out) for a in arguments):
                writer(*arguments, out=out)
                return
        (value,) = run_rule(inner, arguments)
        known[inner.outputs[0]] = value
    out[...] = value


def _like(argument: Any, out: Array) -> bool:
    """Return whether an argument needs no promotion beside `out`."""
    return argument.__class__ in (int, float) or getattr(argument, "dtype", None) is out.dtype


def _relu(x: Any, out: Array) -> None:
    if x.size > SMALL:
        np.clip(x, 0, np.inf, out=out)
    else:
        np.maximum(x, 0, out=out)


WRITERS: Mapping[str, Callable[..., Any]] = {
    "absolute": np.absolute,
    "add": np.add,
    "cos": np.cos,
    "div": np.divide,
    "exp": np.exp,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mul": np.multiply,
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "relu": _relu,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
}
"""Primitives that can write into a place that is given them, behind their arguments."""
