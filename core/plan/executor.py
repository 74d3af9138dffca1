"""How a plan is run: step after step on arrays, with memory that is used again.

The rule: a value is forgotten when its last reader is done, and memory that nobody refers to any
more is taken for the next value of the same size.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.core.backend import Array, array_module
from holdfast.core.plan.passes import run_rule
from holdfast.core.plan.program import Program, Ref, Step
from holdfast.core.primitive import wrap
from holdfast.core.variable import raw
from holdfast.errors import UsageError

BLOCK_BYTES = 256 * 1024
"""Of each array of a chain: a few of them fit a second-level cache."""


class Plan:
    """A program that can be called: `plan(*inputs)` returns what the traced model returns.

    Inputs are tensors or arrays of the shapes and dtypes of the examples. Memory of outputs is used
    again once nobody holds them. Not to be called by two threads at once.
    """

    def __init__(self, program: Program, single: bool = True) -> None:
        self.program = program
        self.single = single
        self._forgotten = _after_each_step(program)
        self._memory = _Memory()

    def __call__(self, *inputs: Any) -> Any:
        """Return the outputs: a tensor, or a tuple of them if the model returned one."""
        values = self._given(inputs)
        kinds = self.program.kinds
        for step, forgotten in zip(self.program.steps, self._forgotten, strict=True):
            out = kinds[step.outputs[0]]
            if step.chain:
                values[step.outputs[0]] = _run_chain(step, values, out, self._memory)
            else:
                arguments = [values[a.number] if isinstance(a, Ref) else a for a in step.arguments]
                quick = INTO.get(step.primitive)
                made = None if quick is None else quick(arguments, out, self._memory)
                parts = run_rule(step, arguments) if made is None else (made,)
                values.update(zip(step.outputs, parts, strict=True))
                del arguments, made, parts
            for number in forgotten:
                del values[number]
        outs = tuple(wrap(values[number]) for number in self.program.outputs)
        return outs[0] if self.single else outs

    def _given(self, inputs: tuple[Any, ...]) -> dict[int, Any]:
        program = self.program
        if len(inputs) != len(program.inputs):
            raise UsageError(
                f"the plan takes {len(program.inputs)} inputs, as traced; found {len(inputs)}"
            )
        values: dict[int, Any] = dict(program.constants)
        for i, (number, given) in enumerate(zip(program.inputs, inputs, strict=True)):
            array, kind = raw(given), program.kinds[number]
            if array.shape != kind.shape or array.dtype != kind.dtype:
                raise UsageError(
                    f"input {i}: the plan was traced for {kind.dtype} of shape {kind.shape}; found "
                    f"{array.dtype} of shape {array.shape}: trace the model for that"
                )
            values[number] = array
        return values

    def __str__(self) -> str:
        return str(self.program)


def _after_each_step(program: Program) -> list[list[int]]:
    """Return for each step the values that nobody reads after it."""
    last: dict[int, int] = {}
    for at, step in enumerate(program.steps):
        for number in (*step.reads(), *step.outputs):
            last[number] = at
    forgotten: list[list[int]] = [[] for _ in program.steps]
    for number, at in last.items():
        if number not in program.outputs:
            forgotten[at].append(number)
    return forgotten


class _Memory:
    """Flat arrays that values are made in; one is free while nothing refers to it, or views it."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, Any, Any], list[Array]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], module: Any = np) -> Array:
        """Return an array whose contents are undefined."""
        size = int(np.prod(shape, dtype=np.int64))
        held = self._held.setdefault((size, dtype, module), [])
        for flat in held:
            if sys.getrefcount(flat) == _FREE:
                return flat.reshape(shape)
        flat = module.empty(size, dtype=dtype)
        held.append(flat)
        made: Array = flat.reshape(shape)
        return made


def _references_of_a_free_one() -> int:
    held = [np.empty(1)]
    for flat in held:
        return sys.getrefcount(flat)
    raise AssertionError


_FREE = _references_of_a_free_one()


def _linear(arguments: list[Any], out: Any, memory: _Memory) -> Array | None:
    x, weight, *rest = arguments
    if x.ndim < 2 or x.dtype.kind != "f" or x.dtype != weight.dtype or x.dtype.itemsize < 4:
        return None
    made = memory.take(out.shape, out.dtype, array_module(x))
    flat = made.reshape(-1, weight.shape[0])
    np.matmul(x.reshape(-1, weight.shape[1]), weight.T, out=flat)
    if rest and rest[0] is not None:
        np.add(flat, rest[0], out=flat)
    return made


def _matmul(arguments: list[Any], out: Any, memory: _Memory) -> Array | None:
    x, y = arguments
    if x.ndim < 2 or y.ndim < 2 or x.dtype.kind != "f" or x.dtype != y.dtype:
        return None
    if x.dtype.itemsize < 4:
        return None
    made = memory.take(out.shape, out.dtype, array_module(x))
    return np.matmul(x, y, out=made)


INTO: Mapping[str, Callable[[list[Any], Any, _Memory], Array | None]] = {
    "linear": _linear,
    "matmul": _matmul,
}
"""Primitives that can be computed straight into memory; None says that the rule has to do it."""


def _run_chain(step: Step, values: Mapping[int, Any], out: Any, memory: _Memory) -> Array:
    """Compute all steps of a chain block by block; return the last value.

    Blocks are of the first axis in the order in which the arguments lie in memory.
    """
    arguments = {a.number: values[a.number] for a in step.arguments if isinstance(a, Ref)}
    like = next((x for x in arguments.values() if x.shape == out.shape), None)
    ndim = len(out.shape)
    order = list(range(ndim))
    if like is not None and ndim > 1:
        order.sort(key=lambda axis: -like.strides[axis])  # stable: equal ones stay as they are
    shape = tuple(out.shape[axis] for axis in order)
    laid = {
        number: x if not x.ndim else _in_order(x, ndim, order) for number, x in arguments.items()
    }
    made = memory.take(shape, out.dtype, array_module(*arguments.values()))
    if ndim and all(x.shape in (shape, ()) and x.flags.c_contiguous for x in laid.values()):
        laid = {number: x.reshape(-1) if x.ndim else x for number, x in laid.items()}
        _run_blocks(step, laid, made.reshape(-1))
    elif ndim:
        _run_blocks(step, laid, made)
    else:
        made[...] = _run_block(step, laid)
    back = np.argsort(order) if ndim else order
    return made.transpose(back)


def _in_order(x: Any, ndim: int, order: list[int]) -> Any:
    """Return `x` with as many axes as the chain's values have, in their order of memory."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape).transpose(order)


def _run_blocks(step: Step, laid: Mapping[int, Any], made: Array) -> None:
    rows = made.shape[0]
    row_bytes = max(1, made.nbytes // max(1, rows))
    tall = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, rows, tall):
        block = slice(start, start + tall)
        part = {
            number: x[block] if x.ndim and x.shape[0] == rows else x for number, x in laid.items()
        }
        made[block] = _run_block(step, part)


def _run_block(step: Step, part: Mapping[int, Any]) -> Any:
    known = dict(part)
    value: Any = None
    for inner in step.chain:
        arguments = [known[a.number] if isinstance(a, Ref) else a for a in inner.arguments]
        (value,) = run_rule(inner, arguments)
        known[inner.outputs[0]] = value
    return value
