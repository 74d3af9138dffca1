"""The collectives that can be measured, as data: what each rank gives and gets, and what it costs.

Standard library only: `rank.py` loads this file by its path in a Python that has no Holdfast.

The array of a collective is that of nccl-tests: `count` float32 elements are the whole of it, of
which a rank gives or gets a chunk in a reduce-scatter, all-gather, gather or scatter. Root is rank
0. In send-recv rank 0 sends to 1, 2 to 3 and so on; an odd one out has nothing to do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROOT = 0
SUM = -1
"""In the place of a rank: the sum over all ranks."""
CHUNK = 64
"""A chunk is a multiple of so many bytes: Holdfast cuts arrays where cache lines begin."""


@dataclass(frozen=True)
class Piece:
    """`count` elements, from `start`, of what `of` (a rank, or SUM) has."""

    start: int
    count: int
    of: int


@dataclass(frozen=True)
class Asked:
    """One collective, of an array of `size` bytes, as one rank carries it out.

    It gives `given` float32 elements and gets `got`; 0: none. With `in_place` what it gets is in
    the place of what it gives.
    """

    collective: str
    size: int
    given: int
    got: int
    in_place: bool


@dataclass(frozen=True)
class Collective:
    """One collective.

    `factor(world_size)` times algbw is busbw, as nccl-tests defines it (doc/PERFORMANCE.md there;
    gather and scatter, which it lacks, as all-gather). `gives` and `gets` take the elements of the
    array, a rank and the world size, and return the pieces that the rank has before and after.
    `both_ways`: every rank sends and receives at the same time, so that the limit of a wire is that
    of both directions at once. `chunked`: the array is a whole number of chunks, one for each rank.
    """

    name: str
    factor: Callable[[int], float]
    gives: Callable[[int, int, int], list[Piece]]
    gets: Callable[[int, int, int], list[Piece]]
    both_ways: bool = False
    chunked: bool = False
    reduces: bool = False
    rooted: bool = False
    in_place: bool = False
    """Whether libraries have it in place as well."""

    def bytes_near(self, size: int, world_size: int) -> int:
        """Return the size in bytes, near `size`, that the array can have."""
        chunk = CHUNK * world_size if self.chunked else 4
        return max(chunk, size // chunk * chunk) if self.gives is not _nothing else 0

    def asked(self, size: int, rank: int, world_size: int, *, in_place: bool) -> Asked:
        """Return the part of `rank` in a collective of `size` bytes."""
        count = size // 4
        given = sum(piece.count for piece in self.gives(count, rank, world_size))
        got = sum(piece.count for piece in self.gets(count, rank, world_size))
        keeps = self.name == "broadcast" and rank == ROOT
        return Asked(self.name, size, given, got, in_place or keeps)


def _all(count: int, rank: int, world_size: int) -> list[Piece]:
    return [Piece(0, count, rank)]


def _first_chunk(count: int, rank: int, world_size: int) -> list[Piece]:
    return [Piece(0, count // world_size, rank)]


def _chunk_of_each(count: int, rank: int, world_size: int) -> list[Piece]:
    return [Piece(0, count // world_size, other) for other in range(world_size)]


def _nothing(count: int, rank: int, world_size: int) -> list[Piece]:
    return []


def _at_root(pieces: Callable[[int, int, int], list[Piece]]) -> Callable[..., list[Piece]]:
    return lambda count, rank, n: pieces(count, rank, n) if rank == ROOT else []


def _own_chunk(count: int, rank: int, world_size: int, of: int) -> Piece:
    return Piece(rank * (count // world_size), count // world_size, of)


def _share(n: int) -> float:
    return (n - 1) / n


_EVERY = [
    Collective(
        "all-reduce",
        factor=lambda n: 2 * _share(n),
        gives=_all,
        gets=lambda count, rank, n: [Piece(0, count, SUM)],
        both_ways=True,
        reduces=True,
        in_place=True,
    ),
    Collective(
        "reduce-scatter",
        factor=_share,
        gives=_all,
        gets=lambda count, rank, n: [_own_chunk(count, rank, n, SUM)],
        both_ways=True,
        reduces=True,
        chunked=True,
    ),
    Collective(
        "all-gather",
        factor=_share,
        gives=_first_chunk,
        gets=_chunk_of_each,
        both_ways=True,
        chunked=True,
    ),
    Collective(
        "broadcast",
        factor=lambda n: 1.0,
        gives=_at_root(_all),
        gets=lambda count, rank, n: [Piece(0, count, ROOT)],
        rooted=True,
    ),
    Collective(
        "reduce",
        factor=lambda n: 1.0,
        gives=_all,
        gets=_at_root(lambda count, rank, n: [Piece(0, count, SUM)]),
        reduces=True,
        rooted=True,
    ),
    Collective(
        "all-to-all",
        factor=_share,
        gives=_all,
        gets=lambda count, rank, n: [_own_chunk(count, rank, n, other) for other in range(n)],
        both_ways=True,
        chunked=True,
    ),
    Collective(
        "gather",
        factor=_share,
        gives=_first_chunk,
        gets=_at_root(_chunk_of_each),
        rooted=True,
        chunked=True,
    ),
    Collective(
        "scatter",
        factor=_share,
        gives=_at_root(_all),
        gets=lambda count, rank, n: [_own_chunk(count, rank, n, ROOT)],
        rooted=True,
        chunked=True,
    ),
    Collective(
        "send-recv",
        factor=lambda n: 1.0,
        gives=lambda count, rank, n: (
            [Piece(0, count, rank)] if rank % 2 == 0 and rank + 1 < n else []
        ),
        gets=lambda count, rank, n: [Piece(0, count, rank - 1)] if rank % 2 else [],
    ),
    Collective("barrier", factor=lambda n: 0.0, gives=_nothing, gets=_nothing),
]

COLLECTIVES: Mapping[str, Collective] = {each.name: each for each in _EVERY}
"""By name, in the order in which they are listed."""
