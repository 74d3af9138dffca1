"""Two levels: within each host, then across hosts with one ring per local rank, then within again.

A rank's number is host * local ranks + local rank. Across hosts a rank sends but its share of what
its host has, and only to ranks with its own local number.
"""

from functools import cache

from holdfast.collectives.schedule import Schedule, Step, in_turn, relabelled
from holdfast.collectives.schedules.ring import (
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
)


@cache
def two_level_all_reduce(hosts: int, local: int) -> Schedule:
    """Every rank ends with the whole sum; chunks local * hosts + host, of hosts * local ranks."""
    parts = (
        _within(ring_reduce_scatter(local), hosts),
        _across(ring_all_reduce(hosts), local),
        _within(ring_all_gather(local), hosts),
    )
    return in_turn("two-level", "all-reduce", *parts)


def _within(ring: Schedule, hosts: int) -> Schedule:
    """Return the same ring on every host; each of its chunks is a run of as many as hosts."""
    local = ring.world_size

    def program(rank: int, number: int) -> Step:
        first = rank - rank % local
        step = relabelled(
            ring.program(rank % local, number),
            lambda peer: first + peer,
            lambda chunk: chunk * hosts,
            hosts,
        )
        if hosts == 1:
            return step
        partial = tuple(receive._replace(whole=False) for receive in step.receives)
        return step._replace(receives=partial)

    return Schedule(
        "two-level", ring.collective, hosts * local, hosts * local, ring.rounds, program
    )


def _across(ring: Schedule, local: int) -> Schedule:
    """Return a ring for each local rank, over the chunks that are its own."""
    hosts = ring.world_size

    def program(rank: int, number: int) -> Step:
        mine = rank % local
        return relabelled(
            ring.program(rank // local, number),
            lambda peer: peer * local + mine,
            lambda chunk: mine * hosts + chunk,
        )

    return Schedule("two-level", "all-reduce", hosts * local, hosts * local, ring.rounds, program)
