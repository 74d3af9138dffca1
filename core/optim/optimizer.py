"""What all optimizers share: parameter groups, and flat memory taken in blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple

import numpy as np

from holdfast.core.arena import Arena
from holdfast.core.backend import Array, aligned_zeros, array_module
from holdfast.core.norms import block_length, blocks
from holdfast.core.parameter import Parameter
from holdfast.core.recording import enable_grad
from holdfast.core.tensor import Tensor
from holdfast.errors import CheckpointMismatch, UsageError

Group = dict[str, Any]
"""The parameters of a group under "params", beside the settings that hold for them."""
Numbers = tuple[float, ...]
"""What an optimizer counts for each parameter: first the steps it has taken."""

NEGLIGIBLE = 1e-30
"""A rate below which no weight would change: what is divided by the rate would overflow."""


class Block(NamedTuple):
    """A part of a stretch of the arena, small enough to stay in cache while it is updated.

    `w` and the arrays of `state` are updated in place. `g` may be read by others and is not written
    to. `s` is scratch of the same size.
    """

    w: Array
    g: Array
    state: list[Array]
    s: Array


class Optimizer:
    """Updates the parameters of one arena in place, from the arena's `sums`.

    `params` are parameters, or groups: dictionaries of "params" and of settings that replace
    `defaults` for them. `param_groups` are these dictionaries; what is changed in one takes effect
    at the next step. A parameter that has no gradient in a step is left alone, and so is what is
    counted for it.

    State is plain data: flat arrays in the arena's layout, and numbers that JSON holds. Subclasses
    name their arrays in `state_names`, say in `used_state` which of them a group needs, and define
    `update` of a stretch of the arena. Those that set `layerwise` get each parameter by itself.
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    start_numbers: ClassVar[Numbers] = (0,)
    layerwise: ClassVar[bool] = False
    decays: ClassVar[bool] = True
    """Whether `blocks` applies the weight decay."""

    def __init__(
        self, params: Iterable[Parameter] | Iterable[Group], defaults: Mapping[str, Any]
    ) -> None:
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        groups = self._groups(params)
        self.arena = Arena.of([p for group in groups for p in group["params"]])
        self._state: dict[str, Array] = {}
        self._numbers: list[Numbers] = []
        self._group_at: list[Group | None] = []  # by the parameter's number in the arena
        self._buffers: dict[str, Array] = {}
        for group in groups:
            self.add_param_group(group)

    # -- groups -------------------------------------------------------------------------------

    def _groups(self, params: Iterable[Parameter] | Iterable[Group]) -> list[Group]:
        if isinstance(params, Parameter):
            raise UsageError(f"{type(self).__name__} takes a list of parameters; found one of them")
        given = list(params)
        if not given:
            raise UsageError(f"{type(self).__name__} got no parameters")
        groups: list[Any] = given if isinstance(given[0], dict) else [{"params": given}]
        return [{**group, "params": self._parameters(group)} for group in groups]

    def _parameters(self, group: Group) -> list[Parameter]:
        if "params" not in group:
            raise UsageError(f'a parameter group needs "params"; found {sorted(group)}')
        held = group["params"]
        found = [held] if isinstance(held, Parameter) else list(held)
        for p in found:
            if not isinstance(p, Parameter):
                hint = ": make it one, nn.Parameter(x)" if isinstance(p, Tensor) else ""
                raise UsageError(
                    f"{type(self).__name__} takes Parameters, which an arena can hold; found a "
                    f"{type(p).__name__}{hint}"
                )
        return list({id(p): p for p in found}.values())

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; settings that it does not name have the defaults.

        Parameters that lie in no arena join this optimizer's. Raises UsageError for a parameter
        that another group has, and for a setting that cannot be used.
        """
        group = {
            "params": self._parameters(param_group),
            **deepcopy(self.defaults),
            **{name: value for name, value in param_group.items() if name != "params"},
        }
        self.check(group)
        if {id(p) for p in self.parameters} & {id(p) for p in group["params"]}:
            raise UsageError("some parameters appear in more than one parameter group")
        self.arena.extend(group["params"])
        self.param_groups.append(group)
        count = len(self.arena.parameters)
        self._numbers += [self.start_numbers] * (count - len(self._numbers))
        of = {id(p): group for group in self.param_groups for p in group["params"]}
        self._group_at = [of.get(id(p)) for p in self.arena.parameters]
        self._make_room()

    def _make_room(self) -> None:
        """Make the state arrays that the groups need, and are not there yet."""
        size = self.arena.weights.size
        for group in self.param_groups:
            for name in self.used_state(group):
                held = self._state.get(name)
                if held is None or held.size < size:
                    self._state[name] = self._grown(name, held, size)

    def _grown(self, name: str, held: Array | None, size: int) -> Array:
        array = aligned_zeros(size, self.arena.dtype, array_module(self.arena.weights))
        start = 0
        if held is not None:
            array[: held.size], start = held, held.size
        for p, at, group in zip(
            self.arena.parameters, self.arena.slices, self._group_at, strict=True
        ):
            if group is not None and at.start >= start:
                self.begin(name, array[self.arena.place(p)], group)
        return array

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The first group's rate, as metrics show it; set it in `param_groups`."""
        return float(self.param_groups[0]["lr"])

    # -- what a subclass says -----------------------------------------------------------------

    def check(self, group: Group) -> None:
        """Raise UsageError for settings that cannot be used."""
        at_least_zero(group, "lr")

    def used_state(self, group: Group) -> tuple[str, ...]:
        """Return the names of the state arrays that this group's settings need."""
        return self.state_names

    def begin(self, name: str, state: Array, group: Group) -> None:
        """Set a parameter's part of a state array before its first step; it is zero."""

    def advance(self, group: Group, numbers: Numbers) -> Numbers:
        """Return what is counted for a parameter after one more step."""
        return (numbers[0] + 1,)

    def update(self, stretch: slice, group: Group, numbers: Numbers) -> None:
        """Update a stretch of the arena whose parameters share `group` and `numbers`."""
        raise TypeError(f"{type(self).__name__} has no update(): define it")

    # -- a step -------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by the gradients in `arena.sums`.

        `closure`, if given, computes the loss and its gradients first; returns what it returns.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._make_room()  # a setting may have come to need another array
        changed = []
        for stretch, members in self.arena.stretches(self._keys()):
            group = self._group_at[members[0]]
            assert group is not None
            numbers = self.advance(group, self._numbers[members[0]])
            self.update(stretch, group, numbers)
            for number in members:
                self._numbers[number] = numbers
                changed.append(self.arena.parameters[number])
        self.arena.mark_changed(changed)
        return loss

    def _keys(self) -> Iterator[tuple[Any, ...] | None]:
        """Return what neighbours must share to be updated as one; None for those left alone."""
        for number, p in enumerate(self.arena.parameters):
            group = self._group_at[number]
            if group is None or not p.leaf.filled:
                yield None
            elif self.layerwise or group.get("eps") == 0:
                yield (number,)  # without eps, the padding between two would be 0 / 0
            else:
                yield id(group), *self._numbers[number]

    def blocks(self, stretch: slice, group: Group) -> Iterator[Block]:
        """Cut a stretch into blocks, whose gradient has the sign and weight decay of `group`.

        A weight decay is added to the gradient, or shrinks the weights if the group's
        "decoupled_weight_decay" is set. Weights and state of 16 bits are computed in float32.
        """
        weights, sums = self.arena.weights, self.arena.sums
        state = [self._state[name] for name in self.used_state(group)]
        decay = group.get("weight_decay", 0) if self.decays else 0
        maximize = group.get("maximize", False)
        decoupled = group.get("decoupled_weight_decay", False)
        narrow = self.arena.dtype.itemsize == 2
        for part in blocks(stretch.start, stretch.stop, block_length(weights)):
            size = part.stop - part.start
            w, g, *held = places = [a[part] for a in (weights, sums, *state)]
            if narrow:
                w, g, *held = (a.astype(np.float32) for a in places)
            if decay and not decoupled:
                own = self.buffer("gradient", size)
                np.multiply(w, decay, out=own)
                if maximize:
                    own -= g
                else:
                    own += g
                g = own
            elif maximize:
                g = np.negative(g, out=self.buffer("gradient", size))
            if decay and decoupled:
                w *= 1 - group["lr"] * decay
            yield Block(w, g, held, self.buffer("scratch", size))
            if narrow:
                for place, value in zip((places[0], *places[2:]), (w, *held), strict=True):
                    place[...] = value

    def buffer(self, name: str, size: int) -> Array:
        """Return the first `size` elements of a buffer that is kept from block to block."""
        held = self._buffers.get(name)
        if held is None or held.size < size:
            like = self.arena.weights
            dtype = np.dtype(np.float32) if like.dtype.itemsize == 2 else like.dtype
            full = max(size, min(block_length(like), like.size))
            held = self._buffers[name] = aligned_zeros(full, dtype, array_module(like))
        return held[:size]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; the memory is not touched. If not `set_to_none`, make them zero."""
        if not set_to_none:
            mine = {id(p) for p in self.parameters}
            others = [p for p in self.arena.parameters if id(p) not in mine]
            self.arena.rewrite(lambda _, out: out.fill(0), self.arena.ready(others))
            return
        for parameter in self.parameters:
            parameter.leaf.clear()

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as plain data.

        "state" holds the arrays by name, flat and in the arena's layout: the live memory. The rest
        is what JSON can hold: "kind", "param_groups" with the parameters' numbers (as they come in
        the groups) in their stead, and "numbers", one list for each of the arena's parameters.
        """
        groups, first = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            settings = {name: value for name, value in group.items() if name != "params"}
            groups.append({**settings, "params": list(range(first, first + count))})
            first += count
        used = {name for group in self.param_groups for name in self.used_state(group)}
        return {
            "kind": type(self).__name__,
            "state": {name: array for name, array in self._state.items() if name in used},
            "numbers": [list(numbers) for numbers in self._numbers],
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, with its settings, copying the arrays.

        Raises CheckpointMismatch, with nothing changed, if it is of another optimizer or model.
        """
        kind = type(self).__name__
        if state_dict.get("kind") != kind:
            raise CheckpointMismatch(
                f"this is the state of {state_dict.get('kind')!r}, the optimizer is {kind!r}"
            )
        missing = [n for n in ("state", "numbers", "param_groups") if n not in state_dict]
        if missing:
            raise CheckpointMismatch(f"the state of {kind} lacks {', '.join(missing)}")
        groups, arrays = state_dict["param_groups"], state_dict["state"]
        sizes = [len(group["params"]) for group in groups]
        own = [len(group["params"]) for group in self.param_groups]
        if sizes != own or len(state_dict["numbers"]) != len(self._numbers):
            raise CheckpointMismatch(
                f"{kind} has groups of {own} parameters here; found {sizes}: another model, or "
                "other groups"
            )
        needed = {name for group in groups for name in self.used_state(group)}
        if set(arrays) != needed:
            raise CheckpointMismatch(
                f"the state of {kind} holds {sorted(needed)} with these settings; found "
                f"{sorted(arrays)}"
            )
        size, dtype = self.arena.weights.size, self.arena.dtype
        for name, array in arrays.items():
            if array.shape != (size,) or array.dtype != dtype:
                raise CheckpointMismatch(
                    f"{kind}'s {name!r} has {size} elements of {dtype} here; found shape "
                    f"{array.shape} of {array.dtype}: another model"
                )
        for group, saved in zip(self.param_groups, groups, strict=True):
            for name, value in saved.items():
                if name != "params":
                    group[name] = tuple(value) if isinstance(value, list) else value
        self._make_room()
        for name in needed:
            held = self._state[name]
            held[...] = array_module(held).asarray(arrays[name])
        self._numbers = [tuple(numbers) for numbers in state_dict["numbers"]]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {number}: {len(group['params'])} parameters"]
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def at_least_zero(group: Group, *names: str) -> None:
    """Raise UsageError unless these settings are numbers from 0 up."""
    for name in names:
        if not group[name] >= 0:
            raise UsageError(f"{name} is a number from 0 up; found {group[name]}")


def from_zero_to_one(group: Group, name: str) -> None:
    """Raise UsageError unless this setting's numbers lie from 0 up to, not including, 1."""
    values: Sequence[float] = group[name]
    if not all(0 <= value < 1 for value in values):
        raise UsageError(f"{name} lie from 0 up to, not including, 1; found {values}")
