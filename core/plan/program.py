"""What a plan is: steps over numbered values, as data that can be printed, rewritten and saved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from holdfast.core.backend import Array


@dataclass(frozen=True)
class Ref:
    """A value of the program, by its number."""

    number: int

    def __str__(self) -> str:
        return f"%{self.number}"


@dataclass(frozen=True)
class Step:
    """One primitive, or a chain of elementwise ones that is run block by block.

    `arguments` are `Ref`s, None or Python numbers; `outputs` the numbers of the values it makes.
    """

    primitive: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    outputs: tuple[int, ...]
    chain: "tuple[Step, ...]" = ()

    def reads(self) -> Iterator[int]:
        """Return the numbers of the values that the step needs from outside."""
        for argument in self.arguments:
            if isinstance(argument, Ref):
                yield argument.number

    def __str__(self) -> str:
        out = ", ".join(f"%{number}" for number in self.outputs)
        if self.chain:
            inner = " > ".join(step.primitive for step in self.chain)
            return f"{out} = [{inner}]({', '.join(map(str, self.arguments))})"
        told = [str(argument) for argument in self.arguments]
        told += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{out} = {self.primitive}({', '.join(told)})"


@dataclass(frozen=True)
class Kind:
    """The shape and dtype of a value."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of an array of this kind."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Program:
    """A list of steps, each after those it needs.

    `inputs` and `outputs` are numbers of values; `constants` are the values that are known before
    any input is, weights among them; `kinds` tells each value's shape and dtype.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, Array]
    kinds: Mapping[int, Kind]
    steps: tuple[Step, ...]
    names: Mapping[int, str] = field(default_factory=dict)

    def users(self) -> dict[int, int]:
        """Return how often each value is read, outputs of the program included."""
        counts: dict[int, int] = {}
        for step in self.steps:
            for number in step.reads():
                counts[number] = counts.get(number, 0) + 1
        for number in self.outputs:
            counts[number] = counts.get(number, 0) + 1
        return counts

    def with_steps(
        self, steps: tuple[Step, ...], constants: Mapping[int, Array] | None = None
    ) -> "Program":
        """Return the program with other steps, and other constants if given."""
        return replace(
            self, steps=steps, constants=self.constants if constants is None else constants
        )

    def __str__(self) -> str:
        lines = [f"inputs: {', '.join(f'%{n} {self._told(n)}' for n in self.inputs)}"]
        for step in self.steps:
            lines.append(f"  {step}    # {', '.join(self._told(n) for n in step.outputs)}")
        lines.append(f"outputs: {', '.join(f'%{n}' for n in self.outputs)}")
        weights = sum(array.nbytes for array in self.constants.values())
        lines.append(f"{len(self.steps)} steps, constants of {weights / 2**20:.2f} MiB")
        return "\n".join(lines)

    def _told(self, number: int) -> str:
        kind = self.kinds[number]
        return f"{kind.dtype}{list(kind.shape)}"
