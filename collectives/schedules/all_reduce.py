"""The all-reduces by their names in `cost.py`."""

from collections.abc import Callable

from holdfast.collectives import cost
from holdfast.collectives.schedule import Schedule
from holdfast.collectives.schedules.direct import direct_all_reduce, exchange_all_reduce
from holdfast.collectives.schedules.halving import halving_doubling_all_reduce
from holdfast.collectives.schedules.ring import bidirectional_ring_all_reduce, ring_all_reduce
from holdfast.collectives.schedules.tree import binary_tree_all_reduce, double_tree_all_reduce
from holdfast.collectives.schedules.two_level import two_level_all_reduce
from holdfast.errors import UsageError

FAMILIES: dict[str, Callable[[int, int], Schedule]] = {
    "ring": lambda world_size, _: ring_all_reduce(world_size),
    "exchange": lambda size, nbytes: exchange_all_reduce(size, cost.exchange_chunks(size, nbytes)),
    "direct": lambda world_size, _: direct_all_reduce(world_size),
    "halving-doubling": lambda world_size, _: halving_doubling_all_reduce(world_size),
    "double-tree": lambda size, nbytes: double_tree_all_reduce(size, cost.pieces(nbytes // 2)),
    "bidirectional-ring": lambda world_size, _: bidirectional_ring_all_reduce(world_size),
    "binary-tree": lambda size, nbytes: binary_tree_all_reduce(size, cost.pieces(nbytes)),
}
"""What makes each: from the world size and the bytes of the array."""


def all_reduce(algorithm: str, world_size: int, nbytes: int) -> Schedule:
    """Return the schedule of an all-reduce of `nbytes` bytes by `algorithm`.

    Raises UsageError for a name that there isn't, or `two-level:RANKS` that doesn't fit.
    """
    if (local := cost.local_ranks(algorithm, world_size)) is not None:
        return two_level_all_reduce(world_size // local, local)
    if algorithm not in FAMILIES:
        raise UsageError(
            f"an algorithm of {', '.join(FAMILIES)}, two-level:RANKS was expected, found "
            f"{algorithm!r}"
        )
    return FAMILIES[algorithm](world_size, nbytes)
