"""What one rank does to carry out a schedule, one instruction after the other. Pure.

`execute` walks a rank's steps and yields what is to be sent and received; whoever takes the
instructions has the wire (`scheduled.py` a transport, the simulation a virtual one). A chunk
travels in segments. A segment that a rank will send on in its next round leaves as soon as it is
whole, while later ones are still coming: the ring runs as one stream.

Rule: a rank's contribution is read from `x` and everything else from `out`, so an all-reduce that
is broken off has not touched its input (unless they are the same array).
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from holdfast.collectives.communicator import COMBINE, Array, Op, finish
from holdfast.collectives.schedule import Schedule, Send, Step


class Outgoing(NamedTuple):
    """Send `data` to `peer`; it stays as it is until the receiver has it."""

    peer: int
    data: memoryview


class Incoming(NamedTuple):
    """Fill `into` with the next message of `peer` before the next instruction is asked for."""

    peer: int
    into: memoryview


class Phase(NamedTuple):
    """The rank enters a phase of the collective: `reduce-scatter`, `all-gather`, `broadcast`."""

    name: str


Instruction = Outgoing | Incoming | Phase


def execute(
    plan: Schedule,
    rank: int,
    x: Array,
    out: Array,
    bounds: list[int],
    *,
    op: Op = "sum",
    segment: int,
    scratch: Array,
) -> Iterator[Instruction]:
    """Yield what `rank` does to carry out `plan`; `out` is whole when the iterator has ended.

    `x` and `out` are one-dimensional and contiguous; chunk i is their elements bounds[i] to
    bounds[i + 1]. `segment` is the size in bytes in which chunks travel. `scratch` are `segment`
    bytes (uint8) that are nobody else's meanwhile.

    An all-reduce has two phases, and is in the second when it first awaits a chunk that is summed
    up already; what it sent on early went out in the first. Other collectives are one phase.
    """
    collective = plan.name.partition("-")[2]  # a schedule is named by algorithm and collective
    yield Phase("reduce-scatter" if collective == "all-reduce" else collective)
    reducing = collective == "all-reduce"
    combine = COMBINE[op]
    length = segment // x.itemsize  # of a segment, in elements
    came = scratch[: length * x.itemsize].view(x.dtype)
    held = [x] * plan.chunks  # where each chunk stands now: in x until it has been received
    steps = list(plan.steps(rank))
    left: Send | None = None  # what the last round has already sent on
    for step, following in zip(steps, [*steps[1:], Step(plan.rounds)], strict=True):
        if step.send and step.send != left:
            for part in _segments(bounds, step.send.chunk, length):
                yield Outgoing(step.send.peer, _bytes(held[step.send.chunk][part]))
        left = None
        if receive := step.receive:
            if reducing and not receive.reduce:
                reducing = False
                yield Phase("all-gather")
            onward = following.send
            if onward and onward.chunk != receive.chunk:
                onward = None
            for part in _segments(bounds, receive.chunk, length):
                if receive.reduce:
                    arrived = came[: part.stop - part.start]
                    yield Incoming(receive.peer, _bytes(arrived))
                    combine(arrived, x[part], out=out[part])
                    if receive.chunk == rank:  # a ring's reduce-scatter ends rank r's chunk at r
                        finish(op, out[part], plan.world_size)
                else:
                    yield Incoming(receive.peer, _bytes(out[part]))
                if onward:
                    yield Outgoing(onward.peer, _bytes(out[part]))
            held[receive.chunk] = out
            left = onward


def call_tag(call: str, detail: str, x: Array) -> int:
    """Return 16 bits that ranks which make the same call have in common."""
    return zlib.crc32(f"{call} {detail} {x.dtype.str} {x.size}".encode()) & 0xFFFF


def _segments(bounds: list[int], chunk: int, length: int) -> Iterator[slice]:
    end = bounds[chunk + 1]
    for start in range(bounds[chunk], end, length):
        yield slice(start, min(start + length, end))


def _bytes(part: Array) -> memoryview:
    return part.view(np.uint8).data
