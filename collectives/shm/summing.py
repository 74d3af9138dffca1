"""Several ranks' arrays become one, in the ring's order, block by block so that sums stay in cache.

Rule: the bits are those of the ring's all-reduce over any transport. Chunk c is combined in the
order of ranks c + 1, c + 2, …, c; 16-bit floats are combined in float32 and rounded once, at the
end.
"""

from collections.abc import Iterator, Sequence

from holdfast.collectives.communicator import COMBINE, Array, Op, finish, sum_type
from holdfast.collectives.schedule import ring_reduction_order

BLOCK_BYTES = 1 << 20
"""Bytes of each array that are combined at a time: the sum is in the cache when it is copied."""
READY_BLOCKS = 16
"""Up to so many blocks are cut once and kept, instead of each time anew."""

_Block = tuple[Array, Sequence[Array], Array, Array, Array, Sequence[Array]]


class Sum:
    """Some ranks' arrays combined into one, which may be done again and again.

    `inputs` are at least two arrays, by rank, one-dimensional, of one length and dtype; `chunk`
    says in whose ring's order they are combined. The result goes to all of `outs`: arrays of the
    same length, in the inputs' dtype or its `sum_type`, which may be inputs themselves.
    A mean is divided by the number of inputs. `scratch` are `BLOCK_BYTES` bytes (uint8) that are
    nobody else's meanwhile.
    """

    def __init__(
        self,
        op: Op,
        inputs: Sequence[Array],
        outs: Sequence[Array],
        chunk: int,
        *,
        scratch: Array,
    ) -> None:
        dtype = inputs[0].dtype
        self._combine = COMBINE[op]
        self._terms = [inputs[rank] for rank in ring_reduction_order(len(inputs), chunk)]
        self._outs = outs
        held = sum_type(dtype)
        self._wide = held != dtype
        self._op = op
        self._size = inputs[0].size
        self._length = BLOCK_BYTES // held.itemsize
        self._scratch = scratch.view(held)
        self._blocks: list[_Block] | None = None
        if self._size <= READY_BLOCKS * self._length:
            self._blocks = list(self._cut())

    def __call__(self) -> None:
        """Combine the inputs as they are now."""
        combine, mean, wide = self._combine, self._op == "mean", self._wide
        for total, middle, last, scratch, out, copies in self._blocks or self._cut():
            if wide:
                scratch[...] = total
                total = scratch
            for term in middle:
                total = combine(total, term, out=scratch)
            # An out that is a term is not written before; one that every rank writes (common
            # memory), once only, with what it is to hold.
            combine(total, last, out=scratch if mean else out)
            if mean:
                finish(self._op, scratch, len(self._terms))
                out[...] = scratch
            for copy in copies:
                copy[...] = out

    def _cut(self) -> Iterator[_Block]:
        for start in range(0, self._size, self._length):
            part = slice(start, min(start + self._length, self._size))
            first, *middle, last = (term[part] for term in self._terms)
            outs = [out[part] for out in self._outs]
            scratch = self._scratch[: part.stop - part.start]
            if self._wide:
                yield first, middle, last, scratch, scratch, outs
            else:
                yield first, middle, last, scratch, outs[0], outs[1:]
