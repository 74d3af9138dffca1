"""The arrays that the ranks of one host share, and the stage on which all others are shown."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from holdfast.collectives.communicator import Array
from holdfast.collectives.shm.call import CALLS, PRIVATE, Call, agreed
from holdfast.collectives.shm.meeting import Meetings
from holdfast.collectives.shm.memory import Segment

PIECE: Final = 1 << 20
"""Bytes of the stage's four parts: what goes in and what comes out, each twice in turn."""
_STAGE = 0  # the number of the stage's segment: the first


def windows(bounds: list[int], width: int) -> Iterator[list[slice]]:
    """Yield the chunks that `bounds` divide an array into, `width` elements of each at a time."""
    longest = max(end - begin for begin, end in itertools.pairwise(bounds))
    for start in range(0, longest, width):
        yield [
            slice(min(begin + start, end), min(begin + start + width, end))
            for begin, end in itertools.pairwise(bounds)
        ]


class SharedArrays:
    """One rank's view of the memory of all. One thread at a time; owns the segments."""

    def __init__(self, meetings: Meetings, world_size: int) -> None:
        self.rank = meetings.rank
        self.world_size = world_size
        self._meetings = meetings
        self._segments: list[list[Segment]] = []  # by number, then by rank
        self._half = 0

    def open_stage(self) -> None:
        """Make the stage, before any other segment. Every rank calls it."""
        self.add(4 * PIECE)

    def allocate(self, count: int, dtype: np.dtype[Any], *, common: bool = False) -> Array:
        """Return zeroed memory that the peers read in place; with `common`, one for all ranks."""
        number = self.add(count * dtype.itemsize, common=common)
        return self._segments[number][self.rank].bytes.view(dtype)

    def add(self, nbytes: int, *, common: bool = False, huge: bool = True) -> int:
        """Make a segment on every rank, or with `common` one for all, and return its number."""
        mine = Segment.create(nbytes, huge=huge) if not common or self.rank == 0 else None
        opened = {} if mine is None else {self.rank: mine}
        try:
            own = Call(CALLS.index("allocate"), common, 0, nbytes, mine.fd if mine else -1)
            calls = self.meet(own)
            for peer in [0] if common else range(self.world_size):
                if peer not in opened:
                    pid, fd = self._meetings.pids[peer], calls[peer].source
                    opened[peer] = Segment.open(pid, fd, nbytes, huge=huge)
            self._meetings.meet("allocate")  # all have opened it: a rank may close at once
        except BaseException:
            for segment in opened.values():
                segment.close()
            raise
        self._segments.append([opened[0 if common else peer] for peer in range(self.world_size)])
        return len(self._segments) - 1

    def meet(self, own: Call) -> list[Call]:
        """Show what this rank calls, meet, and return what each rank calls."""
        return agreed(self._meetings.show(own.pack(), CALLS[own.call]), self.rank)

    def segments(self, number: int) -> list[Segment]:
        """Return every rank's segment of that number."""
        return self._segments[number]

    def locate(self, array: Array) -> tuple[int, int]:
        """Return the segment that `array` lies in and where, or `PRIVATE`."""
        if not array.flags.c_contiguous:
            return PRIVATE
        address = array.__array_interface__["data"][0]
        for number, segments in enumerate(self._segments):
            segment = segments[self.rank]
            offset = address - segment.address
            if offset >= 0 and offset + array.nbytes <= segment.bytes.size:
                return number, offset
        return PRIVATE

    def view(self, place: tuple[int, int], rank: int, dtype: np.dtype[Any], count: int) -> Array:
        """Return what `rank` has at `place`."""
        number, at = place
        return self._segments[number][rank].bytes[at : at + count * dtype.itemsize].view(dtype)

    def views(self, places: list[tuple[int, int]], dtype: np.dtype[Any], count: int) -> list[Array]:
        """Return what each rank has at its place, by rank."""
        return [self.view(place, rank, dtype, count) for rank, place in enumerate(places)]

    def all_one(self, places: list[tuple[int, int]]) -> bool:
        """Return whether the ranks' places are one and the same memory."""
        number, _ = places[0]
        segments = self._segments[number]
        return segments[0] is segments[-1] and len(set(places)) == 1

    def turn(self) -> int:
        """Go to the stage's other half and return its number, 0 or 1.

        It may be written while the peers still read what they met for last.
        """
        self._half ^= 1
        return self._half

    def staged(
        self,
        half: int,
        rank: int,
        dtype: np.dtype[Any],
        start: int,
        count: int,
        *,
        out: bool = False,
    ) -> Array:
        """Return elements `start` to `start + count` of what `rank` has on the stage."""
        at = (2 * half + out) * PIECE + start * dtype.itemsize
        return self.view((_STAGE, at), rank, dtype, count)

    def close(self) -> None:
        """Give the descriptors back; memory goes when the last array over it does."""
        for segments in self._segments:
            for segment in segments:
                segment.close()
