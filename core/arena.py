"""One buffer for all parameters of a model, and one of the same layout for their gradients.

The rule: parameters lie in reverse order of registration, which is the order in which backward
finishes their gradients. So a bucket of gradients is a slice that is filled front to back, the
optimizer is a few passes over flat memory, and a checkpoint is one buffer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.backend import ALIGNMENT, Array, aligned_zeros, array_module
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
        sums: what the optimizer reads: `gradients` itself unless rehomed.
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
        step = ALIGNMENT // self.dtype.itemsize
        self.slices: list[slice] = []
        end = 0
        for p in self.parameters:
            self.slices.append(slice(end, end + p.numel()))
            end += -(-p.numel() // step) * step
        module = array_module(self.parameters[0].array)
        self.weights: Array = aligned_zeros(end, self.dtype, module)
        self.gradients: Array = aligned_zeros(end, self.dtype, module)
        self.sums: Array = self.gradients
        self._place = {id(p): at for p, at in zip(self.parameters, self.slices, strict=True)}
        for p, at in zip(self.parameters, self.slices, strict=True):
            home = self.weights[at].reshape(p.shape)
            home[...] = p.array
            p.array = home
            p.arena = self
        self._bind()

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
        if gradients is not None:
            shared = self.sums is self.gradients
            gradients[...] = 0
            self.gradients = gradients
            self._bind()
            if shared:
                self.sums = gradients
        if sums is not None:
            self.sums = sums

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
        for p, at in zip(self.parameters, self.slices, strict=True):
            if p.requires_grad:
                p.leaf.shown = self.sums[at].reshape(p.shape)
                p.leaf.filled = True

    def ready(self, leave: Iterable[Parameter] = ()) -> list[slice]:
        """Return the stretches of the arena whose parameters have a gradient, in order.

        The parameters in `leave` are left out. Neighbours are merged, over the padding between
        them: usually this is one slice.
        """
        left = {id(p) for p in leave}
        stretches: list[slice] = []
        joined = False
        for p, at in zip(self.parameters, self.slices, strict=True):
            if not p.leaf.filled or (left and id(p) in left):
                joined = False
            elif joined:
                stretches[-1] = slice(stretches[-1].start, at.stop)
            else:
                stretches.append(at)
                joined = True
        return stretches

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
