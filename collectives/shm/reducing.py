"""Sums over the arrays of the ranks of one host: small ones, those in place, those over the stage.

- Small: every rank puts its array on the stage, meets, and adds up the whole. One meeting.
- In place: every rank adds up its chunk of everybody's arrays where they lie and writes it into
  everybody's results, or once if that is one memory. Two meetings.
- Over the stage: the same piece by piece, for arrays that the peers cannot read. Two ranks put a
  middling one there before they meet, and add up the whole as if it were small.
"""

import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from holdfast.collectives.communicator import Array, Op
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.shm.arrays import PIECE, SharedArrays, windows
from holdfast.collectives.shm.call import agreed, describe
from holdfast.collectives.shm.meeting import Meetings
from holdfast.collectives.shm.summing import BLOCK_BYTES, Sum

SMALL = 16 << 10
"""Up to this many bytes every rank adds up the whole array."""
MIDDLING = 256 << 10
"""Up to this many bytes two ranks do so with arrays that the peer cannot read."""
KEPT = 256
"""How many sums, and pairs of arrays, are kept ready."""
STAGED = "a staged sum"


class _Half(NamedTuple):
    """An all-reduce of which everybody adds up the whole, on one half of the stage."""

    mine: Array
    """Where this rank's array goes."""
    sums: list[Sum]
    total: Array
    """What the sums make; the memory is that of every other such total."""

    def add_up(self, out: Array) -> None:
        """Combine everybody's arrays into `out`."""
        for add_up in self.sums:
            add_up()
        # `out` may be one memory for all ranks: each writes it once, with the same final values.
        out[...] = self.total


class _Small(NamedTuple):
    """The all-reduces of one shape, dtype and operation."""

    own: bytes
    agreed: bytes
    """What the ranks show if all call the same."""
    halves: list[_Half]


class _Stage(enum.Enum):
    """Why a sum is not in place: an array of every rank, or of some, is out of the peers' reach."""

    ALL = enum.auto()
    SOME = enum.auto()


