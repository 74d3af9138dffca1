"""A program as data for a file: what JSON can hold, and arrays by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from holdfast.core import primitive as driver
from holdfast.core.backend import BFLOAT16, Array, to_host
from holdfast.core.plan.program import Kind, Program, Ref, Step
from holdfast.errors import CheckpointMismatch, UsageError

FORMAT = 1
"""Counts up when a file of before could not be read any more."""


def encoded(program: Program) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the structure of `program` and its arrays; weights keep the names of their model."""
    arrays: dict[str, Array] = {}
    places: dict[int, str] = {}
    for number, array in program.constants.items():
        name = program.names.get(number, f"constant.{number}")
        arrays[name] = to_host(array)
        places[number] = name
    structure = {
        "format": FORMAT,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "constants": {name: number for number, name in places.items()},
        "kinds": {str(n): [list(kind.shape), str(kind.dtype)] for n, kind in program.kinds.items()},
        "steps": [_step(step, arrays) for step in program.steps],
    }
    return structure, arrays


def decoded(structure: Mapping[str, Any], arrays: Mapping[str, Array]) -> Program:
    """Return the program that `encoded` took apart.

    Raises CheckpointMismatch where the structure is of another version, or needs primitives or
    arrays that are not there.
    """
    if structure.get("format") != FORMAT:
        raise CheckpointMismatch(
            f"a plan of format {FORMAT} was expected; found {structure.get('format')!r}: trace the "
            "model again with this version of Holdfast"
        )
    lacking = [name for name in structure["constants"] if name not in arrays]
    if lacking:
        raise CheckpointMismatch(f"the plan lacks the arrays {', '.join(lacking)}")
    steps = tuple(_decoded_step(step, arrays) for step in structure["steps"])
    needed = {inner.primitive for step in steps for inner in step.chain or (step,)}
    unknown = sorted(name for name in needed if driver.find(name) is None)
    if unknown:
        raise CheckpointMismatch(
            f"the plan needs primitives that are not here: {', '.join(unknown)}"
        )
    return Program(
        tuple(structure["inputs"]),
        tuple(structure["outputs"]),
        {number: arrays[name] for name, number in structure["constants"].items()},
        {
            int(number): Kind(tuple(shape), _dtype(dtype))
            for number, (shape, dtype) in structure["kinds"].items()
        },
        steps,
        {number: name for name, number in structure["constants"].items()},
    )


def _step(step: Step, arrays: dict[str, Array]) -> dict[str, Any]:
    return {
        "primitive": step.primitive,
        "arguments": [_value(argument, arrays) for argument in step.arguments],
        "options": {name: _value(value, arrays) for name, value in step.options.items()},
        "outputs": list(step.outputs),
        "chain": [_step(inner, arrays) for inner in step.chain],
    }


def _decoded_step(data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Step:
    return Step(
        data["primitive"],
        tuple(_decoded_value(argument, arrays) for argument in data["arguments"]),
        {name: _decoded_value(value, arrays) for name, value in data["options"].items()},
        tuple(data["outputs"]),
        tuple(_decoded_step(inner, arrays) for inner in data["chain"]),
    )


def _value(value: Any, arrays: dict[str, Array]) -> Any:
    """Return a value as JSON holds it: plain, or an object of one entry that says what it is."""
    if isinstance(value, Ref):
        return {"value": value.number}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_value(part, arrays) for part in value]}
    if isinstance(value, slice):
        return {"slice": [_value(part, arrays) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, np.dtype):
        return {"dtype": str(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        name = f"option.{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    raise UsageError(f"a plan with an option of {type(value).__name__} cannot be saved: {value!r}")


def _decoded_value(data: Any, arrays: Mapping[str, Array]) -> Any:
    if not isinstance(data, dict):
        return data
    ((what, held),) = data.items()
    if what == "value":
        return Ref(held)
    if what in ("tuple", "list"):
        parts = [_decoded_value(part, arrays) for part in held]
        return tuple(parts) if what == "tuple" else parts
    if what == "slice":
        return slice(*(_decoded_value(part, arrays) for part in held))
    if what == "ellipsis":
        return Ellipsis
    if what == "dtype":
        return _dtype(held)
    if what == "array":
        return arrays[held]
    raise CheckpointMismatch(f"a plan holds no {what!r}: the file is of another version")


def _dtype(name: str) -> np.dtype[Any]:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)
