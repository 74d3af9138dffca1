"""A plan carried out on arrays, one instruction after the other. Pure.

`execute` goes through a rank's moves (`plan.py`), adds what has come, and yields what is to be sent
and received; whoever takes the instructions has the wire (`call.py` a transport, the simulation a
virtual one).
"""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import COMBINE, Array, Op, finish, sum_type
from holdfast.collectives.plan import Await, Combine, Copy, Emit, Enter, Give, Plan


class Outgoing(NamedTuple):
    """Send `data` to `peer`; it stays as it is until the receiver has it."""

    peer: int
    data: memoryview


class Place(NamedTuple):
    """Let the next message of `peer` that has no place yet go to `into`."""

    peer: int
    into: memoryview


Instruction = Outgoing | Place | Await | Enter
"""`Await`: see to it that the oldest place of the peer's is filled before going on."""


class Scratch:
    """The memory that a plan needs besides the caller's arrays, for one call after the other."""

    def __init__(self, plan: Plan, dtype: DTypeLike, memory: Array | None = None) -> None:
        """`memory` are `scratch_bytes` bytes (uint8) or more to use; None: memory of its own."""
        if memory is None:
            memory = np.empty(scratch_bytes(plan, dtype), np.uint8)
        self.memory = memory
        arrays, start = [], 0
        for length, kind in _scratch(plan, np.dtype(dtype)):
            arrays.append(memory[start : start + length * kind.itemsize].view(kind))
            start += _aligned(length * kind.itemsize)
        self.arrays = tuple(arrays)
        self.buffers = tuple(map(_bytes, arrays))


def scratch_bytes(plan: Plan, dtype: DTypeLike) -> int:
    """Return how much memory a plan needs besides the caller's arrays of `dtype`."""
    parts = _scratch(plan, np.dtype(dtype))
    return sum(_aligned(length * kind.itemsize) for length, kind in parts)


def _scratch(plan: Plan, dtype: np.dtype[Any]) -> list[tuple[int, np.dtype[Any]]]:
    """Return the lengths and types of CAME, WIDE and COPIES, in this order."""
    return [(plan.came, dtype), (plan.wide, sum_type(dtype)), (plan.copies, dtype)]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def execute(
    plan: Plan, x: Array, out: Array, scratch: Scratch, op: Op = "sum"
) -> Iterator[Instruction]:
    """Yield what a rank does to carry out `plan`; `out` is whole when the iterator has ended.

    `x` and `out` are one-dimensional and contiguous. `scratch` is nobody else's meanwhile.
    """
    combine, size = COMBINE[op], x.itemsize
    arrays = (x, out, *scratch.arrays)
    held = _bytes(x)
    buffers = (held, held if out is x else _bytes(out), *scratch.buffers)
    move: Any  # of type `kind`: to ask for that, once, is quicker than isinstance
    for move in plan.moves:
        kind = type(move)
        if kind is Await or kind is Enter:
            yield move
        elif kind is Emit:
            peer, (where, start, length) = move
            yield Outgoing(peer, buffers[where][start * size : (start + length) * size])
        elif kind is Give:
            peer, (where, start, length) = move
            yield Place(peer, buffers[where][start * size : (start + length) * size])
        elif kind is Combine:
            (a, i, length), (b, j, _), (c, k, _) = move
            combine(
                arrays[a][i : i + length], arrays[b][j : j + length], out=arrays[c][k : k + length]
            )
        elif kind is Copy:
            (a, i, length), (b, j, _) = move
            arrays[b][j : j + length] = arrays[a][i : i + length]
        else:
            where, start, length = move.part
            finish(op, arrays[where][start : start + length], plan.world_size)


def call_tag(call: str, detail: str, x: Array) -> int:
    """Return 16 bits that ranks which make the same call have in common."""
    return zlib.crc32(f"{call} {detail} {x.dtype.str} {x.dtype.name} {x.size}".encode()) & 0xFFFF


def _bytes(array: Array) -> memoryview:
    return array.view(np.uint8).data
