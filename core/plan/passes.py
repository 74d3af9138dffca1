"""How a program is made better: each pass takes one and returns another that computes the same."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast.core import primitive as driver
from holdfast.core.backend import Array
from holdfast.core.plan.program import Kind, Program, Ref, Step

ELEMENTWISE = frozenset(
    {
        "absolute",
        "add",
        "cast",
        "clamp",
        "cos",
        "div",
        "elu",
        "erf",
        "exp",
        "gelu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log",
        "logsigmoid",
        "maximum",
        "minimum",
        "mish",
        "mul",
        "neg",
        "power",
        "reciprocal",
        "relu",
        "rsqrt",
        "sigmoid",
        "silu",
        "sin",
        "softplus",
        "sqrt",
        "square",
        "sub",
        "tanh",
        "where",
    }
)
"""Primitives whose value at a place depends on the arguments at that place alone."""

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})

MAXIMA = frozenset(f"{kind}_pool{axes}d" for kind in ("max", "adaptive_max") for axes in (1, 2, 3))


def improved(program: Program) -> Program:
    """Run all passes."""
    for improve in (
        without_the_unused,
        folded,
        with_norms_in_convolutions,
        without_the_unused,
        with_maxima_first,
    ):
        program = improve(program)
    return fused(program)


def without_the_unused(program: Program) -> Program:
    """Drop the steps whose values nobody reads, and the constants too."""
    wanted = set(program.outputs)
    kept: list[Step] = []
    for step in reversed(program.steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(step.reads())
    constants = {n: array for n, array in program.constants.items() if n in wanted}
    return program.with_steps(tuple(reversed(kept)), constants)


def folded(program: Program) -> Program:
    """Compute once and for all what depends on no input."""
    constants = dict(program.constants)
    kept = []
    for step in program.steps:
        if any(number not in constants for number in step.reads()):
            kept.append(step)
            continue
        values = run_rule(step, [_value(a, constants) for a in step.arguments])
        constants.update(zip(step.outputs, values, strict=True))
    return program.with_steps(tuple(kept), constants)


def run_rule(step: Step, arguments: list[Any]) -> tuple[Any, ...]:
    """Return the values of one primitive on arrays."""
    entry = driver.find(step.primitive)
    assert entry is not None, f"a plan knows the primitive {step.primitive!r}"
    if entry.promote:
        arguments = driver.promoted(arguments)
    value, _ = entry.rule(*arguments, **step.options)
    return value if isinstance(value, tuple) else (value,)


def _value(argument: Any, constants: dict[int, Array]) -> Any:
    return constants[argument.number] if isinstance(argument, Ref) else argument


def with_norms_in_convolutions(program: Program) -> Program:
    """Put a batch normalization behind a convolution, with fixed statistics, into its weights.

    y = (conv(x, w) + b - mean) * s + beta, with s = gamma / sqrt(var + eps), is
    conv(x, w * s) + (b - mean) * s + beta.
    """
    users = program.users()
    makers = {step.outputs[0]: step for step in program.steps if step.primitive in CONVOLUTIONS}
    constants, kinds = dict(program.constants), dict(program.kinds)
    changed: dict[int, Step] = {}
    gone: set[int] = set()
    for step in program.steps:
        scaled = _scale_and_shift(step, constants)
        conv = makers.get(step.arguments[0].number) if scaled is not None else None
        if conv is None or scaled is None or users[conv.outputs[0]] != 1:
            continue
        x, weight, *rest = conv.arguments
        bias = rest[0] if rest else None
        if not _all_constant((weight, bias), constants):
            continue
        scale, shift = scaled
        w = _value(weight, constants)
        b = 0 if bias is None else _value(bias, constants)
        refs = []
        for array in (w * scale.reshape(-1, *(1,) * (w.ndim - 1)), b * scale + shift):
            number = len(kinds)
            constants[number] = array.astype(w.dtype, copy=False)
            kinds[number] = Kind(array.shape, w.dtype)
            refs.append(Ref(number))
        changed[conv.outputs[0]] = replace(conv, arguments=(x, *refs), outputs=step.outputs)
        gone.add(step.outputs[0])
    steps = tuple(
        changed.get(step.outputs[0], step)
        for step in program.steps
        if step.outputs[0] not in gone or step.outputs[0] in changed
    )
    return replace(program, steps=steps, constants=constants, kinds=kinds)


def _scale_and_shift(step: Step, constants: dict[int, Array]) -> tuple[Array, Array] | None:
    """Return what a batch normalization multiplies by and adds, if all of it is constant."""
    if step.primitive != "batch_norm" or step.options["training"]:
        return None
    _, mean, var, weight, bias = step.arguments
    if not _all_constant((mean, var, weight, bias), constants):
        return None
    mean, var = _value(mean, constants), _value(var, constants)
    scale = 1 / np.sqrt(var + step.options["eps"])
    if weight is not None:
        scale = scale * _value(weight, constants)
    shift = -mean * scale
    if bias is not None:
        shift = shift + _value(bias, constants)
    return scale, shift


def _all_constant(arguments: Iterable[Any], constants: dict[int, Array]) -> bool:
    return all(not isinstance(a, Ref) or a.number in constants for a in arguments)


def with_maxima_first(program: Program) -> Program:
    """Take the largest of windows before ReLU, not after it: the result is the same, of less work.

    No window lies in the padding alone, so ReLU never meets what that is filled with.
    """
    users = program.users()
    relus = {step.outputs[0]: step for step in program.steps if step.primitive == "relu"}
    kinds = dict(program.kinds)
    gone: set[int] = set()
    steps: list[Step] = []
    for step in program.steps:
        read = next(step.reads(), None)
        relu = relus.get(read) if step.primitive in MAXIMA and read is not None else None
        if relu is None or users[relu.outputs[0]] != 1:
            steps.append(step)
            continue
        gone.update(relu.outputs)
        number = len(kinds)
        kinds[number] = kinds[step.outputs[0]]
        steps.append(replace(step, arguments=relu.arguments, outputs=(number,)))
        steps.append(replace(relu, arguments=(Ref(number),), outputs=step.outputs))
    kept = tuple(step for step in steps if step.outputs[0] not in gone)
    return replace(program, steps=kept, kinds=kinds)


def fused(program: Program) -> Program:
    """Join chains of elementwise steps, of which only the last value is read by others.

    One step alone is a chain too.

    Each is then one pass over the memory: block by block, all steps while the block is in cache.
    """
    users = program.users()
    chains: dict[int, list[Step]] = {}  # by the value that a chain ends in
    order: dict[int, list[Step]] = {}  # by the identity of each
    for step in program.steps:
        chain = [step]
        if step.primitive in ELEMENTWISE:
            shape = program.kinds[step.outputs[0]].shape
            for number in dict.fromkeys(step.reads()):
                before = chains.get(number)
                whole = program.kinds[number].shape == shape
                if (
                    before is not None
                    and whole
                    and users[number] == sum(n == number for n in step.reads())
                ):
                    chain = before
                    del chains[number]
                    chain.append(step)
                    break
            chains[step.outputs[0]] = chain
        order.pop(id(chain), None)  # it is run where its last step stood: all it reads is there
        order[id(chain)] = chain
    return program.with_steps(tuple(_joined(chain) for chain in order.values()))


def _joined(chain: list[Step]) -> Step:
    if chain[0].primitive not in ELEMENTWISE:
        return chain[0]
    inner = {step.outputs[0] for step in chain}
    reads = dict.fromkeys(n for step in chain for n in step.reads() if n not in inner)
    arguments = tuple(Ref(number) for number in reads)
    return Step("chain", arguments, {}, chain[-1].outputs, tuple(chain))
