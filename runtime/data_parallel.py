"""The data-parallel step: gradients are summed over the ranks, bucket by bucket.

A bucket is a slice of the gradient arena. Its sum begins when backward has filled it, while
backward goes on with the next; sums go in the arena's order on every rank. They are read from the
gradients and written to the result arena, so a sum that breaks off can be repeated.

Rule: a rank's gradient is that of its mean loss times its share of the global batch, so that the
sum over ranks is the gradient of the mean over the global batch, whatever the world size.
"""

from collections.abc import Sequence

from holdfast.collectives import Communicator, Work
from holdfast.core.arena import Arena, Bucket
from holdfast.core.backend import device_of, to_device, to_host
from holdfast.core.tensor import Tensor

BUCKET_BYTES = 4 << 20
"""Gradients are summed in parts of about this size. The order in which contributions are added
depends on a bucket's bounds, so this must not depend on the transport."""


class GradientSum:
    """Sums the gradients of `arena` over the ranks of `communicator`; one step at a time.

    `backward` begins the sums, `finish` waits for them. The arena's gradients and sums move into
    memory that the communicator allocates: over shared memory the peers read them in place. Those
    of a GPU stay there and are summed through copies in that memory.
    """

    def __init__(
        self, arena: Arena, communicator: Communicator, *, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._arena = arena
        self._communicator = communicator
        self._alone = communicator.world_size == 1
        self._works: list[Work] = []
        self._running = False
        self._begun = 0  # buckets whose sum has begun in this step
        self._buckets: Sequence[Bucket] = ()
        self._missing: list[int] = []  # by bucket: parameters that backward has yet to finish
        if self._alone:
            return
        size, dtype = arena.gradients.size, arena.dtype
        self._gradients = communicator.allocate(size, dtype)
        self._sums = communicator.allocate(size, dtype, common=True)
        self._on_host = device_of(arena.gradients) == "cpu"
        if self._on_host:
            shown = self._sums.view()
            shown.flags.writeable = False  # it may be every rank's: nobody changes it alone
            arena.rehome(gradients=self._gradients, sums=shown)
        self._buckets = arena.buckets(bucket_bytes)
        self._gradient_slices = [self._gradients[bucket.slice] for bucket in self._buckets]
        self._sum_slices = [self._sums[bucket.slice] for bucket in self._buckets]
        self._home = {
            id(parameter): number
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket.parameters
        }
        self._reset()
        for parameter in arena.parameters:
            parameter.register_post_accumulate_grad_hook(self._finished)

    def backward(self, loss: Tensor, weight: float) -> None:
        """Backpropagate `loss`, the mean over this rank's samples, `weight` of the global batch."""
        self._running = True
        try:
            loss.backward(weight)
        finally:
            self._running = False

    def finish(self) -> None:
        """Return when the arena holds the sums of the whole step."""
        if self._alone:
            self._arena.complete()
        else:
            while self._begun < len(self._buckets):
                self._arena.complete(self._buckets[self._begun].slice)
                self._begin(last=self._begun == len(self._buckets) - 1)
            for work in self._works:
                work.wait()
            if not self._on_host:
                self._arena.sums[...] = to_device(self._sums, device_of(self._arena.sums))
            self._reset()
        self._arena.publish()

    def _finished(self, parameter: Tensor) -> None:
        """Begin the sums that backward has just made possible, in the arena's order."""
        if not self._running:  # a backward of the script's own is not this step's
            return
        self._missing[self._home[id(parameter)]] -= 1
        # The last bucket is left to `finish`: whoever waits carries it out at once.
        while self._begun < len(self._buckets) - 1 and self._missing[self._begun] == 0:
            self._begin(last=False)

    def _begin(self, *, last: bool) -> None:
        x, out = self._gradient_slices[self._begun], self._sum_slices[self._begun]
        if not self._on_host:
            x[...] = to_host(self._arena.gradients[self._buckets[self._begun].slice])
        self._begun += 1
        if last:
            self._communicator.all_reduce(x, out=out)
        else:
            self._works.append(self._communicator.all_reduce(x, out=out, async_op=True))

    def _reset(self) -> None:
        self._begun = 0
        self._works.clear()
        self._missing = [len(bucket.parameters) for bucket in self._buckets]
