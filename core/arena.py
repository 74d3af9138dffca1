"""One buffer for all parameters of a model, and one of the same layout for their gradients.

The rule: parameters lie in reverse order of registration, which is the order in which backward
finishes their gradients. So a bucket of gradients is a slice that is filled front to back, the
optimizer is a few passes over flat memory, and a checkpoint is one buffer.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import ALIGNMENT, Array, aligned_zeros, array_module
from holdfast.core.changes import next_sequence
from holdfast.core.norms import block_length, blocks
from holdfast.core.parameter import Parameter
from holdfast.errors import UsageError


@dataclass(frozen=True)
class Bucket:
    """A slice of the arena, in elements, and the parameters whose gradients fill it."""

    slice: slice
    parameters: tuple[Parameter, ...]


class Arena:
    """Holds the values of `parameters` in `weights` and their gradients in `gradients`.

    Attributes:
        parameters: in arena order, the reverse of the order given, each once.
        slices: where each lies, in elements; it starts at a multiple of 64 bytes.
        weights: flat values; each parameter's array is a view of its slice. Padding is zero.
        gradients: flat gradients of the same layout, written by backward.
        sums: what the optimizer reads: `gradients` itself unless rehomed. Where others read them
            too they are not to be written to: see `rewrite`.
        dtype: the one dtype of all parameters.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        registered = list({id(p): p for p in parameters}.values())
        if not registered:
            raise UsageError("an arena needs at least one parameter; found none")
        self.parameters: list[Parameter] = registered[::-1]
        self.dtype = self._one("dtype", [np.dtype(p.dtype) for p in registered])
        self._one("device", [p.device for p in registered])
        for p in registered:
            if p.arena is not None:
                raise UsageError(
                    f"a parameter of shape {p.shape} lies in another arena already: "
                    "use Arena.of(parameters) with all parameters of that arena"
                )
        module = array_module(self.parameters[0].array)
        self.slices: list[slice] = []
        self._place: dict[int, slice] = {}
        end = self._lay(self.parameters, 0)
        self.weights: Array = aligned_zeros(end, self.dtype, module)
        self.gradients: Array = aligned_zeros(end, self.dtype, module)
        self.sums: Array = self.gradients
        self._summed: Array = self.sums  # where sums arrive; `sums` may be a copy to write to
        self._copy: Array | None = None
        self.growing = True
        """Whether `extend` may still move the memory."""
        for p in self.parameters:
            self._move_in(p)
        self._bind()

    def _lay(self, parameters: Iterable[Parameter], end: int) -> int:
        """Give each its place from element `end` on; return the end of the last one's padding."""
        step = ALIGNMENT // self.dtype.itemsize
        for p in parameters:
            at = slice(end, end + p.numel())
            self.slices.append(at)
            self._place[id(p)] = at
            end += -(-p.numel() // step) * step
        return end

    def _move_in(self, p: Parameter) -> None:
        home = self.weights[self.place(p)].reshape(p.shape)
        home[...] = p.array
        p.array = home
        p.arena = self

    @staticmethod
    def _one(what: str, found: Sequence[Any]) -> Any:
        if len(set(found)) > 1:
            kinds = ", ".join(sorted({str(kind) for kind in found}))
            raise UsageError(
                f"an arena holds parameters of one {what}; found {kinds}: convert the model to one"
            )
        return found[0]

    @classmethod
    def of(cls, parameters: Iterable[Parameter]) -> "Arena":
        """Return the arena that `parameters` share already, or make one for them.

        Raises UsageError if only some of them lie in one, or they lie in different ones.
        """
        given = list(parameters)
        arenas = {id(p.arena): p.arena for p in given}
        if len(arenas) > 1:
            raise UsageError(
                "these parameters lie in different arenas, or only some of them in one: make the "
                "first optimizer, or Arena, over all parameters that are trained together"
            )
        arena = next(iter(arenas.values()), None)
        return cls(given) if arena is None else arena

    def extend(self, parameters: Iterable[Parameter]) -> None:
        """Take in more parameters, behind those that are here; weights and gradients move.

        Places stay what they are. Raises UsageError for parameters of another dtype or device, or
        of another arena, and once gradients or sums have been moved to other memory.
        """
        more = list({id(p): p for p in parameters if p.arena is not self}.values())[::-1]
        if not more:
            return
        self._one("dtype", [self.dtype, *(np.dtype(p.dtype) for p in more)])
        self._one("device", [self.parameters[0].device, *(p.device for p in more)])
        if any(p.arena is not None for p in more):
            raise UsageError("extend: some of these parameters lie in another arena already")
        if not self.growing:
            raise UsageError(
                "extend: the arena's gradients were given to a job, and cannot grow any more: add "
                "parameters to the optimizer before job.prepare"
            )
        module, before = array_module(self.weights), (self.weights, self.gradients)
        end = self._lay(more, self.weights.size)
        self.weights = aligned_zeros(end, self.dtype, module)
        self.gradients = self.sums = self._summed = aligned_zeros(end, self.dtype, module)
        for old, new in zip(before, (self.weights, self.gradients), strict=True):
            new[: old.size] = old
        self.parameters += more
        for p in self.parameters:
            self._move_in(p)
        self._bind()

    def _bind(self) -> None:
        """Give each parameter's leaf its view of `gradients`, with what it holds already."""
        for p, at in zip(self.parameters, self.slices, strict=True):
            leaf = p.leaf
            view = self.gradients[at].reshape(p.shape)
            if leaf.filled:
                view[...] = leaf.gradient
            leaf.gradient, leaf.bound, leaf.shown = view, True, None

    def place(self, parameter: Parameter) -> slice:
        """Return where `parameter` lies, in elements."""
        return self._place[id(parameter)]

    def rehome(self, *, gradients: Array | None = None, sums: Array | None = None) -> None:
        """Move the gradients to, or read the sums from, other memory, such as shared memory.

        Both are flat, of the arena's size and dtype; gradients present are moved along. Where only
        `gradients` is given, the sums are read there too unless they had been moved before.
        """
        for name, flat in (("gradients", gradients), ("sums", sums)):
            if flat is None:
                continue
            if flat.shape != self.weights.shape or flat.dtype != self.dtype:
                raise UsageError(
                    f"rehome: {name} must be flat, {self.weights.size} elements of {self.dtype}; "
                    f"found shape {flat.shape} of {flat.dtype}"
                )
        self.growing = False
        if gradients is not None:
            shared = self._summed is self.gradients
            gradients[...] = 0
            self.gradients = gradients
            self._bind()
            if shared:
                self.sums = self._summed = gradients
        if sums is not None:
            self.sums = self._summed = sums

    def zero_grad(self) -> None:
        """Mark every gradient as absent; the memory is not touched."""
        for p in self.parameters:
            p.leaf.clear()

    def complete(self, part: slice | None = None) -> None:
        """Zero the gradients that no backward has written since `zero_grad`, within `part`.

        `part` is a slice in elements on the bounds of parameters; the whole arena if None. To be
        called before a bucket is summed: a parameter that took no part contributes zeros.
        """
        start, stop, _ = (part or slice(None)).indices(self.weights.size)
        for p, at in zip(self.parameters, self.slices, strict=True):
            if start <= at.start and at.stop <= stop and not p.leaf.filled:
                self.gradients[at] = 0

    def publish(self) -> None:
        """Make each `param.grad` a view of `sums`, so that clipping and inspection see the sum."""
        self.sums = self._summed
        for p, at in zip(self.parameters, self.slices, strict=True):
            if p.requires_grad:
                p.leaf.shown = self.sums[at].reshape(p.shape)
                p.leaf.filled = True

    @property
    def shown(self) -> Array:
        """The flat memory that `param.grad` shows: the sums once they are published."""
        published = any(p.leaf.shown is not None for p in self.parameters)
        return self.sums if published else self.gradients

    def rewrite(self, function: Callable[[Array, Array], None], parts: Iterable[slice]) -> None:
        """Replace the gradients that are shown within `parts` by what `function` makes of them.

        `function(x, out)` gets block after block, and writes to `out`, which may be `x` itself.
        Sums that others read too are left as they are: `sums`, and every `param.grad`, is then a
        copy of this process's own, until the next `publish`.
        """
        held = sorted(parts, key=lambda part: part.start)
        source = target = self.shown
        if array_module(source) is np and not source.flags.writeable:
            target = self._own_copy(held)
        for part in held:
            for block in blocks(part.start, part.stop, block_length(source)):
                function(source[block], target[block])
        for p in self.parameters:
            p.leaf.traced = None  # a gradient with a graph is no longer what is shown

    def _own_copy(self, parts: Sequence[slice]) -> Array:
        """Make `sums` memory of this process's own, with all but `parts` copied."""
        if self._copy is None:
            self._copy = aligned_zeros(self._summed.size, self.dtype)
        copy, end = self._copy, 0
        for part in (*parts, slice(copy.size, copy.size)):
            copy[end : part.start] = self._summed[end : part.start]
            end = part.stop
        self.sums = copy
        for p, at in zip(self.parameters, self.slices, strict=True):
            if p.leaf.shown is not None:
                p.leaf.shown = copy[at].reshape(p.shape)
        return copy

    def mark_changed(self, parameters: Iterable[Parameter]) -> None:
        """Say that these were changed in place: a graph that needs what they were is refused."""
        now = next_sequence()
        for p in parameters:
            p.leaf.changed = now

    def ready(self, leave: Iterable[Parameter] = ()) -> list[slice]:
        """Return the stretches of the arena whose parameters have a gradient, in order.

        The parameters in `leave` are left out. Neighbours are merged, over the padding between
        them: usually this is one slice.
        """
        left = {id(p) for p in leave}
        keys = (True if p.leaf.filled and id(p) not in left else None for p in self.parameters)
        return [stretch for stretch, _ in self.stretches(keys)]

    def stretches(self, keys: Iterable[Hashable | None]) -> list[tuple[slice, list[int]]]:
        """Merge neighbours of equal keys, over the padding between them; None leaves one out.

        `keys` has one for each of `parameters`. Returns, in order, each stretch and the numbers of
        the parameters that lie in it.
        """
        found: list[tuple[slice, list[int]]] = []
        last: Hashable | None = None
        for number, (key, at) in enumerate(zip(keys, self.slices, strict=True)):
            if key is not None and key == last:
                stretch, members = found[-1]
                members.append(number)
                found[-1] = slice(stretch.start, at.stop), members
            elif key is not None:
                found.append((at, [number]))
            last = key
        return found

    def buckets(self, nbytes: int) -> list[Bucket]:
        """Cut the arena, in order, into buckets of at most `nbytes` and at least one parameter."""
        if nbytes < 1:
            raise UsageError(f"a bucket holds at least 1 byte; found {nbytes}")
        starts = [at.start for at in self.slices]
        ends = [*starts[1:], self.weights.size]  # with the padding
        limit = nbytes // self.dtype.itemsize
        buckets: list[Bucket] = []
        first = 0
        for i, end in enumerate(ends):
            following = ends[i + 1] if i + 1 < len(ends) else None
            if following is None or following - starts[first] > limit:
                held = tuple(self.parameters[first : i + 1])
                buckets.append(Bucket(slice(starts[first], end), held))
                first = i + 1
        return buckets