class Reducer:
    """One rank's sums. One thread at a time."""

    def __init__(self, meetings: Meetings, arrays: SharedArrays) -> None:
        self._meetings = meetings
        self._arrays = arrays
        self._rank = arrays.rank
        self._size = arrays.world_size
        self._scratch = np.empty(BLOCK_BYTES, np.uint8)
        self._total = np.empty(MIDDLING, np.uint8)
        self._small: dict[tuple[np.dtype[Any], tuple[int, ...], Op], _Small] = {}
        # What is shown for arrays that were located before; these are held, so that their
        # identities stay theirs. And the sums by what all ranks show.
        self._shown: dict[tuple[int, int, Op], tuple[bytes, Array, Array]] = {}
        self._sums: dict[bytes, Sum | _Stage] = {}

    def all_reduce(self, x: Array, op: Op, out: Array) -> None:
        """Combine every rank's `x` into `out` on every rank."""
        if x.nbytes <= SMALL:
            return self._everywhere(x, op, out)
        key = id(x), id(out), op
        known = self._shown.get(key)
        own = self._describe(x, op, out) if known is None else known[0]
        ready = None
        if self._size == 2 and x.nbytes <= MIDDLING:
            half = self._arrays.turn()  # every rank does, whatever its arrays are
            if key not in self._shown:
                ready = self._ready(x, op).halves[half]
                ready.mine[...] = x
        shown = self._meetings.show(own, "all_reduce")
        try:
            way = self._sums[shown]
        except KeyError:
            way = self._way(shown, x.dtype, x.size, op)
        if isinstance(way, Sum):
            way()
            return self._meetings.meet("all_reduce")
        if ready is not None and way is _Stage.ALL:
            return ready.add_up(out)
        return self._staged(x, op, out)

    def reduce_chunk(self, x: Array, op: Op, into: Array) -> None:
        """Combine every rank's `x`; write this rank's chunk into `into`.

        That is one-dimensional, and of `x`'s dtype or its `sum_type`.
        """
        own = describe("reduce_scatter", x.dtype, x.size, op=op, source=self._arrays.locate(x))
        places = [(call.source, call.source_at) for call in self._arrays.meet(own)]
        bounds, rank = chunk_bounds(x.size, self._size), self._rank
        if all(number >= 0 for number, _ in places):
            inputs = self._arrays.views(places, x.dtype, x.size)
            part = slice(bounds[rank], bounds[rank + 1])
            self._sum(op, [each[part] for each in inputs], [into], rank)()
            return self._meetings.meet("reduce_scatter")
        at = 0
        for half, width, parts in self._stage(flat(x)):
            length = parts[rank].stop - parts[rank].start
            self._add_up(half, width, x.dtype, op, rank, into[at : at + length])
            at += length
        return None

    def reduce(self, x: Array, op: Op, root: int, target: Array | None) -> None:
        """Combine every rank's `x` into `target`, contiguous and of `x`'s size, on `root`."""
        self._arrays.meet(describe("reduce", x.dtype, x.size, op=op, root=root))
        self._staged_into(flat(x), op, target)

    def close(self) -> None:
        """Let go of all arrays."""
        self._small.clear()
        self._shown.clear()
        self._sums.clear()

    # Small

    def _everywhere(self, x: Array, op: Op, out: Array) -> None:
        """Let everybody add up everything."""
        small = self._ready(x, op)
        half = small.halves[self._arrays.turn()]
        half.mine[...] = x
        shown = self._meetings.show(small.own, "all_reduce")
        if shown != small.agreed:
            agreed(shown, self._rank)
        half.add_up(out)

    def _ready(self, x: Array, op: Op) -> _Small:
        key = x.dtype, x.shape, op
        small = self._small.get(key)
        if small is None:
            if len(self._small) >= KEPT:
                self._small.clear()
            small = self._small[key] = self._prepare(x, op)
        return small

    def _prepare(self, x: Array, op: Op) -> _Small:
        halves = []
        bounds = chunk_bounds(x.size, self._size)
        for half in (0, 1):
            inputs = [
                self._arrays.staged(half, rank, x.dtype, 0, x.size) for rank in range(self._size)
            ]
            total = self._total[: x.nbytes].view(x.dtype)
            parts = [slice(*bounds[chunk : chunk + 2]) for chunk in range(self._size)]
            sums = [
                self._sum(op, [each[part] for each in inputs], [total[part]], chunk)
                for chunk, part in enumerate(parts)
                if part.start < part.stop
            ]
            mine = inputs[self._rank].reshape(x.shape)
            halves.append(_Half(mine, sums, total.reshape(x.shape)))
        own = describe("all_reduce", x.dtype, x.size, op=op).pack()
        return _Small(own, own * self._size, halves)

    # In place

    def _describe(self, x: Array, op: Op, out: Array) -> bytes:
        source, target = self._arrays.locate(x), self._arrays.locate(out)
        own = describe("all_reduce", x.dtype, x.size, op=op, source=source, target=target).pack()
        if source[0] >= 0 and target[0] >= 0:
            if len(self._shown) >= KEPT:
                self._shown.clear()
            self._shown[id(x), id(out), op] = own, x, out
        return own

    def _way(self, shown: bytes, dtype: np.dtype[Any], count: int, op: Op) -> "Sum | _Stage":
        """Return what adds up this rank's chunk in place, or why that is not possible."""
        calls = agreed(shown, self._rank)
        private = [call.source < 0 or call.target < 0 for call in calls]
        way: Sum | _Stage
        if any(private):
            way = _Stage.ALL if all(private) else _Stage.SOME
        else:
            part = slice(*chunk_bounds(count, self._size)[self._rank : self._rank + 2])
            targets = [(call.target, call.target_at) for call in calls]
            inputs = self._arrays.views(
                [(call.source, call.source_at) for call in calls], dtype, count
            )
            outs = self._arrays.views(targets, dtype, count)
            outs.insert(0, outs.pop(self._rank))
            if self._arrays.all_one(targets):
                del outs[1:]
            way = self._sum(
                op, [each[part] for each in inputs], [each[part] for each in outs], self._rank
            )
        if len(self._sums) >= KEPT:
            self._sums.clear()
        self._sums[shown] = way
        return way

    # Over the stage

    def _staged(self, x: Array, op: Op, out: Array) -> None:
        target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        self._staged_into(flat(x), op, target)
        if not out.flags.c_contiguous:
            out[...] = target.reshape(out.shape)

    def _staged_into(self, source: Array, op: Op, target: Array | None) -> None:
        """Combine every rank's `source` into `target`, where there is one."""
        rank, dtype, ranks = self._rank, source.dtype, range(self._size)
        for half, width, parts in self._stage(source):
            if self._size == 2:
                # Adding up all is less than adding up one half and copying two.
                if target is not None:
                    for chunk in ranks:
                        self._add_up(half, width, dtype, op, chunk, target[parts[chunk]])
                continue
            lengths = [part.stop - part.start for part in parts]
            mine = self._arrays.staged(half, rank, dtype, 0, lengths[rank], out=True)
            self._add_up(half, width, dtype, op, rank, mine)
            self._meetings.meet(STAGED)
            if target is not None:
                for peer, part in enumerate(parts):
                    target[part] = self._arrays.staged(
                        half, peer, dtype, 0, lengths[peer], out=True
                    )

    def _stage(self, source: Array) -> Iterator[tuple[int, int, list[slice]]]:
        """Show `source` piece by piece; yield each when the others' are there too.

        A piece is a part of every chunk: its half of the stage, the elements from one chunk's part
        on the stage to the next one's, and what the parts are of `source`.
        """
        bounds = chunk_bounds(source.size, self._size)
        width = PIECE // source.itemsize // self._size
        for parts in windows(bounds, width):
            half = self._arrays.turn()
            for chunk, part in enumerate(parts):
                place = chunk * width, part.stop - part.start
                self._arrays.staged(half, self._rank, source.dtype, *place)[...] = source[part]
            self._meetings.meet(STAGED)
            yield half, width, parts

    def _add_up(
        self, half: int, width: int, dtype: np.dtype[Any], op: Op, chunk: int, into: Array
    ) -> None:
        """Combine everybody's part of `chunk`, as it is on the stage, into `into`."""
        if into.size:
            inputs = [
                self._arrays.staged(half, rank, dtype, chunk * width, into.size)
                for rank in range(self._size)
            ]
            self._sum(op, inputs, [into], chunk)()

    def _sum(self, op: Op, inputs: list[Array], outs: list[Array], chunk: int) -> Sum:
        return Sum(op, inputs, outs, chunk, scratch=self._scratch)


def flat(x: Array) -> Array:
    """Return `x` as one dimension: itself where it is contiguous, else a copy."""
    return np.ascontiguousarray(x).reshape(-1)
