"""Moves between the ranks of one host: who gives blocks of bytes, and who takes which of them.

What lies in memory that the peers can read is taken from there; anything else is shown on the
stage, piece by piece.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from holdfast.collectives.communicator import Array
from holdfast.collectives.shm.arrays import PIECE, SharedArrays, windows
from holdfast.collectives.shm.call import CALLS, Call, describe
from holdfast.collectives.shm.meeting import Meetings

_BYTE = np.dtype(np.uint8)
STAGED = "a staged copy"


class Take(NamedTuple):
    """Block number `block` of `giver` is wanted at `into`: contiguous, flat, of a block's bytes."""

    giver: int
    block: int
    into: Array


def move(
    meetings: Meetings,
    arrays: SharedArrays,
    own: Call,
    givers: Sequence[int],
    shape: tuple[int, int],
    offer: Array | None,
    takes: Sequence[Take],
) -> None:
    """Begin the call `own`; give the others what they want of `offer`, and take `takes`.

    Each of `givers` has as many blocks of as many bytes as `shape` says; `offer` are this rank's
    as one flat array of bytes, or None if it gives nothing.
    """
    calls = arrays.meet(own)
    blocks, length = shape
    if all(calls[giver].source >= 0 for giver in givers):
        for giver, block, into in takes:
            call = calls[giver]
            place = call.source, call.source_at + block * length
            into[...] = arrays.view(place, giver, _BYTE, length)
        meetings.meet(CALLS[own.call])  # nobody reads this rank's any more
        return
    table = None if offer is None else offer.reshape(blocks, length)
    width = PIECE // blocks
    for start in range(0, length, width):
        count = min(width, length - start)
        half = arrays.turn()
        if table is not None:
            staged = arrays.staged(half, arrays.rank, _BYTE, 0, blocks * count)
            staged.reshape(blocks, count)[...] = table[:, start : start + count]
        meetings.meet(STAGED)
        for giver, block, into in takes:
            into[start : start + count] = arrays.staged(half, giver, _BYTE, block * count, count)


def gather_chunks(meetings: Meetings, arrays: SharedArrays, out: Array, bounds: list[int]) -> None:
    """Let every rank have each rank's chunk of its `out`, which is flat and contiguous.

    Chunk r are its elements bounds[r] to bounds[r + 1]; it is there on rank r.
    """
    calls = arrays.meet(describe("gather_chunks", out.dtype, out.size, target=arrays.locate(out)))
    rank, dtype = arrays.rank, out.dtype
    targets = [(call.target, call.target_at) for call in calls]
    if all(number >= 0 for number, _ in targets):
        if not arrays.all_one(targets):  # else every chunk is there already
            part = slice(bounds[rank], bounds[rank + 1])
            for peer, theirs in enumerate(arrays.views(targets, dtype, out.size)):
                if peer != rank:
                    theirs[part] = out[part]
            meetings.meet("gather_chunks")
        return
    for parts in windows(bounds, PIECE // out.itemsize):
        half = arrays.turn()
        lengths = [part.stop - part.start for part in parts]
        arrays.staged(half, rank, dtype, 0, lengths[rank])[...] = out[parts[rank]]
        meetings.meet(STAGED)
        for peer, part in enumerate(parts):
            if peer != rank:
                out[part] = arrays.staged(half, peer, dtype, 0, lengths[peer])
