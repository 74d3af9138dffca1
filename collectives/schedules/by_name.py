"""Every schedule by its collective and algorithm, for whoever is asked for one by a person."""

from collections.abc import Callable

from holdfast.collectives.schedule import Schedule
from holdfast.collectives.schedules.all_reduce import all_reduce
from holdfast.collectives.schedules.direct import (
    direct_all_gather,
    direct_all_to_all,
    direct_reduce_scatter,
    dissemination_barrier,
)
from holdfast.collectives.schedules.ring import ring_all_gather, ring_reduce_scatter
from holdfast.collectives.schedules.rooted import (
    binomial_broadcast,
    chain_broadcast,
    direct_gather,
    direct_reduce,
    direct_scatter,
    ring_reduce,
)
from holdfast.errors import UsageError

_ROOTLESS: dict[str, dict[str, Callable[[int], Schedule]]] = {
    "reduce-scatter": {"ring": ring_reduce_scatter, "direct": direct_reduce_scatter},
    "all-gather": {"ring": ring_all_gather, "direct": direct_all_gather},
    "all-to-all": {"direct": direct_all_to_all},
    "barrier": {"dissemination": dissemination_barrier},
}
_ROOTED: dict[str, dict[str, Callable[[int, int], Schedule]]] = {
    "broadcast": {"binomial": binomial_broadcast, "chain": chain_broadcast},
    "reduce": {"ring": ring_reduce, "direct": direct_reduce},
    "gather": {"direct": direct_gather},
    "scatter": {"direct": direct_scatter},
}
COLLECTIVES = ("all-reduce", *_ROOTLESS, *_ROOTED)


def by_name(
    collective: str, algorithm: str, world_size: int, *, root: int = 0, nbytes: int = 0
) -> Schedule:
    """Return the schedule of a collective; `nbytes` decides into how many pieces trees cut it.

    Raises UsageError for a name that there isn't, or a root that is no rank.
    """
    if world_size < 1 or not 0 <= root < world_size:
        raise UsageError(
            f"a root from 0 to the number of ranks - 1 was expected, found {root} of {world_size}"
        )
    if collective == "all-reduce":
        return all_reduce(algorithm, world_size, nbytes)
    if collective not in COLLECTIVES:
        raise UsageError(
            f"a collective of {', '.join(COLLECTIVES)} was expected, found {collective!r}"
        )
    algorithms = (_ROOTLESS | _ROOTED)[collective]
    if algorithm not in algorithms:
        raise UsageError(
            f"the schedules of {collective} are {', '.join(algorithms)}; found {algorithm!r}"
        )
    if collective in _ROOTED:
        return _ROOTED[collective][algorithm](world_size, root)
    return _ROOTLESS[collective][algorithm](world_size)
