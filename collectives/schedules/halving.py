"""Recursive halving and doubling: log2 n rounds each way, and the least bytes.

Source: Rabenseifner, "Optimization of collective reduction operations" (2004). Where the number of
ranks is no power of two, pairs of them stand for one: the odd rank of a pair hands all that it has
to the even one first, and is handed the sum in the end.
"""

from functools import cache

from holdfast.collectives.schedule import Receive, Schedule, Send, Step


@cache
def halving_doubling_all_reduce(world_size: int) -> Schedule:
    """Every rank ends with the whole sum."""
    halvings = world_size.bit_length() - 1
    places = 1 << halvings
    pairs = world_size - places  # ranks 0 to 2 * pairs - 1 come in pairs

    def rank_at(place: int) -> int:
        return 2 * place if place < pairs else place + pairs

    def fold(rank: int, number: int) -> Step:
        """Return the step of a rank in the first round, or the last, where there are pairs."""
        if rank >= 2 * pairs:
            return Step(number)
        first, peer = number == 0, rank ^ 1
        send = Send(peer, 0, places)
        receive = Receive(peer, 0, reduce=first, whole=first and halvings == 0, run=places)
        sends = first == bool(rank % 2)
        return Step(number, (send,) if sends else (), () if sends else (receive,))

    def program(rank: int, number: int) -> Step:
        if pairs and number in (0, rounds - 1):
            return fold(rank, number)
        if rank < 2 * pairs and rank % 2:
            return Step(number)
        place = rank // 2 if rank < 2 * pairs else rank - pairs
        turn = number - bool(pairs)
        halving = turn < halvings
        level = turn if halving else 2 * halvings - 1 - turn
        size = places >> (level + 1)  # of what each of the two keeps, or has
        partner = place ^ size
        mine, other = place & -size, partner & -size
        peer = rank_at(partner)
        if halving:
            whole = turn == halvings - 1
            receive = Receive(peer, mine, reduce=True, whole=whole, run=size)
            return Step(number, (Send(peer, other, size),), (receive,))
        return Step(number, (Send(peer, mine, size),), (Receive(peer, other, run=size),))

    rounds = 2 * halvings + 2 * bool(pairs)
    return Schedule("halving-doubling", "all-reduce", world_size, places, rounds, program)
