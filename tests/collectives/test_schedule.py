"""Every schedule is proved for every number of ranks from 1 to 128, and the proof can fail."""

import dataclasses
import itertools
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.collectives import cost, schedule
from holdfast.collectives.schedule import Receive, Schedule, Send, Step, ring_reduction_order
from holdfast.collectives.schedules import direct, proof, ring, rooted, tree, two_level
from holdfast.collectives.schedules.all_reduce import FAMILIES, all_reduce
from holdfast.errors import UsageError

EVERY = range(1, 129)
FEW = (*range(1, 21), 33)
SOME = (*range(1, 17), 31, 32, 33, 64, 127, 128)
IN_RING_ORDER = ("ring", "direct", "exchange", "exchange, a ring's chunks")

# All-reduces by any number of ranks; trees in several pieces too.
ALL_REDUCES = {
    **{name: partial(all_reduce, name, nbytes=0) for name in FAMILIES},
    "binary-tree, 5 pieces": lambda n: tree.binary_tree_all_reduce(n, 5),
    "exchange, a ring's chunks": lambda n: direct.exchange_all_reduce(n, n),
    "double-tree, 3 pieces": lambda n: tree.double_tree_all_reduce(n, 3),
}
# Others: the schedule and its proof.
OTHERS = {
    "ring-reduce-scatter": (ring.ring_reduce_scatter, proof.prove_reduce_scatter),
    "direct-reduce-scatter": (direct.direct_reduce_scatter, proof.prove_reduce_scatter),
    "ring-all-gather": (ring.ring_all_gather, proof.prove_all_gather),
    "direct-all-gather": (direct.direct_all_gather, proof.prove_all_gather),
    "direct-all-to-all": (direct.direct_all_to_all, proof.prove_all_to_all),
    "dissemination-barrier": (direct.dissemination_barrier, proof.prove_barrier),
}
ROOTED = {
    "binomial-broadcast": (rooted.binomial_broadcast, proof.prove_broadcast),
    "chain-broadcast": (rooted.chain_broadcast, proof.prove_broadcast),
    "direct-gather": (rooted.direct_gather, proof.prove_gather),
    "direct-scatter": (rooted.direct_scatter, proof.prove_scatter),
    "ring-reduce": (rooted.ring_reduce, proof.prove_reduce),
    "direct-reduce": (rooted.direct_reduce, proof.prove_reduce),
}


def ring_orders(size):
    return [ring_reduction_order(size, chunk) for chunk in range(size)]


def all_reduces(name, sizes):
    for size in sizes:
        orders = proof.prove_all_reduce(ALL_REDUCES[name](size))
        if name in IN_RING_ORDER:
            assert orders == ring_orders(size)[-len(orders) :]


def others(name, sizes):
    make, prove = OTHERS[name]
    for size in sizes:
        orders = prove(make(size))
        if name.endswith("reduce-scatter"):
            assert orders == ring_orders(size)


