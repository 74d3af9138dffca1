"""The data-parallel step: gradients are summed over the ranks, bucket by bucket.

A bucket is a slice of the gradient arena. Its sum begins when backward has filled it, while
backward goes on with the next, if there is a wire to wait for; else when backward has ended. Every
rank sums the buckets in the same order. They are read from the gradients and written to the result
arena, so a sum that breaks off can be repeated.

Rule: a rank's gradient is that of its mean loss times its share of the global batch, so that the
sum over ranks is the gradient of the mean over the global batch, whatever the world size.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from holdfast.collectives import Communicator, Work
from holdfast.collectives.compression import compression as compression_named
from holdfast.collectives.compression.compressor import Compressor, Layout, all_reduce_bytes
from holdfast.collectives.work import WorkQueue
from holdfast.core.arena import Arena, Bucket
from holdfast.core.backend import Array, device_of, to_device
from holdfast.core.tensor import Tensor
from holdfast.errors import CommunicationError, UsageError
from holdfast.runtime.carry import carried

BUCKET_BYTES = 512 << 10
"""Gradients are summed in parts of about this size. The order in which contributions are added
depends on a bucket's bounds, so this must not depend on the transport, or on anything measured.

What is summed after backward's end is in nobody's shadow: the last bucket at least. Of the 27 ms
that the gradients of a small GPT (0.8 M parameters) take at 1 Gbit/s, buckets of 128, 256, 512 and
1024 KiB hid 82, 73, 74 and 55 % behind a computation that leaves the processor free, one of 4 MiB
nothing. But each bucket costs 2(n - 1) times the network's latency, and wakes a thread as often,
which a busy processor may let wait for milliseconds: no smaller than need be."""
COMPRESSED_FROM = 16 << 10
"""A compression that is named for all buckets leaves smaller ones alone: latency is their cost."""

Compression = str | Callable[[Bucket], str | None] | None
"""The compression of every bucket by name, what returns a bucket's, or None."""

log = logging.getLogger("holdfast.step")


