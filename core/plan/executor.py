"""How a plan is run: step after step on arrays, with memory that is used again.

The rule: a value is forgotten when its last reader is done, and memory that nobody refers to any
more is taken for the next value of the same size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.core.backend import Array, array_module
from holdfast.core.kernels import at_all_sizes
from holdfast.core.plan.chains import WRITERS, run_chain
from holdfast.core.plan.memory import Memory
from holdfast.core.plan.passes import MAXIMA, run_rule
from holdfast.core.plan.program import Kind, Program, Ref, Step
from holdfast.core.primitive import wrap
from holdfast.core.variable import raw
from holdfast.errors import UsageError

Operation = Callable[[list[Any]], None]
"""Computes what a step makes, in a list that holds every value at its place."""


class Plan:
    """A program that can be called: `plan(*inputs)` returns what the traced model returns.

    Inputs are tensors or arrays of the shapes and dtypes of the examples. Memory of outputs is used
    again once nobody holds them. Not to be called by two threads at once.
    """

    def __init__(self, program: Program, single: bool = True) -> None:
        self.program = program
        self.single = single
        self._memory = Memory()
        places = _Places(program)
        forgotten = _after_each_step(program)
        self._operations = [
            self._operation(step, places, [places[number] for number in dead])
            for step, dead in zip(program.steps, forgotten, strict=True)
        ]
        self._inputs = [(places[number], program.kinds[number]) for number in program.inputs]
        self._outputs = [places[number] for number in program.outputs]
        self._known = places.known

    def __call__(self, *inputs: Any) -> Any:
        """Return the outputs: a tensor, or a tuple of them if the model returned one."""
        values = self._known.copy()
        self._take_in(inputs, values)
        with np.errstate(all="ignore"), at_all_sizes():  # the first as the primitives themselves
            for operation in self._operations:
                operation(values)
        outs = tuple(wrap(values[place]) for place in self._outputs)
        return outs[0] if self.single else outs

    def _take_in(self, inputs: tuple[Any, ...], values: list[Any]) -> None:
        if len(inputs) != len(self._inputs):
            raise UsageError(
                f"the plan takes {len(self._inputs)} inputs, as traced; found {len(inputs)}"
            )
        for i, ((place, kind), given) in enumerate(zip(self._inputs, inputs, strict=True)):
            array = raw(given)
            if array.shape != kind.shape or array.dtype != kind.dtype:
                raise UsageError(
                    f"input {i}: the plan was traced for {kind.dtype} of shape {kind.shape}; found "
                    f"{array.dtype} of shape {array.shape}: trace the model for that"
                )
            values[place] = array

    def _operation(self, step: Step, places: "_Places", dead: list[int]) -> Operation:
        """Return what runs a step and forgets the values that nobody reads after it."""
        reads = [places.of(argument) for argument in step.arguments]
        kind = self.program.kinds[step.outputs[0]]
        memory, first = self._memory, places[step.outputs[0]]
        if step.chain:
            numbers = [a.number for a in step.arguments]
            spent = self._spent(step, kind)
            writer = WRITERS.get(step.chain[0].primitive)
            unary = len(step.chain) == len(step.chain[0].arguments) == 1
            if unary and writer is not None and spent is not None:
                return _in_place(writer, reads[0], first)

            def chain(values: list[Any]) -> None:
                given = dict(zip(numbers, [values[place] for place in reads], strict=True))
                values[first] = run_chain(step, given, kind, spent, memory)
                for place in dead:
                    values[place] = None

            return chain
        quick = INTO.get(step.primitive)
        several = [places[number] for number in step.outputs]

        def single(values: list[Any]) -> None:
            arguments = [values[place] for place in reads]
            made = None if quick is None else quick(arguments, kind, memory)
            parts = run_rule(step, arguments) if made is None else (made,)
            for place, part in zip(several, parts, strict=True):
                values[place] = part
            for place in dead:
                values[place] = None

        return single

    def _spent(self, step: Step, kind: Kind) -> int | None:
        """Return a value that `step` may overwrite with its own, of this kind, if there is one.

        It was made in memory of its own, and nobody else reads it or has a view of it.
        """
        users, program = self.program.users(), self.program
        fresh = {s.outputs[0] for s in program.steps if s.chain or s.primitive in FRESH}
        for number in dict.fromkeys(step.reads()):
            if number in fresh and users[number] == 1 and program.kinds[number] == kind:
                return number
        return None

    def __str__(self) -> str:
        return str(self.program)


class _Places:
    """Where each value of a program is held: constants, and numbers among arguments, beforehand."""

    def __init__(self, program: Program) -> None:
        self.known: list[Any] = [None] * len(program.kinds)
        self._at = {number: place for place, number in enumerate(program.kinds)}
        for number, array in program.constants.items():
            self.known[self._at[number]] = array

    def __getitem__(self, number: int) -> int:
        return self._at[number]

    def of(self, argument: Any) -> int:
        """Return the place of an argument; a number or None gets one of its own."""
        if isinstance(argument, Ref):
            return self._at[argument.number]
        self.known.append(argument)
        return len(self.known) - 1


def _in_place(writer: Callable[..., Any], read: int, first: int) -> Operation:
    """Return what changes a value that nobody else has into another."""

    def write(values: list[Any]) -> None:
        x, values[read] = values[read], None
        writer(x, out=x)
        values[first] = x

    return write


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


def _linear(arguments: list[Any], out: Any, memory: Memory) -> Array | None:
    x, weight, *rest = arguments
    if x.ndim < 2 or x.dtype is not weight.dtype or x.dtype.char not in "fd":
        return None
    made = memory.take(out.shape, out.dtype, array_module(x))
    rows, flat = x, made
    if x.ndim > 2:
        rows, flat = x.reshape(-1, weight.shape[1]), made.reshape(-1, weight.shape[0])
    np.matmul(rows, weight.T, out=flat)
    if rest and rest[0] is not None:
        flat += rest[0]
    return made


def _matmul(arguments: list[Any], out: Any, memory: Memory) -> Array | None:
    x, y = arguments
    if x.ndim < 2 or y.ndim < 2 or x.dtype is not y.dtype or x.dtype.char not in "fd":
        return None
    made = memory.take(out.shape, out.dtype, array_module(x))
    return np.matmul(x, y, out=made)


FRESH = frozenset(
    {
        "attention",
        "batch_norm",
        "contract",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "group_norm",
        "layer_norm",
        "linear",
        "matmul",
        "rms_norm",
        *MAXIMA,
    }
)
"""Primitives whose value is never in memory that anybody else has."""

INTO: Mapping[str, Callable[[list[Any], Any, Memory], Array | None]] = {
    "linear": _linear,
    "matmul": _matmul,
}
"""Primitives that can be computed straight into memory; None says that the rule has to do it."""