def rooted_ones(name, sizes):
    make, prove = ROOTED[name]
    for size in sizes:
        for root in range(size) if size < 10 else (0, 1, size // 2, size - 1):
            orders = prove(make(size, root), root)
            if name.endswith("-reduce"):
                assert orders == ring_orders(size)


@pytest.mark.parametrize("name", ALL_REDUCES)
def test_all_reduces_add_everything_once_in_one_order_everywhere(name):
    all_reduces(name, FEW if name == "exchange, a ring's chunks" else SOME)


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_move_everything_to_where_it_should_be(name):
    others(name, SOME)


@pytest.mark.parametrize("name", ROOTED)
def test_what_has_a_root_has_any(name):
    rooted_ones(name, SOME[:-3])


@pytest.mark.parametrize("local", range(1, 9))
def test_two_levels(local):
    for hosts in range(1, 17):
        proof.prove_all_reduce(two_level.two_level_all_reduce(hosts, local))


@pytest.mark.soak
@pytest.mark.parametrize("name", [*ALL_REDUCES, *OTHERS, *ROOTED])
def test_for_every_number_of_ranks(name):
    prove = all_reduces if name in ALL_REDUCES else others if name in OTHERS else rooted_ones
    prove(name, EVERY[:40] if name == "exchange, a ring's chunks" else EVERY)


@pytest.mark.parametrize("name", [*ALL_REDUCES, *OTHERS, *ROOTED])
def test_nothing_is_overwritten_that_may_still_have_to_be_sent(name):
    if name == "dissemination-barrier":
        return  # it says nothing, over and over
    for size in (*range(1, 10), 16):
        make = ALL_REDUCES.get(name) or {**OTHERS, **ROOTED}[name][0]
        proof.prove_in_place(make(size))
    for hosts, local in ((1, 4), (3, 1), (3, 4)):
        proof.prove_in_place(two_level.two_level_all_reduce(hosts, local))


@pytest.mark.parametrize("size", SOME)
def test_a_ring_moves_the_least_possible(size):
    """2 (n - 1) / n of the array through each rank, in each direction: the lower bound."""
    plan = ring.ring_all_reduce(size)
    sent = [sum(len(step.sends) for step in plan.steps(rank)) for rank in range(size)]
    assert sent == [2 * (size - 1)] * size


@pytest.mark.parametrize("size", range(1, 130))
def test_the_double_tree_loads_no_rank_more_than_another(size):
    """A rank has at most two children in both trees together, and trees are as flat as can be."""
    place, rank_at = tree._other_places(size)
    for rank in range(size):
        assert rank_at(place(rank)) == rank
        below = len(tree.children(size, rank)) + len(tree.children(size, place(rank)))
        assert below <= 2 + (size == 2)
        for child in tree.children(size, rank):
            assert tree.parent(size, child) == rank
    assert max(tree.depth(size, rank) for rank in range(size)) == (size - 1).bit_length()


def counted(plan):
    """Return the messages that follow each other and the bytes of 1 that the busiest rank moves."""
    ranks = range(plan.world_size)
    messages = sent = 0.0
    for number in range(plan.rounds):
        steps = [plan.program(rank, number) for rank in ranks]
        most = max(max(len(step.sends), len(step.receives)) for step in steps)
        messages += cost._together(most)
        sent += max(max(sum(t.run for t in side) for side in step[1:]) for step in steps)
    return messages, sent / plan.chunks


@pytest.mark.parametrize("name", [*FAMILIES, "two-level:2"])
def test_the_cost_model_knows_the_schedules(name):
    for size in (2, 4, 6, 8, 12, 16):
        nbytes = 1 << 20
        messages, wire, _ = cost.terms(name, size, nbytes)
        found, moved = counted(all_reduce(name, size, nbytes))
        if "tree" in name:  # where the model has a bound
            assert found <= messages <= 2 * found, size
            assert moved * nbytes <= wire <= 2 * moved * nbytes, size
        else:
            assert (messages, wire) == pytest.approx((found, moved * nbytes)), size


def altered(original, rank, number, change):
    def program(r, n):
        step = original.program(r, n)
        return change(step) if (r, n) == (rank, number) else step

    return dataclasses.replace(original, program=program)


@settings(deadline=None)
@given(size=st.integers(2, 12), name=st.sampled_from([*ALL_REDUCES]), data=st.data())
def test_the_proof_finds_any_one_altered_step(size, name, data):
    original = ALL_REDUCES[name](size)
    busy = [(r, step.round) for r in range(size) for step in original.steps(r) if step.receives]
    rank, number = data.draw(st.sampled_from(busy))
    changes = [
        lambda s: s._replace(receives=s.receives[1:]),
        lambda s: s._replace(receives=(first(s)._replace(peer=rank), *s.receives[1:])),
        lambda s: s._replace(
            receives=(first(s)._replace(reduce=not first(s).reduce), *s.receives[1:])
        ),
        lambda s: s._replace(sends=(*s.sends, Send((rank + 1) % size, 0))),
    ]
    if original.chunks > 1 and first(original.program(rank, number)).run == 1:
        other = lambda s: (first(s).chunk + 1) % original.chunks  # noqa: E731
        changes.append(
            lambda s: s._replace(receives=(first(s)._replace(chunk=other(s)), *s.receives[1:]))
        )
    if first(original.program(rank, number)).reduce:
        changes.append(
            lambda s: s._replace(receives=tuple(r._replace(whole=not r.whole) for r in s.receives))
        )
    change = data.draw(st.sampled_from(changes))
    with pytest.raises(proof.ScheduleError):
        proof.prove_all_reduce(altered(original, rank, number, change))


def first(step):
    return step.receives[0]


def two_ranks(*receives, send=0, rounds=1):
    return Schedule(
        *("test", "all-reduce", 2, 1, rounds),
        lambda r, n: Step(n, (Send(1 - r, send),), tuple(receive(r) for receive in receives)),
    )


def test_the_proof_finds_additions_that_differ():
    twice = two_ranks(lambda r: Receive(1 - r, 0, reduce=True, whole=True), rounds=2)
    with pytest.raises(proof.ScheduleError, match="expected once"):
        proof.prove_all_reduce(twice)
    sides = two_ranks(lambda r: Receive(1 - r, 0, reduce=True, whole=True))
    with pytest.raises(proof.ScheduleError, match="two orders"):  # 1 + 0 and 0 + 1
        proof.prove_all_reduce(sides)
    good = two_ranks(lambda r: Receive(1 - r, 0, reduce=True, before=r == 1, whole=True))
    assert proof.prove_all_reduce(good) == [(0, 1)]


def test_the_proof_finds_what_is_overwritten_too_early():
    swapped = two_ranks(lambda r: Receive(1 - r, 0))
    with pytest.raises(proof.ScheduleError, match="overwrites chunk 0"):
        proof.prove_in_place(swapped)
    summed = two_ranks(lambda r: Receive(1 - r, 0, reduce=True))
    proof.prove_in_place(summed)  # copies are sent


def test_expressions_are_written_for_people():
    symbols = proof.Symbols()
    a, b, c = map(symbols.contribution, range(3))
    left = symbols.sum(symbols.sum(b, c), a)
    assert symbols.text(left) == "((1+2)+0)"
    assert symbols.order(left) == (1, 2, 0)
    assert symbols.order(symbols.sum(a, symbols.sum(b, c))) is None
    assert symbols.sum(symbols.sum(b, c), a) == left


@pytest.mark.parametrize("name", ["rings", "two-level", "two-level:3", "two-level:0", "ring:2"])
def test_an_all_reduce_that_there_isn_t_is_refused(name):
    with pytest.raises(UsageError, match="two-level:RANKS"):
        all_reduce(name, 8, 100)
    with pytest.raises(UsageError, match="two-level:RANKS"):
        cost.terms(name, 8, 100)


@given(count=st.integers(0, 10_000), chunks=st.integers(1, 64))
def test_chunks_cover_the_array_evenly(count, chunks):
    bounds = schedule.chunk_bounds(count, chunks)
    assert len(bounds) == chunks + 1
    assert bounds[0] == 0
    assert bounds[-1] == count
    assert bounds == sorted(bounds)
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    assert max(sizes) - min(sizes) < 2 * schedule.CHUNK_ALIGNMENT + 1
    assert all(b % schedule.CHUNK_ALIGNMENT == 0 for b in bounds[:-1] if b != count)