class GradientSum:
    """Sums the gradients of `arena` over the ranks of `communicator`; one step at a time.

    `backward` begins the sums, `finish` waits for them. The arena's gradients and sums move into
    memory that the communicator allocates: over shared memory the peers read them in place. Where
    that memory is on another device than the arena (a GPU's gradients, a network of the host's)
    they stay, and are summed through copies.

    Sums go in the arena's order in the first step. If backward finishes the buckets in another one
    on rank 0, all ranks take that one from the second step on, so that no bucket waits for one that
    comes later. All weights are needed at once when the next forward begins, so whatever is ready
    first goes first: no order that never lets the wire idle ends sooner, and none is less upset by
    a rank that is late. The order of buckets changes no bit of the sums.
    """

    def __init__(
        self,
        arena: Arena,
        communicator: Communicator,
        *,
        bucket_bytes: int = BUCKET_BYTES,
        compression: Compression = None,
    ) -> None:
        self.sent = 0
        """Bytes that this rank sent for the last step's sums, by the collectives' least count."""
        self._arena = arena
        self._buckets: Sequence[Bucket] = arena.buckets(bucket_bytes)
        self._compressors = [_compressor(bucket, arena, compression) for bucket in self._buckets]
        self._order: list[int] = []  # in which buckets are summed
        self._agreed = False  # whether that is the final order
        self._running = False
        self._filled: list[int] = []  # buckets, as backward finishes them
        self._missing: list[int] = []  # by bucket: parameters that backward has yet to finish
        self._begun = 0  # buckets whose sum has begun in this step
        self._works: list[Work[Any]] = []
        self._queue: WorkQueue | None = None
        self._failure: CommunicationError | None = None  # of a sum that could not begin
        self._hooked = False
        self._join(communicator)

    @property
    def compressed(self) -> bool:
        """Whether any bucket is."""
        return any(self._compressors)

    @property
    def plain_bytes(self) -> int:
        """What `sent` would be without compression."""
        return all_reduce_bytes(self._arena.weights.nbytes, self._communicator.world_size)

    def backward(self, loss: Tensor, weight: float) -> None:
        """Backpropagate `loss`, the mean over this rank's samples, `weight` of the global batch.

        It goes to its end though a sum cannot begin: `finish` raises that, and may be repeated.
        """
        self._filled.clear()
        self._missing = [len(bucket.parameters) for bucket in self._buckets]
        self._running = True
        try:
            loss.backward(weight)
        finally:
            self._running = False

    def finish(self) -> None:
        """Return when the arena holds the sums of the whole step.

        A CommunicationError leaves the gradients and what compression remembers as they were: after
        `rejoin`, it may be called again.
        """
        if self._alone:
            self._arena.complete()
        else:
            self._begin_all()
            for work in self._works:
                work.wait(self._patience)
            self._agree()
            for compressor in self._compressors:
                if compressor is not None:
                    compressor.commit()
            if not self._in_place:
                self._arena.sums[...] = to_device(self._sums, device_of(self._arena.sums))
            self.sent = sum(
                all_reduce_bytes(x.nbytes, self._communicator.world_size)
                if compressor is None
                else compressor.sent
                for compressor, x in zip(self._compressors, self._gradient_slices, strict=True)
            )
            self._reset()
        self._arena.publish()

    def settle(self) -> None:
        """Let the script use the communicator between `backward` and `finish`.

        Every rank calls it then. The sums of all buckets have begun, and those that a thread of
        compression's carries out have ended: so the ranks' calls have one order, whatever each
        one's backward reached.
        """
        if self._alone:
            return
        self._begin_all()
        if self._queue is not None:
            self._queue.run(lambda: None)

    def rejoin(self, communicator: Communicator) -> None:
        """Go on over another communicator of as many ranks; a step that broke off is summed anew.

        The gradients are kept: call `finish` again. The broken communicator is closed by now.
        """
        self.close()
        self._join(communicator)

    def close(self) -> None:
        """End the thread that compresses; may be called again. Close the communicator first."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    # What compression remembers

    def fold(self) -> None:
        """Share what compression left out evenly among the ranks; every rank calls it.

        What counts is its sum over the ranks. So one copy of it is enough for a checkpoint, and a
        run that goes on from the checkpoint does what the one that wrote it goes on to do.
        """
        if self._alone:
            return
        residuals = [
            compressor.residual
            for compressor in self._compressors
            if compressor is not None and compressor.residual is not None
        ]
        totals = [
            carried(self._communicator, self._communicator.all_reduce, x.copy()) for x in residuals
        ]
        for residual, total in zip(residuals, totals, strict=True):
            share = residual.dtype.type(1.0 / self._communicator.world_size)
            np.multiply(total, share, out=residual)

    def state_arrays(self) -> dict[str, Array]:
        """Return what compression remembers, after `fold` the same on every rank; empty if nothing.

        `residual` lies as the arena does.
        """
        arrays: dict[str, Array] = {}
        if any(c is not None and c.residual is not None for c in self._compressors):
            arrays["residual"] = np.zeros(self._arena.weights.size, self._arena.dtype)
            arrays["world_size"] = np.array([self._communicator.world_size], np.int64)
        for bucket, compressor in zip(self._buckets, self._compressors, strict=True):
            if compressor is None:
                continue
            if compressor.residual is not None:
                arrays["residual"][bucket.slice] = compressor.residual
            for name, array in compressor.state().items():
                arrays[f"{bucket.slice.start}.{name}"] = array.copy()
        return arrays

    def load_state(self, arrays: Mapping[str, Array]) -> None:
        """Take up what `state_arrays` gave, by whatever number of ranks and compression.

        What has no place here is left, and what is missing begins at zero.
        """
        world_size = self._communicator.world_size
        saved_by = int(arrays["world_size"][0]) if "world_size" in arrays else world_size
        own = self.state_arrays()
        fitting = {
            name: array
            for name, array in arrays.items()
            if name in own and array.shape == own[name].shape and array.dtype == own[name].dtype
        }
        for bucket, compressor in zip(self._buckets, self._compressors, strict=True):
            if compressor is None:
                continue
            if compressor.residual is not None:
                residual = compressor.residual
                residual[...] = 0
                if "residual" in fitting:
                    residual[...] = fitting["residual"][bucket.slice]
                if saved_by != world_size:
                    residual *= residual.dtype.type(saved_by / world_size)
            for name, array in compressor.state().items():
                array[...] = fitting.get(f"{bucket.slice.start}.{name}", 0)

    # The order of sums

    def _finished(self, number: int) -> None:
        """A parameter in this bucket is done: begin the sums that it makes possible, in order."""
        if not self._running or self._alone:  # a backward of the script's own is not this step's
            return
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._filled.append(number)
        if self._failure is not None or not self._communicator.overlaps:
            return
        # The last bucket is left to `finish`: whoever waits carries it out at once.
        last = len(self._buckets) - 1
        try:
            while self._begun < last and self._missing[self._order[self._begun]] == 0:
                self._begin(at_once=False)
        except CommunicationError as error:
            self._failure = error  # raised by `finish`: half a gradient would be of no use

    def _begin_all(self) -> None:
        if self._failure is not None:
            raise self._failure
        while self._begun < len(self._buckets):
            self._arena.complete(self._buckets[self._order[self._begun]].slice)
            last = self._begun == len(self._buckets) - 1
            self._begin(at_once=last or not self._communicator.overlaps)

    def _begin(self, *, at_once: bool) -> None:
        number = self._order[self._begun]
        x, out = self._gradient_slices[number], self._sum_slices[number]
        if not self._in_place:
            gradients = self._arena.gradients[self._buckets[number].slice]
            x[...] = to_device(gradients, self._communicator.device)
        communicator, compressor = self._communicator, self._compressors[number]
        self._begun += 1
        if self._queue is not None:

            def call() -> None:
                if compressor is None:
                    communicator.all_reduce(x, out=out)
                else:
                    compressor.sum(x, out, communicator)

            self._works.append(self._queue.submit(call))
        elif at_once and self._patience is None:
            communicator.all_reduce(x, out=out)
        else:
            self._works.append(communicator.all_reduce(x, out=out, async_op=True))

    def _agree(self) -> None:
        """Once, take the order in which rank 0's backward fills the buckets for all later steps."""
        if self._agreed:
            return
        arrived = self._filled + [n for n in self._order if n not in self._filled]
        own = np.array(arrived, np.int32)
        found = carried(self._communicator, self._communicator.broadcast, own).tolist()
        if found != self._order:
            log.info("backward fills the buckets in the order %s: they are summed in it", found)
        self._order, self._agreed = found, True

    def _reset(self) -> None:
        self._begun = 0
        self._works.clear()
        self._failure = None

    # Memory

    def _join(self, communicator: Communicator) -> None:
        arena = self._arena
        self._communicator = communicator
        self._alone = communicator.world_size == 1
        self._patience: float | None = None
        self._order = list(range(len(self._buckets)))
        self._agreed = len(self._buckets) == 1 or not communicator.overlaps
        self._reset()
        if self._alone:
            return
        size, dtype = arena.gradients.size, arena.dtype
        self._gradients = communicator.allocate(size, dtype)
        # What is decoded is written by each rank in its own time: it must be each rank's own.
        self._sums = communicator.allocate(size, dtype, common=not self.compressed)
        memory = communicator.device
        self._in_place = device_of(arena.gradients) == memory
        if memory != "cpu":
            if self.compressed:
                raise UsageError(
                    f"compression is for networks of the host's; transport "
                    f"{communicator.transport} sums in the GPU's memory: leave compression out"
                )
            # There a call returns before its result is whole: only a deadline waits for that.
            self._patience = math.inf
        if self._in_place:
            shown = self._sums.view()
            if memory == "cpu":
                shown.flags.writeable = False  # may be every rank's: nobody changes it alone
            arena.rehome(gradients=self._gradients, sums=shown)
        self._gradient_slices = [self._gradients[bucket.slice] for bucket in self._buckets]
        self._sum_slices = [self._sums[bucket.slice] for bucket in self._buckets]
        if self.compressed:
            self._queue = WorkQueue(f"holdfast-compression-{communicator.rank}")
        if not self._hooked:
            self._hooked = True
            for number, bucket in enumerate(self._buckets):
                for parameter in bucket.parameters:
                    # By the leaf: one that is frozen now may be trained later.
                    parameter.leaf.hooks.append(partial(self._finished, number))


def _compressor(bucket: Bucket, arena: Arena, compression: Compression) -> Compressor | None:
    """Return what compresses a bucket, if anything."""
    count = bucket.slice.stop - bucket.slice.start
    if isinstance(compression, str):
        name = compression if count * arena.dtype.itemsize >= COMPRESSED_FROM else None
        compression_named(compression)  # so that a wrong name is told, however small the model
    else:
        name = None if compression is None else compression(bucket)
    if name is None:
        return None
    layout = Layout(
        count,
        arena.dtype,
        tuple(arena.place(p).start - bucket.slice.start for p in bucket.parameters),
        tuple(p.shape for p in bucket.parameters),
    )
    return compression_named(name)(layout)
