"""Schedules with a root: what begins or ends at one rank.

Source: the binomial broadcast after Thakur, Rabenseifner and Gropp, "Optimization of collective
communication operations in MPICH" (2005).
"""

from functools import cache

from holdfast.collectives.schedule import Receive, Schedule, Send, Step, in_turn
from holdfast.collectives.schedules.direct import direct_reduce_scatter
from holdfast.collectives.schedules.ring import ring_reduce_scatter


@cache
def binomial_broadcast(world_size: int, root: int = 0) -> Schedule:
    """Every rank ends with `root`'s one chunk after ceil(log2 n) rounds."""
    rounds = (world_size - 1).bit_length()

    def program(rank: int, number: int) -> Step:
        place = (rank - root) % world_size  # the root stands at place 0
        reach = 1 << number  # places below it have the chunk already
        if place < reach and place + reach < world_size:
            return Step(number, sends=(Send((rank + reach) % world_size, 0),))
        if reach <= place < 2 * reach:
            return Step(number, receives=(Receive((rank - reach) % world_size, 0),))
        return Step(number)

    return Schedule("binomial", "broadcast", world_size, 1, rounds, program)


@cache
def chain_broadcast(world_size: int, root: int = 0) -> Schedule:
    """Each rank hands `root`'s chunk to the next one, after n - 1 rounds.

    Segments are sent on as they come, so that a large chunk is everywhere soon after it has left.
    """

    def program(rank: int, number: int) -> Step:
        place = (rank - root) % world_size
        if place == number:
            return Step(number, sends=(Send((rank + 1) % world_size, 0),))
        if place == number + 1:
            return Step(number, receives=(Receive((rank - 1) % world_size, 0),))
        return Step(number)

    return Schedule("chain", "broadcast", world_size, 1, world_size - 1, program)


@cache
def direct_gather(world_size: int, root: int = 0) -> Schedule:
    """Rank r begins with chunk r; the root ends with all chunks, each of its rank."""

    def program(rank: int, number: int) -> Step:
        if rank != root:
            return Step(number, sends=(Send(root, rank),))
        return Step(
            number,
            receives=tuple(Receive(peer, peer) for peer in range(world_size) if peer != root),
        )

    return Schedule("direct", "gather", world_size, world_size, min(1, world_size - 1), program)


@cache
def direct_scatter(world_size: int, root: int = 0) -> Schedule:
    """The root begins with all chunks; rank r ends with chunk r."""

    def program(rank: int, number: int) -> Step:
        if rank != root:
            return Step(number, receives=(Receive(root, rank),))
        return Step(
            number, sends=tuple(Send(peer, peer) for peer in range(world_size) if peer != root)
        )

    return Schedule("direct", "scatter", world_size, world_size, min(1, world_size - 1), program)


@cache
def ring_reduce(world_size: int, root: int = 0) -> Schedule:
    """The root ends with the whole sum: a ring reduce-scatter, then each rank sends its chunk."""
    first = ring_reduce_scatter(world_size)
    return in_turn("ring", "reduce", first, direct_gather(world_size, root))


@cache
def direct_reduce(world_size: int, root: int = 0) -> Schedule:
    """The root ends with the whole sum, with the bits of a ring's, after two rounds."""
    first = direct_reduce_scatter(world_size)
    return in_turn("direct", "reduce", first, direct_gather(world_size, root))
