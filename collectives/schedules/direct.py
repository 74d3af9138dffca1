"""Direct schedules: every rank sends to every other itself, in one round or two.

The fewest rounds there can be, for many messages at a time: for arrays that are small, or whose
elements are added up in a wider type than they travel in (one rank adds up a chunk as a whole).
"""

from functools import cache

from holdfast.collectives.schedule import (
    Receive,
    Schedule,
    Send,
    Step,
    in_turn,
    ring_reduction_order,
)


@cache
def direct_reduce_scatter(world_size: int) -> Schedule:
    """Every rank sends chunk j to rank j, which adds all up in the ring's order."""

    def program(rank: int, number: int) -> Step:
        # Rank c adds c + 1 first: rank r sends to r - 1 first.
        peers = ring_reduction_order(world_size, rank)[:-1]
        return Step(
            number,
            tuple(Send(peer, peer) for peer in reversed(peers)),
            tuple(Receive(peer, rank, reduce=True, whole=True) for peer in peers),
        )

    return Schedule(
        "direct", "reduce-scatter", world_size, world_size, min(1, world_size - 1), program
    )


@cache
def direct_all_gather(world_size: int) -> Schedule:
    """Rank r begins with chunk r and sends it to every other rank."""

    def program(rank: int, number: int) -> Step:
        peers = ring_reduction_order(world_size, rank)[:-1]
        return Step(
            number,
            tuple(Send(peer, rank) for peer in reversed(peers)),
            tuple(Receive(peer, peer) for peer in peers),
        )

    return Schedule("direct", "all-gather", world_size, world_size, min(1, world_size - 1), program)


@cache
def direct_all_reduce(world_size: int) -> Schedule:
    """Every rank ends with the whole sum, with the bits of a ring's, after two rounds."""
    return in_turn(
        "direct", "all-reduce", direct_reduce_scatter(world_size), direct_all_gather(world_size)
    )


@cache
def exchange_all_reduce(world_size: int, chunks: int = 1) -> Schedule:
    """Every rank sends all that it has to every other, and each adds all up: one round.

    The bits are a ring's with as many chunks as ranks; with one, those of a ring's last chunk.
    """

    def program(rank: int, number: int) -> Step:
        peers = ring_reduction_order(world_size, rank)[-2::-1]
        sends = (Send(peer, chunk) for peer in peers for chunk in range(chunks))
        receives = []
        for chunk in range(chunks):
            before = True
            for peer in ring_reduction_order(world_size, chunk + world_size - chunks):
                if peer == rank:
                    before = False
                else:
                    receives.append(Receive(peer, chunk, True, before, whole=True))
        return Step(number, tuple(sends), tuple(receives))

    return Schedule("exchange", "all-reduce", world_size, chunks, min(1, world_size - 1), program)


@cache
def direct_all_to_all(world_size: int) -> Schedule:
    """Rank r's chunk d becomes rank d's chunk n + r, pair by pair, after n - 1 rounds.

    A rank has 2n chunks: n that it sends, one to each rank, and n that it receives, one of each.
    """

    def program(rank: int, number: int) -> Step:
        target, source = (rank + number + 1) % world_size, (rank - number - 1) % world_size
        return Step(number, (Send(target, target),), (Receive(source, world_size + source),))

    return Schedule("direct", "all-to-all", world_size, 2 * world_size, world_size - 1, program)


@cache
def dissemination_barrier(world_size: int) -> Schedule:
    """Every rank has heard, by way of others, from every rank after ceil(log2 n) rounds.

    The one chunk's content means nothing. Source: Hensgen, Finkel and Manber, "Two algorithms for
    barrier synchronization" (1988).
    """

    def program(rank: int, number: int) -> Step:
        reach = 1 << number
        return Step(
            number,
            (Send((rank + reach) % world_size, 0),),
            (Receive((rank - reach) % world_size, 0),),
        )

    rounds = (world_size - 1).bit_length()
    return Schedule("dissemination", "barrier", world_size, 1, rounds, program)


@cache
def point_to_point(world_size: int, source: int, target: int) -> Schedule:
    """One rank's chunk goes to another."""

    def program(rank: int, number: int) -> Step:
        return Step(
            number,
            (Send(target, 0),) if rank == source else (),
            (Receive(source, 0),) if rank == target else (),
        )

    return Schedule("direct", "send", world_size, 1, 1, program)
