"""What all optimizers share: flat memory, taken in blocks that stay in cache."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from holdfast.core.arena import Arena
from holdfast.core.backend import Array, aligned_zeros, array_module
from holdfast.core.parameter import Parameter
from holdfast.errors import CheckpointMismatch, UsageError

BLOCK = 16 * 1024
"""Elements updated at once: with float32, six arrays of them fit a second-level cache."""


class Optimizer:
    """Updates the parameters of one arena in place, from the arena's `sums`.

    A parameter that has no gradient in a step is left alone. State is plain data: flat arrays in
    the arena's layout (`state_arrays`) and numbers (`state_dict`).

    `lr` may be changed between steps, as schedules do. Subclasses name their hyperparameters in
    `settings`, their arrays in `state_names`, and define `update` of one block.
    """

    settings: tuple[str, ...] = ("lr",)
    state_names: tuple[str, ...] = ()
    scratch_count = 1

    def __init__(self, params: Iterable[Parameter], lr: float) -> None:
        self.parameters = list(params)
        if not self.parameters:
            raise UsageError(f"{type(self).__name__} got no parameters")
        if lr < 0:
            raise UsageError(f"lr is a number from 0 up; found {lr}")
        self.lr = lr
        self.steps = 0
        self.arena = Arena.of(self.parameters)
        module = array_module(self.arena.weights)
        size, dtype = self.arena.weights.size, self.arena.dtype
        # A GPU has no such cache and wants few, large operations.
        self._block = BLOCK if module is np else size
        self._state = {name: aligned_zeros(size, dtype, module) for name in self.used_state()}
        self._scratch = [
            aligned_zeros(min(self._block, size), dtype, module) for _ in range(self.scratch_count)
        ]
        mine = {id(p) for p in self.parameters}
        self._others = [p for p in self.arena.parameters if id(p) not in mine]

    def used_state(self) -> tuple[str, ...]:
        """Return the names of the state arrays that these hyperparameters need."""
        return self.state_names

    def step(self) -> None:
        """Update the parameters by the gradients in `arena.sums`."""
        self.steps += 1
        self.prepare()
        weights, sums = self.arena.weights, self.arena.sums
        for part in self._blocks():
            size = part.stop - part.start
            self.update(
                weights[part],
                sums[part],
                [array[part] for array in self._state.values()],
                [array[:size] for array in self._scratch],
            )

    def _blocks(self) -> Iterator[slice]:
        for stretch in self.arena.ready(self._others):
            for start in range(stretch.start, stretch.stop, self._block):
                yield slice(start, min(start + self._block, stretch.stop))

    def prepare(self) -> None:
        """Compute what is the same for all blocks of a step."""

    def update(self, w: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Update one block of weights `w` in place. The gradient `g` is not to be written to."""
        raise TypeError(f"{type(self).__name__} has no update(): define it")

    def zero_grad(self) -> None:
        """Forget the gradients of the parameters; the memory is not touched."""
        for parameter in self.parameters:
            parameter.leaf.clear()

    # -- state --------------------------------------------------------------------------------

    def state_arrays(self) -> dict[str, Array]:
        """Return the state by name: flat arrays in the arena's layout, the live memory."""
        return dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return kind, hyperparameters and step counter as data that JSON can hold."""
        settings = {name: getattr(self, name) for name in self.settings}
        return {"kind": type(self).__name__, "steps": self.steps, **settings}

    def load_state(self, arrays: Mapping[str, Array], scalars: Mapping[str, Any]) -> None:
        """Go on from what `state_arrays` and `state_dict` returned, copying the arrays.

        Raises CheckpointMismatch, with nothing changed, if they are of another optimizer or model.
        """
        kind = type(self).__name__
        if scalars.get("kind") != kind:
            raise CheckpointMismatch(
                f"this is the state of {scalars.get('kind')!r}, the optimizer is {kind!r}"
            )
        if set(arrays) != set(self._state):
            raise CheckpointMismatch(
                f"the state of {kind} holds {sorted(self._state)} here; found {sorted(arrays)}: "
                "the hyperparameters differ"
            )
        missing = [name for name in ("steps", *self.settings) if name not in scalars]
        if missing:
            raise CheckpointMismatch(f"the state of {kind} lacks {', '.join(missing)}")
        for name, array in self._state.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise CheckpointMismatch(
                    f"{kind}'s {name!r} has {array.size} elements of {array.dtype} here; found "
                    f"shape {arrays[name].shape} of {arrays[name].dtype}: another model"
                )
        for name, array in self._state.items():
            array[...] = array_module(array).asarray(arrays[name])
        for name in self.settings:
            value = scalars[name]
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.steps = scalars["steps"]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in self.settings)
        return f"{type(self).__name__}({len(self.parameters)} parameters, {settings})"
