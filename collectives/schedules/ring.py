"""Rings: each rank sends to the next one and hears from the one before, round by round.

Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations"
(2009). The bidirectional ring is two of them, one each way round, with half of the data each.
"""

from functools import cache

from holdfast.collectives.schedule import (
    Receive,
    Schedule,
    Send,
    Step,
    in_turn,
    joined,
    relabelled,
)


@cache
def ring_reduce_scatter(world_size: int) -> Schedule:
    """Each rank ends with the whole sum of one chunk: rank r with chunk r, after n - 1 rounds."""

    def program(rank: int, number: int) -> Step:
        send = Send((rank + 1) % world_size, (rank - number - 1) % world_size)
        receive = Receive(
            (rank - 1) % world_size,
            (rank - number - 2) % world_size,
            reduce=True,
            whole=number == world_size - 2,
        )
        return Step(number, (send,), (receive,))

    return Schedule("ring", "reduce-scatter", world_size, world_size, world_size - 1, program)


@cache
def ring_all_gather(world_size: int) -> Schedule:
    """Rank r begins with chunk r; every rank ends with all chunks, after n - 1 rounds."""

    def program(rank: int, number: int) -> Step:
        send = Send((rank + 1) % world_size, (rank - number) % world_size)
        receive = Receive((rank - 1) % world_size, (rank - number - 1) % world_size)
        return Step(number, (send,), (receive,))

    return Schedule("ring", "all-gather", world_size, world_size, world_size - 1, program)


@cache
def ring_all_reduce(world_size: int) -> Schedule:
    """Every rank ends with the whole sum: a ring reduce-scatter, then a ring all-gather."""
    return in_turn(
        "ring", "all-reduce", ring_reduce_scatter(world_size), ring_all_gather(world_size)
    )


@cache
def bidirectional_ring_all_reduce(world_size: int) -> Schedule:
    """Two rings at a time: chunks 0 to n - 1 go up the ranks, n to 2n - 1 go down."""
    up = ring_all_reduce(world_size)

    def program(rank: int, number: int) -> Step:
        one = up.program(rank, number)
        other = up.program(-rank % world_size, number)  # rank 0 stays, the others change sides
        return joined(
            one,
            relabelled(other, lambda peer: -peer % world_size, lambda chunk: chunk + world_size),
        )

    return Schedule(
        "bidirectional-ring", "all-reduce", world_size, 2 * world_size, up.rounds, program
    )
