"""Binary trees: the sum goes up to the root and down again, piece by piece.

The double tree is two of them with half of the data each. What is inside of one is a leaf of the
other (but for rank 0 of an odd number), so that no rank sends or hears more than a ring's would.

Sources: Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and
scan" (2009); the trees are those of NCCL (`src/graph/trees.cc`).
"""

from collections.abc import Callable
from functools import cache

from holdfast.collectives.schedule import Receive, Schedule, Send, Step, joined, relabelled


def parent(world_size: int, rank: int) -> int | None:
    """Return whom `rank` sends its sum to in an in-order binary tree; None for the root, rank 0.

    A rank stands as many levels above the leaves as its number has zeros at the end.
    """
    if rank == 0:
        return None
    bit = rank & -rank
    above = (rank ^ bit) | (bit << 1)
    return above if above < world_size else rank ^ bit


def children(world_size: int, rank: int) -> tuple[int, ...]:
    """Return the ranks whose parent `rank` is, in order."""
    if rank == 0:
        return (1 << ((world_size - 1).bit_length() - 1),) if world_size > 1 else ()
    reach = (rank & -rank) >> 1
    if not reach:
        return ()
    below = [rank - reach]
    while reach and rank + reach >= world_size:
        reach >>= 1
    return (*below, rank + reach) if reach else tuple(below)


@cache
def depth(world_size: int, rank: int) -> int:
    """Return how many edges there are from `rank` to the root."""
    above = parent(world_size, rank)
    return 0 if above is None else 1 + depth(world_size, above)


@cache
def binary_tree_all_reduce(world_size: int, pieces: int = 1) -> Schedule:
    """Every rank ends with the whole sum; each chunk is a piece that follows the one before it."""
    levels = (world_size - 1).bit_length()

    def program(rank: int, number: int) -> Step:
        above, below, level = (
            parent(world_size, rank),
            children(world_size, rank),
            depth(world_size, rank),
        )
        sends, receives = [], []
        # From a rank at level d, piece p goes up in round levels - d + p, down in levels + d + p.
        comes_up, goes_up = number - levels + level + 1, number - levels + level
        goes_down, comes_down = number - levels - level, number - levels - level + 1
        if 0 <= comes_up < pieces:
            whole = above is None
            receives += [Receive(peer, comes_up, reduce=True, whole=whole) for peer in below]
        if above is not None:
            if 0 <= goes_up < pieces:
                sends.append(Send(above, goes_up))
            if 0 <= comes_down < pieces:
                receives.append(Receive(above, comes_down))
        if 0 <= goes_down < pieces:
            sends += [Send(peer, goes_down) for peer in below]
        return Step(number, tuple(sends), tuple(receives))

    rounds = 2 * levels + pieces - 1 if levels else 0
    return Schedule("binary-tree", "all-reduce", world_size, pieces, rounds, program)


@cache
def double_tree_all_reduce(world_size: int, pieces: int = 1) -> Schedule:
    """Two trees at a time: chunks 0 to pieces - 1 take the one, as many more the other."""
    tree = binary_tree_all_reduce(world_size, pieces)
    place, rank_at = _other_places(world_size)

    def program(rank: int, number: int) -> Step:
        return joined(
            tree.program(rank, number),
            relabelled(tree.program(place(rank), number), rank_at, lambda chunk: chunk + pieces),
        )

    return Schedule("double-tree", "all-reduce", world_size, 2 * pieces, tree.rounds, program)


def _other_places(world_size: int) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Return a rank's place in the second tree, and the inverse: leaves are odd places.

    Ranks stand there in reverse order; if their number is odd, one place further on instead.
    """
    if world_size % 2:
        return lambda rank: (rank - 1) % world_size, lambda place: (place + 1) % world_size
    return lambda rank: world_size - 1 - rank, lambda place: world_size - 1 - place
